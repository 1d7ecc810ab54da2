"""The graph behind a choreography, as numbers: who reads whom, by which bit, and what each step may publish."""

from __future__ import annotations

from datetime import timedelta

import pytest
from planned import BEGUN, CHOOSE, JOIN, LAST, LEFT, kind, planned

from saga_choreo.core.graph import TO_SINK, plan_of
from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, Undo
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN

X, Y, DONE = EventRef("choose.x"), EventRef("choose.y"), EventRef("left.done")


def test_the_sink_is_no_event_number() -> None:
    assert TO_SINK == -1


def test_steps_are_numbered_by_name_and_the_origin_is_minus_one() -> None:
    assert [step.name for step in planned().steps] == ["choose", "join", "last", "left"]
    assert [step.index for step in planned().steps] == [CHOOSE, JOIN, LAST, LEFT] == [0, 1, 2, 3]
    assert (planned().number("left"), planned().number("origin"), planned().number("nobody")) == (LEFT, ORIGIN, None)
    assert planned().step(LEFT) is planned().steps[LEFT]
    assert planned().step(ORIGIN) is planned().origin
    assert planned().definition == planned().choreography.definition


def test_each_step_knows_its_edges_in_and_the_steps_around_it() -> None:
    around = {
        step.name: (step.in_edges, step.all_in, step.preds, step.succs, step.all_succ, step.is_last) for step in planned().steps
    }
    assert around == {
        "choose": (((ORIGIN, BEGUN),), 1, (ORIGIN,), (JOIN, LEFT), 3, False),
        "left": (((CHOOSE, X), (CHOOSE, Y)), 3, (CHOOSE,), (JOIN, LAST), 3, False),
        "join": (((CHOOSE, Y), (LEFT, DONE)), 3, (CHOOSE, LEFT), (ORIGIN,), 1, True),
        "last": (((LEFT, DONE),), 1, (LEFT,), (ORIGIN,), 1, True),
    }
    assert [step.needs_all for step in planned().steps] == [False, True, False, False]


def test_the_origin_is_source_and_sink_at_once() -> None:
    origin = planned().origin
    assert (origin.index, origin.name, origin.owner) == (ORIGIN, "origin", "")
    assert (origin.in_edges, origin.all_in, origin.preds) == (((JOIN, None), (LAST, None)), 3, (JOIN, LAST))
    assert (origin.succs, origin.all_succ, origin.outputs, origin.all_outputs) == ((CHOOSE,), 1, (BEGUN,), 1)
    assert (origin.split, origin.undo, origin.deadline_choice) == (Split.ALL, Undo.NONE, 0)
    assert (origin.is_last, origin.external, origin.optional, origin.needs_all) == (False, False, False, False)
    assert origin.may_veto


def test_a_bit_of_a_clear_mask_belongs_to_one_successor() -> None:
    assert planned().steps[CHOOSE].clear_bit(JOIN) == 1
    assert planned().steps[CHOOSE].clear_bit(LEFT) == 2
    assert planned().steps[LAST].clear_bit(ORIGIN) == 1


def test_each_published_event_lists_its_readers_with_the_bits_it_sets_there() -> None:
    assert planned().readers == {
        (ORIGIN, 0): ((CHOOSE, 1),),
        (CHOOSE, 0): ((LEFT, 1),),
        (CHOOSE, 1): ((JOIN, 1), (LEFT, 2)),
        (LEFT, 0): ((JOIN, 2), (LAST, 1)),
    }
    assert planned().reader_owners(LEFT, 0) == ("three", "two")
    assert planned().reader_owners(JOIN, 0) == ()


def test_an_owner_that_reads_an_event_twice_is_told_once() -> None:
    readers = (ChoreographyStep(name, "two", reads=(BEGUN,), undo=Undo.LOCAL) for name in "ab")
    plan = plan_of(Choreography("twice").starts_with(BEGUN).step(*readers))
    assert plan.reader_owners(ORIGIN, 0) == ("two",)
    assert plan.origin.succs == plan.origin.preds == (0, 1)


def test_owners_and_what_they_own_and_read() -> None:
    assert planned().owners == ("one", "three", "two")
    assert [step.name for step in planned().owned_by("two")] == ["last", "left"]
    assert planned().events_read_by("two") == ("choose.x", "choose.y", "left.done")
    assert planned().events_read_by("nobody") == ()


def test_an_event_has_a_number_at_the_step_that_publishes_it_and_none_elsewhere() -> None:
    assert planned().event_number(CHOOSE, Y) == 1
    assert planned().event_number(ORIGIN, BEGUN) == 0
    assert planned().event_number(LEFT, Y) is None


