"""What each row of a step implies it has said, message by message."""

from __future__ import annotations

import pytest
from planned import CHOOSE, JOIN, LAST, LEFT, PLAN

from saga_choreo.core.emissions import Message, emissions
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN, Row
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State

DONE, SKIP, CLEAR = MessageKind.DONE, MessageKind.SKIP, MessageKind.CLEAR


def said(step: int, row: Row) -> tuple[Message, ...]:
    return emissions(row, PLAN.steps[step], PLAN)


def test_a_message_without_details_is_to_the_sink_of_an_open_saga() -> None:
    assert Message(DONE, 0) == Message(DONE, 0, "", -1, ORIGIN, Outcome.OPEN, Cause.NONE, False)


def test_a_step_that_chose_publishes_what_it_chose_and_skips_the_rest_at_each_owner() -> None:
    assert said(CHOOSE, Row(state=State.DONE, choice=1)) == (
        Message(DONE, CHOOSE, event=0),
        Message(SKIP, CHOOSE, "three", event=1),
        Message(SKIP, CHOOSE, "two", event=1),
    )
    assert said(CHOOSE, Row(state=State.DONE, choice=2)) == (Message(DONE, CHOOSE, event=1), Message(SKIP, CHOOSE, "two", event=0))
    assert said(CHOOSE, Row(state=State.DONE, choice=3)) == (Message(DONE, CHOOSE, event=0), Message(DONE, CHOOSE, event=1))


def test_a_skipped_step_skips_every_event() -> None:
    assert said(CHOOSE, Row(state=State.SKIPPED)) == (
        Message(SKIP, CHOOSE, "two", event=0),
        Message(SKIP, CHOOSE, "three", event=1),
        Message(SKIP, CHOOSE, "two", event=1),
    )


def test_a_last_step_tells_the_origin_that_it_is_done_or_skipped() -> None:
    assert said(LAST, Row(state=State.DONE)) == (Message(DONE, LAST, "origin"),)
    assert said(LAST, Row(state=State.SKIPPED)) == (Message(SKIP, LAST, "origin"),)
    assert said(JOIN, Row(state=State.DONE, choice=1)) == (Message(DONE, JOIN, event=0), Message(DONE, JOIN, "origin"))


def test_an_event_stays_said_while_a_step_is_undone_and_after_but_skips_and_the_sink_do_not() -> None:
    event = Message(DONE, JOIN, event=0)
    assert said(JOIN, Row(state=State.COMPENSATING, choice=1)) == (event,)
    assert said(JOIN, Row(state=State.COMPENSATED, choice=1)) == (
        event,
        Message(CLEAR, JOIN, "one", target=CHOOSE),
        Message(CLEAR, JOIN, "two", target=LEFT),
        Message(MessageKind.UNDONE, JOIN),
    )


@pytest.mark.parametrize("state", [State.TOMB, State.SKIPPED_CLEARED])
def test_a_step_that_will_never_run_clears_its_predecessors_and_passes_a_debt_on(state: State) -> None:
    assert said(LEFT, Row(state=state, debt=True)) == (Message(CLEAR, LEFT, "one", target=CHOOSE, debt=True),)
    assert said(CHOOSE, Row(state=state)) == (Message(CLEAR, CHOOSE, "origin", target=ORIGIN),)


def test_a_vetoer_tells_every_owner_and_the_origin_the_cause() -> None:
    row = Row(state=State.TOMB, abort=True, vetoer=True, cause=Cause.TIMED_OUT)
    aborts = tuple(Message(MessageKind.ABORT, LEFT, to, cause=Cause.TIMED_OUT) for to in ("one", "three", "two", "origin"))
    assert said(LEFT, row) == (*aborts, Message(CLEAR, LEFT, "one", target=CHOOSE))


@pytest.mark.parametrize(("parked", "clears"), [(Parked.NO, 0), (Parked.PARKED, 0), (Parked.PASSED, 1)])
def test_an_undo_that_fails_clears_its_predecessors_only_when_it_is_passed_by(parked: Parked, clears: int) -> None:
    told = said(LEFT, Row(state=State.COMPENSATING, parked=parked, debt=True))
    assert told == (Message(CLEAR, LEFT, "one", target=CHOOSE, debt=True),) * clears


@pytest.mark.parametrize("state", [State.WAITING, State.RUNNING, State.DONE])
def test_a_parked_or_passed_step_that_undoes_nothing_clears_nothing(state: State) -> None:
    assert said(LAST, Row(state=state, parked=Parked.PASSED)) == ((Message(DONE, LAST, "origin"),) if state is State.DONE else ())


def test_a_request_to_cancel_is_passed_on_until_the_outcome_is_known() -> None:
    asked = Row(cancel=Cancel.ASKED)
    assert said(LEFT, asked) == (Message(MessageKind.CANCEL_REQUEST, LEFT, "origin"),)
    assert said(LEFT, Row(cancel=Cancel.HEARD)) == ()
    assert said(LEFT, asked._replace(state=State.RUNNING, outcome=Outcome.ABORTED)) == ()


@pytest.mark.parametrize("state", [State.WAITING, State.RUNNING, State.TOMB, State.SKIPPED, State.SKIPPED_CLEARED])
def test_only_a_step_that_happened_says_that_an_event_happened(state: State) -> None:
    assert DONE not in [message.kind for message in said(JOIN, Row(state=state, choice=1))]
