"""The transition table by itself: properties that hold for any row and any fact, reachable or not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_choreo.core.emissions import Message, emissions
from saga_choreo.core.facts import (
    AbortCame,
    CancelCame,
    CancelRequested,
    Claimed,
    ClearCame,
    Completed,
    CompletionDeclined,
    DeadlinePassed,
    Declined,
    DoneCame,
    Fact,
    Failed,
    OutcomeCame,
    Refusal,
    Resolved,
    SkipCame,
    Started,
    Succeeded,
    UndoFailed,
    Undone,
    WentPending,
)
from saga_choreo.core.graph import Plan, StepPlan, plan_of
from saga_choreo.core.origin import cancel_before_start, opened
from saga_choreo.core.resolutions import possible
from saga_choreo.core.rows import FINAL_ORIGIN, is_finished
from saga_choreo.core.stale import stale_answer
from saga_choreo.core.transitions import TABLE, transition
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, Undo
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN, Row
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State

STEP_STATES = [State.WAITING, State.RUNNING, State.DONE, State.TOMB, State.SKIPPED]
STEP_STATES += [State.SKIPPED_CLEARED, State.COMPENSATING, State.COMPENSATED]
ORIGIN_STATES = [State.OPEN, State.COMPLETED, State.ABORTING, State.ABORTED, State.REFUSED]
ABSORBING = [State.TOMB, State.SKIPPED_CLEARED, State.COMPENSATED]
EVENTS = {name: EventRef(f"{name}.done") for name in "abcd"}


def _plan(**middle: object) -> Plan:
    """a chooses; b is of the kind to be tried; c and d join."""
    fields: dict[str, object] = {"undo": Undo.LOCAL, **middle}
    steps = (
        ChoreographyStep(
            "a", "one", reads=(EventRef("saga.begun"),), publishes=(EventRef("a.x"), EventRef("a.y")), split=Split.SOME
        ),
        ChoreographyStep(
            "b",
            "two",
            reads=(EventRef("a.x"), EventRef("a.y")),
            publishes=(EVENTS["b"],),
            **fields,  # type: ignore[arg-type]  # literals below
        ),
        ChoreographyStep("c", "three", Join.ALL, (EventRef("a.y"), EVENTS["b"]), publishes=(EVENTS["c"],), undo=Undo.EXTERNAL),
        ChoreographyStep("d", "two", reads=(EVENTS["b"],), publishes=(EVENTS["d"],), undo=Undo.LOCAL),
    )
    return plan_of(Choreography("tried").starts_with("saga.begun").step(*steps))


PLANS = [
    _plan(),
    _plan(external=True, undo=Undo.EXTERNAL),
    _plan(external=True, undo=Undo.EXTERNAL, deadline_event=EventRef("b.late")),
    _plan(optional=True),
    _plan(retriable=True, external=True, undo=Undo.NONE),
    _plan(join=Join.ALL, undo=Undo.NONE, read_only=True),
    _plan(pivot=True, undo=Undo.NONE),
]

plans = st.sampled_from(PLANS)
steps = st.integers(0, 3)
masks = st.integers(0, 3)
attempts = st.integers(0, 1)
causes = st.sampled_from(list(Cause))
flags = st.booleans()
messages_facts = st.one_of(
    st.builds(DoneCame, masks),
    st.builds(SkipCame, masks),
    st.builds(ClearCame, st.sampled_from([1, 2]), flags),
    st.builds(AbortCame, causes),
    st.builds(CancelCame, causes),
    st.just(CancelRequested()),
    st.builds(OutcomeCame, st.sampled_from([Outcome.COMPLETED, Outcome.ABORTED, Outcome.FAILED]), causes),
)
own_facts = st.one_of(
    st.just(Started()),
    st.builds(DeadlinePassed, flags),
    st.just(Claimed()),
    st.builds(Succeeded, attempts, st.just(1)),
    st.builds(Declined, attempts, flags),
    st.builds(Failed, attempts, flags, flags),
    st.builds(WentPending, attempts),
    st.builds(Completed, masks, st.just(1)),
    st.builds(CompletionDeclined, masks),
    st.builds(Undone, attempts),
    st.builds(UndoFailed, attempts, flags, flags, flags),
    st.builds(
        Resolved, st.sampled_from(["retry", "waive", "take", "done", "give_back", "fail", "else"]), st.sampled_from(["", "ann"])
    ),
)
facts = st.one_of(messages_facts, own_facts)


# What may stand beside each state: no rule makes a person hold anything but a waiting step, for example, and an ABORT makes a
# tombstone of any other waiting step.
PARKED = {
    State.WAITING: [Parked.NO, Parked.PARKED, Parked.HUMAN],
    State.RUNNING: [Parked.NO, Parked.PARKED],
    State.COMPENSATING: [Parked.NO, Parked.PARKED, Parked.PASSED],
}


@st.composite
def rows(draw: st.DrawFn, states: list[State]) -> Row:
    state = draw(st.sampled_from(states))
    parked = draw(st.sampled_from(PARKED.get(state, [Parked.NO])))
    bits = draw(st.integers(0, 255))
    # An abort leaves a waiting step only in a person's hands, and a successor is clear only because of an abort.
    abort = (state is not State.WAITING or parked is Parked.HUMAN) and draw(flags)
    done_in = bits & 3
    return Row(
        state=state,
        parked=parked,
        pending=state is State.RUNNING and parked is Parked.NO and draw(flags),
        abort=abort,
        vetoer=state is State.TOMB and draw(flags),
        debt=draw(flags),
        key_no=draw(attempts),
        done_in=done_in,
        skip_in=bits >> 2 & 3 & ~done_in,
        clear_in=bits >> 4 & 3 if abort else 0,
        choice=bits >> 6,
        cancel=draw(st.sampled_from(list(Cancel))),
        cause=draw(causes),
        attempt=draw(attempts),
        outcome=draw(st.sampled_from(list(Outcome))),
        operator="ann" if parked is Parked.HUMAN else "",
    )


step_rows = rows(STEP_STATES)


@given(plans, steps, step_rows, facts)
@settings(max_examples=600)
def test_a_transition_lands_in_a_state_that_its_rule_declares(plan: Plan, step: int, row: Row, fact: Fact) -> None:
    after = transition(row, fact, plan.steps[step])
    if isinstance(after, Row) and after is not row:
        assert after.state in TABLE[row.state, type(fact)].to
    if (row.state, type(fact)) not in TABLE:
        assert after is row


@given(plans, step_rows, facts)
@settings(max_examples=300)
def test_a_transition_of_the_origin_lands_in_a_state_that_its_rule_declares(plan: Plan, row: Row, fact: Fact) -> None:
    for state in ORIGIN_STATES:
        before = row._replace(state=state, choice=1)
        after = transition(before, fact, plan.origin)
        if isinstance(after, Row) and after is not before:
            assert after.state in TABLE[state, type(fact)].to


@given(plans, steps, step_rows, facts)
@settings(max_examples=400)
def test_what_a_record_has_heard_is_never_unheard(plan: Plan, step: int, row: Row, fact: Fact) -> None:
    after = transition(row, fact, plan.steps[step])
    if isinstance(after, Row):
        assert after.done_in & row.done_in == row.done_in
        assert after.skip_in & row.skip_in == row.skip_in
        assert after.clear_in & row.clear_in == row.clear_in
        assert after.done_in & after.skip_in == 0
        assert after.abort >= row.abort
        assert after.debt >= row.debt
        assert row.outcome is Outcome.OPEN or after.outcome is row.outcome


@given(plans, steps, step_rows, messages_facts)
@settings(max_examples=400)
def test_a_message_applied_twice_is_a_message_applied_once(plan: Plan, step: int, row: Row, fact: Fact) -> None:
    once = transition(row, fact, plan.steps[step])
    if isinstance(once, Row):
        assert transition(once, fact, plan.steps[step]) is once


@given(plans, steps, rows(ABSORBING), facts)
@settings(max_examples=300)
def test_a_tombstone_and_a_closed_undo_absorb_everything(plan: Plan, step: int, row: Row, fact: Fact) -> None:
    after = transition(row, fact, plan.steps[step])
    if isinstance(after, Row):
        changed = {name for name in Row._fields if getattr(after, name) != getattr(row, name)}
        assert changed <= {"outcome", "cause", "cancel"}


@given(plans, step_rows, facts)
@settings(max_examples=300)
def test_a_decided_saga_stays_decided(plan: Plan, row: Row, fact: Fact) -> None:
    for state in FINAL_ORIGIN:
        before = row._replace(state=state)
        assert transition(before, fact, plan.origin) == before or isinstance(transition(before, fact, plan.origin), Refusal)


@given(plans, steps, step_rows, facts)
@settings(max_examples=600)
def test_an_event_that_was_published_is_implied_for_ever(plan: Plan, step: int, row: Row, fact: Fact) -> None:
    """Events are facts for readers without an agent: neither an undo nor an outcome unsays them."""
    after = transition(row, fact, plan.steps[step])
    if isinstance(after, Row):
        before = {m for m in emissions(row, plan.steps[step], plan) if m.kind is MessageKind.DONE and m.event >= 0}
        assert before <= set(emissions(after, plan.steps[step], plan))


@given(plans, steps, step_rows, facts)
@settings(max_examples=300)
def test_a_step_that_is_clear_stays_clear(plan: Plan, step: int, row: Row, fact: Fact) -> None:
    after = transition(row, fact, plan.steps[step])
    if isinstance(after, Row) and row.state in ABSORBING:
        clear = {m for m in emissions(row, plan.steps[step], plan) if m.kind is MessageKind.CLEAR}
        assert clear <= set(emissions(after, plan.steps[step], plan))


def test_a_waiting_step_has_said_nothing() -> None:
    for plan in PLANS:
        assert [emissions(Row(), step, plan) for step in plan.steps] == [()] * len(plan.steps)


def test_a_refusal_tells_every_owner_and_the_origin_and_clears_the_predecessors() -> None:
    plan = PLANS[0]
    row = transition(Row(done_in=3), Declined(0), plan.steps[1])
    assert isinstance(row, Row)
    assert row.state is State.TOMB
    told = [(m.kind, m.service) for m in emissions(row, plan.steps[1], plan)]
    assert told == [(MessageKind.ABORT, name) for name in ("one", "three", "two", "origin")] + [(MessageKind.CLEAR, "one")]


@pytest.mark.parametrize("verb", ["done", "fail", "give_back"])
def test_a_waiting_step_that_nobody_took_over_cannot_be_settled_by_hand(verb: str) -> None:
    answer = transition(Row(parked=Parked.PARKED, done_in=3), Resolved(verb, "ann"), PLANS[0].steps[1])
    assert isinstance(answer, Refusal)
    assert "possible: retry, waive, take" in answer.reason


def test_only_the_person_who_took_a_step_over_can_finish_it() -> None:
    held = Row(parked=Parked.HUMAN, operator="ann", done_in=3)
    assert isinstance(transition(held, Resolved("done", "bob", 1), PLANS[0].steps[1]), Refusal)
    done = transition(held, Resolved("done", "ann", 1), PLANS[0].steps[1])
    assert isinstance(done, Row)
    assert (done.state, done.operator) == (State.DONE, "")


def test_an_outcome_that_contradicts_a_record_is_an_alarm_and_changes_nothing() -> None:
    for state, outcome in ((State.DONE, Outcome.ABORTED), (State.TOMB, Outcome.COMPLETED), (State.WAITING, Outcome.COMPLETED)):
        answer = transition(Row(state=state, done_in=3), OutcomeCame(outcome), PLANS[0].steps[1])
        assert isinstance(answer, Refusal)
        assert answer.alarm


def test_an_outcome_that_overtakes_the_abort_leaves_a_finished_tombstone() -> None:
    row = transition(Row(), OutcomeCame(Outcome.ABORTED, Cause.REFUSED), PLANS[0].steps[1])
    assert isinstance(row, Row)
    assert row.state is State.TOMB
    assert is_finished(row)


def test_a_cancel_that_overtook_the_start_refuses_it() -> None:
    assert isinstance(transition(cancel_before_start(), Started(), PLANS[0].origin), Refusal)
    assert transition(opened(), Started(), PLANS[0].origin) == opened()


def test_an_inherited_debt_does_not_make_a_parked_undo_say_clear() -> None:
    plan = PLANS[0]
    undoing = Row(state=State.COMPENSATING, abort=True, debt=True, clear_in=3, choice=1)
    waits = transition(undoing, UndoFailed(0, exhausted=True), plan.steps[1])
    passed = transition(undoing, UndoFailed(0, exhausted=True, go_on=True), plan.steps[1])
    assert isinstance(waits, Row)
    assert isinstance(passed, Row)
    assert [m.kind for m in emissions(waits, plan.steps[1], plan)] == [MessageKind.DONE]
    assert [m.kind for m in emissions(passed, plan.steps[1], plan)] == [MessageKind.DONE, MessageKind.CLEAR]


def test_stale_vetoes_are_answered_and_stale_events_are_quarantined() -> None:
    plan = PLANS[0]
    clear = (Message(MessageKind.CLEAR, 3, "two", target=1),)
    assert stale_answer(Message(MessageKind.ABORT, 0, "two"), 3, plan) == clear
    assert stale_answer(Message(MessageKind.CLEAR, ORIGIN, "two", target=3), 3, plan) == clear
    at_origin = stale_answer(Message(MessageKind.ABORT, 0, "origin"), ORIGIN, plan)
    assert at_origin is not None
    assert [(m.kind, m.outcome) for m in at_origin] == [(MessageKind.OUTCOME, Outcome.ABORTED)]
    for kind in (MessageKind.DONE, MessageKind.SKIP, MessageKind.CANCEL, MessageKind.CANCEL_REQUEST):
        assert stale_answer(Message(kind, 0, "two"), 1, plan) is None


def test_the_cause_of_an_abort_is_known_though_a_clear_came_first() -> None:
    """A step's deadline passes: its CLEAR overtakes its ABORT on the way to the origin."""
    origin = PLANS[0].origin
    two = plan_of(
        Choreography("two")
        .starts_with("saga.begun")
        .step(*(ChoreographyStep(name, "one", reads=(EventRef("saga.begun"),), publishes=(EVENTS[name],)) for name in "ab"))
    ).origin
    heard = transition(opened(), ClearCame(1), two)
    assert isinstance(heard, Row)
    told = transition(heard, AbortCame(Cause.TIMED_OUT), two)
    assert isinstance(told, Row)
    assert transition(told, AbortCame(Cause.REFUSED), two) is told
    over = transition(told, ClearCame(2), two)
    assert isinstance(over, Row)
    assert (over.state, over.cause) == (State.ABORTED, Cause.TIMED_OUT)
    without = transition(opened(), ClearCame(1), origin)
    assert isinstance(without, Row)
    assert (without.state, without.cause) == (State.ABORTED, Cause.REFUSED)


