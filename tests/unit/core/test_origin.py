"""The origin's row: when a saga is complete, stopped, aborted; and which cause is told in the end."""

from __future__ import annotations

import pytest
from planned import PLAN, accepted, refusal

from saga_choreo.core.emissions import Message, emissions
from saga_choreo.core.facts import AbortCame, CancelRequested, ClearCame, DeadlinePassed, DoneCame, Fact, SkipCame, Started
from saga_choreo.core.graph import StepPlan, plan_of
from saga_choreo.core.origin import cancel_before_start, opened
from saga_choreo.core.transitions import transition
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Undo
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN, Row
from saga_choreo.model.states import Cancel, Cause, Outcome, State

BEGUN = EventRef("saga.begun")


def _two(*, pivot: bool) -> StepPlan:
    """The origin of a saga with two steps, each of them first and last at once."""
    steps = (
        ChoreographyStep("a", "one", reads=(BEGUN,), undo=Undo.LOCAL),
        ChoreographyStep("b", "two", reads=(BEGUN,), pivot=pivot),
    )
    return plan_of(Choreography("two").starts_with(BEGUN).step(*steps)).origin


FREE, BOUND = _two(pivot=False), _two(pivot=True)
STOPS: list[tuple[Fact, Cause]] = [(CancelRequested(), Cause.CANCELLED), (DeadlinePassed(), Cause.TIMED_OUT)]


def test_a_started_saga_is_open_and_has_published_its_start_event() -> None:
    assert opened() == Row(state=State.OPEN, choice=1)
    assert emissions(opened(), PLAN.origin, PLAN) == (Message(MessageKind.DONE, ORIGIN, event=0),)
    assert transition(opened(), Started(), FREE) == opened()


def test_a_saga_cancelled_before_its_start_has_ended_as_cancelled() -> None:
    row = cancel_before_start()
    assert row == Row(state=State.REFUSED, abort=True, cause=Cause.CANCELLED, outcome=Outcome.ABORTED)
    assert not refusal(row, Started(), FREE).alarm


@pytest.mark.parametrize("last", [DoneCame(2), SkipCame(2)])
def test_a_saga_is_complete_when_every_last_step_is_done_or_skipped(last: Fact) -> None:
    half = accepted(opened(), DoneCame(1), FREE)
    assert half == opened()._replace(done_in=1)
    whole = accepted(half, last, FREE)
    assert (whole.state, whole.outcome, whole.done_in | whole.skip_in) == (State.COMPLETED, Outcome.COMPLETED, 3)
    assert whole.skip_in == (2 if isinstance(last, SkipCame) else 0)


@pytest.mark.parametrize("second", [DoneCame(1), SkipCame(1), DoneCame(4)])
@pytest.mark.parametrize("first", [DoneCame(1), SkipCame(1)])
def test_what_a_last_step_said_first_stays_and_a_strange_edge_counts_nothing(first: Fact, second: Fact) -> None:
    heard = accepted(opened(), first, FREE)
    assert transition(heard, second, FREE) is heard


@pytest.mark.parametrize(("fact", "cause"), STOPS)
def test_a_definition_without_a_pivot_is_aborted_by_its_origin_at_once(fact: Fact, cause: Cause) -> None:
    assert accepted(opened(), fact, FREE) == Row(state=State.ABORTING, choice=1, abort=True, vetoer=True, cause=cause)


@pytest.mark.parametrize(("fact", "cause"), STOPS)
def test_a_definition_with_a_pivot_is_only_asked_to_stop_and_only_once(fact: Fact, cause: Cause) -> None:
    asked = accepted(opened(), fact, BOUND)
    assert asked == Row(state=State.OPEN, choice=1, cancel=Cancel.ASKED, cause=cause)
    for later, _ in STOPS:
        assert transition(asked, later, BOUND) is asked


@pytest.mark.parametrize("origin", [FREE, BOUND])
def test_a_stop_keeps_the_cause_that_was_told_first(origin: StepPlan) -> None:
    assert accepted(opened()._replace(cause=Cause.REFUSED), CancelRequested(), origin).cause is Cause.REFUSED
    assert accepted(opened()._replace(cancel=Cancel.HEARD), CancelRequested(), BOUND).cancel == Cancel.HEARD | Cancel.ASKED


