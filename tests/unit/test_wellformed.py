"""Well-formedness: every fault is found, all at once, and a sound choreography has none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_choreo.core.graph import plan_of
from saga_choreo.core.wellformed import Finding, findings, require_wellformed
from saga_choreo.core.worlds import join_facts
from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, all_of, any_of, one_of


def event(name: str) -> str:
    return f"e.{name}"


def step(name: str, *reads: str, publishes: str = "", **kinds: bool) -> ChoreographyStep:
    """A step that can be undone, owned by its own service, reading all of the given events."""
    made = ChoreographyStep(name).owned_by("s").with_compensation().kind(**kinds)
    if reads:
        made = made.on_event(all_of(*map(event, reads)) if len(reads) > 1 else event(reads[0]))
    return made.publish_event(*map(event, publishes.split())) if publishes else made


def bare(name: str, *reads: str, publishes: str = "", **kinds: bool) -> ChoreographyStep:
    """The same, and it cannot be undone."""
    made = ChoreographyStep(name).owned_by("s").on_event(event(reads[0])).kind(**kinds)
    return made.publish_event(*map(event, publishes.split())) if publishes else made


def choreography(*steps: ChoreographyStep) -> Choreography:
    return Choreography("c").starts_with(event("start")).step(*steps)


def told(*steps: ChoreographyStep) -> list[tuple[str, str]]:
    return [(finding.code, finding.step) for finding in findings(choreography(*steps))]


def only(*steps: ChoreographyStep) -> str:
    [finding] = findings(choreography(*steps))
    return str(finding)


def choosing(name: str, read: str, *publishes: str) -> ChoreographyStep:
    return step(name, read).publish_event(*map(event, publishes), split=Split.ONE)


def test_sound_choreographies_have_no_findings() -> None:
    chain = (step("a", "start", publishes="a"), step("b", "a"))
    diamond = (
        step("a", "start", publishes="a"),
        step("b", "a", publishes="b"),
        step("c", "a", publishes="c"),
        step("d", "b", "c"),
    )
    pivot = (
        step("a", "start", publishes="a"),
        bare("p", "a", publishes="p", pivot=True),
        bare("q", "p", publishes="q", pivot=True, retriable=True),
        bare("z", "q", retriable=True),
    )
    exclusive = (
        choosing("a", "start", "left", "right"),
        step("l", "left", publishes="l"),
        step("r", "right", publishes="r"),
        step("j").on_event(one_of(event("l"), event("r"))),
        step("k").on_event(any_of(event("l"), event("start"))),
    )
    for steps in (chain, diamond, pivot, exclusive):
        assert told(*steps) == []
        require_wellformed(choreography(*steps))


def test_what_is_missing_is_found() -> None:
    assert [f.code for f in findings(Choreography("c"))] == ["ST1", "ST2"]
    ownerless = ChoreographyStep("a").on_event(event("start")).with_compensation()
    assert only(ownerless) == "WF1: step 'a' has no owner; add .owned_by(...)"
    assert only(step("a", "start"), step("b")) == "ST3: step 'b' reacts to nothing and would never run; add .on_event(...)"


def test_an_event_that_nobody_publishes_is_found_with_the_likely_reason() -> None:
    undone = step("a", "start", publishes="a").with_compensation(event("undone"))
    assert "waits for 'e.typo v1', which no step publishes" in only(step("a", "start"), step("b", "typo"))
    assert "published is e.a v1: correct the version" in only(undone, step("b").on_event(event("a"), 2))
    assert "is the event of the compensation of 'a'" in only(undone, step("b", "undone"))


def test_a_cycle_is_found_once_with_its_shortest_path() -> None:
    steps = (
        step("a", "start", "c", publishes="a"),
        step("b", "a", publishes="b"),
        step("c", "b", publishes="c"),
        step("d", "c"),
    )
    assert only(*steps).startswith("WF1: the steps form a cycle: a -> b -> c -> a;")
    assert "cycle: a -> a;" in only(step("a", "start", "a", publishes="a"))


def test_steps_that_the_start_does_not_reach_are_found() -> None:
    found = findings(choreography(step("a", "start"), step("x", "y", publishes="x"), step("y", "x", publishes="y")))
    assert [(f.code, f.step) for f in found] == [("WF1", "x"), ("WF1", "x"), ("WF1", "y")]
    assert "step 'y' cannot be reached from the start event: it waits for 'e.x v1'" in str(found[2])


def test_limits_are_found() -> None:
    many = [step(f"s{n}", "start", publishes=f"p{n}") for n in range(65)]
    found = findings(choreography(*many, step("join", *(f"p{n}" for n in range(65)))))
    assert [f.message.split(";")[0] for f in found] == [
        "the start and end of the saga has 65 successors and the limit is 64",
        "step 'join' has 65 in-edges and the limit is 64",
    ]
    chain = [step(f"s{n}", f"n{n - 1}" if n else "start", publishes=f"n{n}") for n in range(257)]
    assert only(*chain) == "WF1: there are 257 steps and the limit is 256; split the choreography"


def test_a_step_that_cannot_be_undone_is_found_with_the_run_that_needs_it() -> None:
    message = only(bare("a", "start", publishes="a"), step("b", "a"))
    assert message == (
        "WF2: step 'a' cannot be undone, and 'b' may refuse when it is done; give it a compensation, declare it read_only or the "
        "pivot"
    )
    assert "the saga may be cancelled when it is done" in only(bare("a", "start"))
    assert told(bare("a", "start", read_only=True)) == []


def test_a_step_after_or_beside_a_pivot_that_may_refuse_is_found() -> None:
    after = only(bare("p", "start", publishes="p", pivot=True), step("c", "p"))
    assert after == (
        "WF3: step 'p' is a pivot; 'c' after it may refuse, so 'p' could need an undo it does not have: declare 'c' retriable or "
        "move it before 'p'"
    )
    beside = only(step("r", "start", publishes="r"), bare("p", "r", pivot=True), step("d", "r"))
    assert "'d' beside it may refuse" in beside


def test_pivots_side_by_side_or_a_later_one_that_may_refuse_are_found() -> None:
    side = (bare("p", "start", pivot=True, retriable=True), bare("q", "start", pivot=True, retriable=True))
    assert only(*side).startswith("WF4: steps 'p' and 'q' are pivots side by side")
    later = (bare("p", "start", publishes="p", pivot=True), bare("q", "p", pivot=True))
    assert only(*later).startswith("WF4: step 'q' is a pivot after pivot 'p' and may refuse")


def test_a_step_after_only_one_of_two_pivots_needs_an_undo() -> None:
    pivots = bare("p", "start", publishes="p", pivot=True), bare("q", "p", pivot=True, retriable=True)
    said = only(*pivots, bare("beside", "p", retriable=True))
    assert "WF2: step 'beside' cannot be undone, and it does not come after every pivot, 'q' being another one" in said
    assert said.endswith("or move it after pivot 'q'")


def test_an_optional_pivot_is_found() -> None:
    assert only(bare("p", "start", pivot=True, optional=True)).startswith("WF6: step 'p' is an optional pivot")


def test_all_of_over_branches_that_exclude_each_other_is_found() -> None:
    steps = (
        choosing("pick", "start", "left", "right"),
        step("l", "left", publishes="l"),
        step("r", "right", publishes="r"),
    )
    message = only(*steps, step("j", "l", "r"))
    assert "step 'j' waits for all of 'e.l v1' of 'l', 'e.r v1' of 'r', and no run brings them all" in message
    assert "'pick' publishes only one of several events" in message


def test_one_of_over_branches_that_can_both_come_is_found_with_the_run() -> None:
    fork = (step("l", "start", publishes="l"), step("r", "start", publishes="r"))
    assert "and both come in every run" in only(*fork, step("j").on_event(one_of(event("l"), event("r"))))
    some = step("pick", "start").publish_event(event("left"), event("right"), split=Split.SOME)
    assert told(some, step("j").on_event(one_of(event("left"), event("right")))) == [("WF5", "j")]
    crossed = (
        choosing("pick", "start", "left", "right"),
        step("l").on_event(any_of(event("left"), event("right"))).publish_event(event("l")),
    )
    message = only(*crossed, step("j").on_event(one_of(event("l"), event("right"))))
    assert "both come when 'pick' publishes 'e.right'" in message


def test_the_event_of_a_deadline_excludes_the_result() -> None:
    late = step("a", "start", publishes="a b").on_deadline(event("late"))
    assert told(late, step("j").on_event(one_of(event("a"), event("late")))) == []
    assert told(late, step("j", "a", "late")) == [("WF5", "j")]
    assert told(late, step("j", "a", "b")) == []


def test_a_deadline_longer_than_the_horizon_or_shorter_than_the_time_outs_is_found() -> None:
    timed = choreography(step("a", "start", publishes="a"), step("b", "a"), step("c", "a")).deadline(minutes=1)
    timeouts = {"a": 40.0, "b": 30.0, "c": 5.0}
    assert findings(timed, {"a": 40.0, "b": 20.0}, timedelta(minutes=1)) == ()
    [short] = findings(timed, timeouts)
    assert "the time-outs of a -> b add up to 70 s, more than the deadline of 60 s" in short.message
    [long] = findings(timed, None, timedelta(seconds=59))
    assert (long.code, "longer than the horizon" in long.message) == ("WF7", True)


def test_all_faults_are_reported_at_once() -> None:
    bad = choreography(
        bare("a", "start", publishes="a"),
        step("b", "nothing"),
        bare("p", "a", pivot=True, optional=True),
        step("x", "x", publishes="x"),
    )
    with pytest.raises(DefinitionError) as caught:
        require_wellformed(bad)
    assert {finding.split(":")[0] for finding in caught.value.findings} >= {"ST3", "WF1", "WF3", "WF6"}
    assert str(caught.value).count("\n  - ") == len(caught.value.findings)


@st.composite
def drawn(draw: st.DrawFn) -> Choreography:
    """Any small choreography whose steps read earlier events (now and then a later one), well-formed or not."""
    count = draw(st.integers(1, 6))
    published = ["start"]
    steps: list[ChoreographyStep] = []
    for number in range(count):
        reads = draw(st.lists(st.sampled_from([*published, f"{count - 1}x"]), min_size=1, max_size=3, unique=True))
        names = [f"{number}{branch}" for branch in "xyz"[: draw(st.integers(0, 3))]]
        join = draw(st.sampled_from([all_of, any_of, one_of]))
        made = (
            ChoreographyStep(f"s{number}")
            .owned_by("s")
            .on_event(join(*(f"e.v{name}" if name != "start" else "e.start" for name in reads)))
        )
        made = made.publish_event(*(f"e.v{name}" for name in names), split=draw(st.sampled_from(Split)))
        flags = {kind: draw(st.booleans()) for kind in ("pivot", "retriable", "optional", "read_only")}
        made = made.kind(**flags)
        steps.append(made.with_compensation() if draw(st.booleans()) else made)
        published += names
    return choreography(*steps)


@given(drawn())
@settings(max_examples=200, deadline=None)
def test_any_choreography_gets_an_answer_with_known_codes(any_choreography: Choreography) -> None:
    found = findings(any_choreography)
    assert all(isinstance(f, Finding) and f.code in {"ST3", "WF1", "WF2", "WF3", "WF4", "WF5", "WF6"} for f in found)
    assert list(found) == sorted(set(found))


def runs_by_enumeration(any_choreography: Choreography) -> dict[int, tuple[bool, bool]]:
    """The same facts the slow way: every answer of every step, in every combination (all_possible, two together)."""
    plan = plan_of(any_choreography)
    seen = {s.index: [False, False] for s in plan.steps}

    def go_on(number: int, done: frozenset[tuple[int, int]]) -> None:
        if number == len(plan.steps):
            return None
        this = plan.steps[number]
        came = [edge in done for edge in ((source, plan.event_number(source, ref)) for source, ref in this.in_edges if ref)]
        seen[number][0] |= all(came)
        seen[number][1] |= sum(came) > 1
        if not (all(came) if this.needs_all else any(came)):
            return go_on(number + 1, done)
        outputs = range(len(this.outputs))
        masks = range(1, 1 << len(outputs)) if this.split is Split.SOME else [1 << o for o in outputs]
        for mask in [this.all_outputs] if this.split is Split.ALL or not outputs else masks:
            go_on(number + 1, done | {(number, o) for o in outputs if mask >> o & 1})
        return None

    go_on(0, frozenset({(-1, 0)}))
    return {index: (facts[0], facts[1]) for index, facts in seen.items()}


@given(drawn())
@settings(max_examples=150, deadline=None)
def test_joins_are_judged_as_by_trying_every_run(any_choreography: Choreography) -> None:
    if any(f.code in ("ST3", "WF1") for f in findings(any_choreography)):
        return
    plan = plan_of(any_choreography)
    facts = join_facts(plan, range(len(plan.steps)))
    assert facts is not None
    assert {i: (f.all_possible, f.together is not None) for i, f in facts.items()} == runs_by_enumeration(any_choreography)
    assert all(Join(s.join) in Join for s in any_choreography.steps)


def test_many_open_choices_are_not_judged_rather_than_never_answered() -> None:
    picks = [choosing(f"p{n}", "start", f"l{n}", f"r{n}") for n in range(20)]
    ends = [step("lefts", *(f"l{n}" for n in range(20))), step("rights", *(f"r{n}" for n in range(20)))]
    assert told(*picks, *ends) == []


def message(code: str, *steps: ChoreographyStep) -> str:
    [found] = [str(finding) for finding in findings(choreography(*steps)) if finding.code == code]
    return found


def test_pivots_in_a_row_are_sound_whatever_their_names() -> None:
    assert told(bare("z", "start", publishes="z", pivot=True), bare("a", "z", pivot=True, retriable=True)) == []


def test_a_run_that_needs_the_undo_is_told_with_the_step_that_refuses_in_it() -> None:
    # A step that must not refuse is no reason, and neither is one beside it: without a pivot anything may be cancelled.
    assert "the saga may be cancelled" in only(bare("a", "start", publishes="a"), step("b", "a", retriable=True))
    assert "the saga may be cancelled" in only(bare("a", "start"), step("z", "start"))
    after = message("WF2", step("a", "start"), bare("b", "start", publishes="b"), bare("p", "b", pivot=True))
    assert "'p' may refuse when it is done" in after


def test_beside_a_pivot_it_is_the_pivot_or_another_step_that_may_refuse() -> None:
    beside = message(
        "WF2",
        step("a", "start", publishes="a"),
        step("m", "start", retriable=True),
        bare("n", "a"),
        bare("p", "a", pivot=True),
    )
    assert "step 'n' cannot be undone, and 'p' may refuse when it is done" in beside
    assert beside.endswith("declare it read_only or the pivot, or move it after pivot 'p'")


def test_a_step_behind_a_join_that_never_runs_is_not_blamed_for_it() -> None:
    steps = (choosing("pick", "start", "left", "right"), step("j", "left", "right", publishes="j"))
    behind = step("k").on_event(all_of(event("j"), event("j")))
    assert told(*steps, behind) == [("WF5", "j")]
    assert told(*steps, step("k", "j")) == [("WF5", "j")]


def test_only_choices_on_the_way_to_a_join_are_named_as_its_reason() -> None:
    steps = (choosing("pick", "start", "left", "right"), choosing("aside", "start", "here", "there"))
    assert "('pick' publishes only one" in only(*steps, step("j", "left", "right"))


def test_a_join_with_a_step_that_cannot_run_is_found_without_a_choice_to_blame() -> None:
    lost = step("a").on_event(any_of(event("lost"), event("gone"))).publish_event(event("a"))
    found = message("WF5", lost, step("b", "start", publishes="b"), step("j", "a", "b"))
    assert "no run brings them all, so it can never run" in found


def test_without_a_start_event_nothing_is_called_unreachable_or_impossible_for_want_of_it() -> None:
    steps = (step("a", "lost", publishes="a"), step("b", "gone", publishes="b"), step("j", "a", "b"))
    assert [f.code for f in findings(Choreography("c").step(*steps))] == ["ST1", "ST3", "ST3"]


def test_an_event_without_any_publisher_is_to_be_corrected_by_name() -> None:
    assert only(step("a", "start"), step("b", "typo")).endswith("; correct the name or add the step that publishes it")


def test_what_just_keeps_the_limits_is_sound() -> None:
    many = [step(f"s{n}", "start", publishes=f"p{n}") for n in range(64)]
    assert told(*many, step("join", *(f"p{n}" for n in range(64)))) == []
    assert told(*(step(f"s{n}", f"n{n - 1}" if n else "start", publishes=f"n{n}") for n in range(256))) == []


def test_too_many_events_of_one_step_are_found() -> None:
    assert "step 'a' has 65 events" in only(step("a", "start", publishes=" ".join(f"p{n}" for n in range(65))))


def test_each_knot_is_found_and_no_step_that_only_leads_to_one_or_away() -> None:
    steps = (
        step("a", "start", "b", publishes="a"),
        step("b", "a", publishes="b"),
        step("c", "a", "d", publishes="c"),
        step("d", "c", publishes="d"),
        step("e", "d"),
    )
    found = [str(finding).split(":")[2] for finding in findings(choreography(*steps))]
    assert [text.split(";")[0] for text in found] == [" a -> b -> a", " c -> d -> c"]


def test_the_first_step_by_name_is_found_too_when_the_start_does_not_reach_it() -> None:
    assert ("WF1", "a") in told(step("a", "b", publishes="a"), step("b", "a", publishes="b"), step("z", "start"))
    reason = [
        f.message for f in findings(choreography(step("a", "b", publishes="a"), step("b", "a", publishes="b"), step("z", "start")))
    ]
    assert any(text.startswith("step 'a' cannot be reached") for text in reason)


def test_a_deadline_is_checked_as_far_as_it_can_be() -> None:
    knot = choreography(step("a", "start", "b", publishes="a"), step("b", "a", publishes="b")).deadline(minutes=1)
    assert [f.code for f in findings(knot, {"a": 600.0})] == ["WF1"]
    assert [f.code for f in findings(Choreography("c").starts_with(event("start")).deadline(minutes=1))] == ["ST2"]


def test_a_name_that_is_there_twice_is_found_however_the_choreography_was_made() -> None:
    one, other = step("a", "start"), step("b", "start")
    assert findings(replace(choreography(one), steps=(one, one, other)))[0].message.startswith("step 'a' is there twice")


def test_a_knot_that_leads_to_one_with_an_earlier_name_is_found_as_well() -> None:
    steps = (
        step("a", "b", "c", publishes="a"),
        step("b", "a", publishes="b"),
        step("c", "start", "d", publishes="c"),
        step("d", "c", publishes="d"),
    )
    assert told(*steps) == [("WF1", "a"), ("WF1", "c")]