def test_what_is_published_is_a_mask_of_all_events_without_the_extra_one_of_a_deadline() -> None:
    assert [step.all_outputs for step in planned().steps] == [3, 1, 0, 1]
    assert [step.deadline_choice for step in planned().steps] == [0, 0, 0, 0]
    late, done = EventRef("b.late"), EventRef("b.done")
    extra = kind(deadline_event=late)
    assert (extra.outputs, extra.all_outputs, extra.deadline_choice) == ((done, late), 1, 2)
    among = kind(publishes=(done, late), split=Split.ONE, deadline_event=late)
    assert (among.outputs, among.all_outputs, among.deadline_choice, among.split) == ((done, late), 3, 2, Split.ONE)


def test_the_event_of_a_deadline_can_be_read_like_any_other() -> None:
    late = EventRef("a.late")
    steps = (
        ChoreographyStep("a", "one", reads=(BEGUN,), undo=Undo.LOCAL, deadline_event=late),
        ChoreographyStep("b", "two", reads=(late,), undo=Undo.LOCAL),
    )
    plan = plan_of(Choreography("late").starts_with(BEGUN).step(*steps))
    assert plan.readers[0, 0] == ((1, 1),)
    assert plan.steps[1].preds == (0,)


def test_an_event_of_two_publishers_is_one_edge_from_each() -> None:
    done = EventRef("order.paid")
    steps = (
        ChoreographyStep("a", "one", reads=(BEGUN,), publishes=(done,), undo=Undo.LOCAL),
        ChoreographyStep("b", "one", reads=(BEGUN,), publishes=(done,), undo=Undo.LOCAL),
        ChoreographyStep("c", "two", Join.ANY, (done,), undo=Undo.LOCAL),
    )
    plan = plan_of(Choreography("two-ways").starts_with(BEGUN).step(*steps))
    assert plan.steps[2].in_edges == ((0, done), (1, done))
    assert (plan.readers[0, 0], plan.readers[1, 0]) == (((2, 1),), ((2, 2),))


@pytest.mark.parametrize("name", ["external", "optional", "pivot"])
def test_a_step_is_of_the_kind_it_was_declared(name: str) -> None:
    assert getattr(kind(**{name: True}), name) is True
    assert getattr(kind(), name) is False


def test_a_step_may_veto_unless_it_is_retriable_and_is_undone_as_declared() -> None:
    assert kind().may_veto
    assert not kind(retriable=True).may_veto
    assert [kind(undo=undo).undo for undo in (Undo.NONE, Undo.LOCAL)] == [Undo.NONE, Undo.LOCAL]


def test_the_origin_knows_whether_there_is_a_pivot_anywhere() -> None:
    assert (planned().has_pivot, planned().origin.pivot) == (False, False)
    first = ChoreographyStep("a", "one", reads=(BEGUN,), undo=Undo.LOCAL)
    bound = plan_of(Choreography("bound").starts_with(BEGUN).step(first, ChoreographyStep("p", "one", reads=(BEGUN,), pivot=True)))
    assert (bound.has_pivot, bound.origin.pivot) == (True, True)


def test_what_has_no_graph_is_refused_with_what_is_missing() -> None:
    with pytest.raises(DefinitionError, match=r"'empty' has no start event"):
        plan_of(Choreography("empty"))
    lost = ChoreographyStep("a", "one", reads=(BEGUN, EventRef("order.lost")), undo=Undo.LOCAL)
    with pytest.raises(DefinitionError, match=r"step 'a' reads order.lost v1, which no step publishes"):
        plan_of(Choreography("torn").starts_with(BEGUN).step(lost))


def test_a_plan_is_made_once_and_keeps_the_deadline_it_was_asked_for() -> None:
    one = planned().choreography
    other = one.deadline(minutes=5)
    assert plan_of(one) is plan_of(one)
    assert plan_of(other).choreography.deadline_after == timedelta(minutes=5)
    assert plan_of(one).choreography.deadline_after is None


def test_a_good_end_tells_that_a_step_was_heard_only_where_others_must_have_read_all_that_it_says() -> None:
    def step(name: str, owner: str, reads: str, *publishes: str) -> ChoreographyStep:
        return ChoreographyStep(name).on_event(EventRef(reads)).publish_event(*map(EventRef, publishes)).owned_by(owner)

    form = Choreography("heard").starts_with(EventRef("all.begun"))
    form = form.step(
        step("read-by-another", "a", "all.begun", "a.one"),
        step("read-by-itself", "b", "a.one", "b.one"),
        step("half-read", "b", "b.one", "b.two", "b.unread"),
        step("last", "c", "b.two"),
        step("last-with-news", "c", "a.one", "c.unread"),
    )
    plan = plan_of(form)
    heard = {one.name: one.heard_at_end for one in plan.steps}
    assert heard == {
        "read-by-another": True,
        "read-by-itself": False,  # within one commit: nobody else has to have got it
        "half-read": False,
        "last": True,  # the origin has heard of it
        "last-with-news": False,
    }
    assert not plan.origin.heard_at_end