def _ready(step: StepPlan, **fields: object) -> Row:
    return Row(done_in=step.all_in, **fields)  # type: ignore[arg-type]  # fields of Row


def test_a_steps_own_deadline_takes_its_branch_also_when_it_is_parked_but_not_from_a_persons_hands() -> None:
    step = _plan(deadline_event=EventRef("b.late")).steps[1]
    late = DeadlinePassed(own=True)
    for parked in (Parked.NO, Parked.PARKED):
        after = transition(_ready(step, parked=parked), late, step)
        assert after == _ready(step, state=State.DONE, choice=step.deadline_choice)
    held = _ready(step, parked=Parked.HUMAN, operator="ana")
    assert transition(held, late, step) is held
    unresolved = Row()
    assert transition(unresolved, late, step) is unresolved


def test_an_own_deadline_without_an_event_is_a_refusal_of_a_step_that_may_refuse() -> None:
    late = DeadlinePassed(own=True)
    for kinds, state in (({}, State.TOMB), ({"optional": True}, State.SKIPPED), ({"retriable": True}, State.WAITING)):
        step = _plan(**kinds).steps[1]
        after = transition(_ready(step), late, step)
        assert isinstance(after, Row)
        assert (after.state, after.vetoer) == (state, state is State.TOMB)
        assert after.cause is (Cause.TIMED_OUT if state is State.TOMB else Cause.NONE)


@given(rows(STEP_STATES), st.sampled_from(["retry", "take", "give_back", "done", "fail", "waive"]))
def test_what_is_possible_is_just_what_is_not_refused(row: Row, verb: str) -> None:
    step = _plan().steps[1]
    said = Resolved(verb, row.operator or "ana", 1)
    if row.parked is not Parked.NO and row.parked is not Parked.HUMAN:
        row = row._replace(operator="")
    assert isinstance(transition(row, said, step), Row) is (verb in possible(row, step))