def test_an_abort_makes_the_saga_aborting_with_its_cause_and_without_an_own_veto() -> None:
    heard = accepted(opened(), AbortCame(Cause.TIMED_OUT), FREE)
    assert heard == Row(state=State.ABORTING, choice=1, abort=True, cause=Cause.TIMED_OUT)
    assert transition(heard, AbortCame(Cause.REFUSED), FREE) is heard


def test_an_abort_after_a_request_keeps_the_cause_of_the_request() -> None:
    asked = accepted(opened(), CancelRequested(), BOUND)
    assert accepted(asked, AbortCame(Cause.REFUSED), BOUND).cause is Cause.CANCELLED


def test_an_abort_without_a_cause_tells_an_aborting_saga_nothing() -> None:
    aborting = Row(state=State.ABORTING, choice=1, abort=True)
    assert transition(aborting, AbortCame(Cause.NONE), FREE) is aborting


def test_a_clear_alone_proves_the_abort_and_the_last_one_ends_it() -> None:
    half = accepted(opened(), ClearCame(1), FREE)
    assert half == Row(state=State.ABORTING, choice=1, abort=True, clear_in=1)
    assert transition(half, ClearCame(1), FREE) is half
    whole = accepted(half, ClearCame(2), FREE)
    assert whole == half._replace(state=State.ABORTED, clear_in=3, outcome=Outcome.ABORTED, cause=Cause.REFUSED)


@pytest.mark.parametrize("debts", [(True, False), (False, True)])
def test_one_undo_that_was_waived_makes_the_whole_saga_failed(debts: tuple[bool, bool]) -> None:
    half = accepted(opened(), ClearCame(1, debts[0]), FREE)
    assert half.debt is debts[0]
    whole = accepted(half, ClearCame(2, debts[1]), FREE)
    assert (whole.debt, whole.outcome) == (True, Outcome.FAILED)


def test_a_repeated_clear_may_still_bring_a_debt() -> None:
    half = accepted(opened(), ClearCame(1), FREE)
    assert accepted(half, ClearCame(1, debt=True), FREE) == half._replace(debt=True)


def test_the_end_of_an_undo_keeps_the_first_cause() -> None:
    late = accepted(accepted(opened(), DeadlinePassed(), FREE), ClearCame(1), FREE)
    assert accepted(late, ClearCame(2), FREE).cause is Cause.TIMED_OUT


@pytest.mark.parametrize("state", [State.COMPLETED, State.ABORTED])
def test_a_cancel_after_the_end_is_refused_without_an_alarm(state: State) -> None:
    assert not refusal(Row(state=state, outcome=Outcome.COMPLETED), CancelRequested(), FREE).alarm


def test_an_open_saga_that_was_asked_to_stop_asks_every_owner_once() -> None:
    told = emissions(opened()._replace(cancel=Cancel.ASKED, cause=Cause.TIMED_OUT), PLAN.origin, PLAN)
    assert told[1:] == tuple(Message(MessageKind.CANCEL, ORIGIN, owner, cause=Cause.TIMED_OUT) for owner in ("one", "three", "two"))
    assert len(emissions(opened()._replace(cancel=Cancel.HEARD), PLAN.origin, PLAN)) == 1


def test_an_aborting_origin_clears_the_last_steps_and_tells_the_abort_only_if_it_decided_it() -> None:
    clears = (
        Message(MessageKind.CLEAR, ORIGIN, "three", target=1, debt=True),
        Message(MessageKind.CLEAR, ORIGIN, "two", target=2, debt=True),
    )
    aborting = Row(state=State.ABORTING, abort=True, debt=True, cause=Cause.CANCELLED)
    assert emissions(aborting, PLAN.origin, PLAN) == clears
    aborts = tuple(Message(MessageKind.ABORT, ORIGIN, owner, cause=Cause.CANCELLED) for owner in ("one", "three", "two"))
    assert emissions(aborting._replace(vetoer=True), PLAN.origin, PLAN) == aborts + clears


@pytest.mark.parametrize("state", [State.COMPLETED, State.ABORTED, State.REFUSED])
def test_an_ended_saga_tells_its_outcome_cause_and_debt(state: State) -> None:
    row = Row(state=state, outcome=Outcome.FAILED, cause=Cause.TIMED_OUT, debt=True)
    outcome = Message(MessageKind.OUTCOME, ORIGIN, outcome=Outcome.FAILED, cause=Cause.TIMED_OUT, debt=True)
    assert emissions(row, PLAN.origin, PLAN) == (outcome,)
