"""A step on its way back: hearing the abort, waiting for its successors, being undone, and learning the outcome."""

from __future__ import annotations

import pytest
from planned import accepted, kind, refusal

from saga_choreo.core.facts import (
    AbortCame,
    CancelRequested,
    ClearCame,
    Fact,
    OutcomeCame,
    Started,
    UndoFailed,
    Undone,
)
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.rows import Duty, duty, is_finished
from saga_choreo.core.transitions import transition
from saga_choreo.model.choreography import Undo
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State

PLAIN = kind()
OUTSIDE = kind(external=True, undo=Undo.EXTERNAL)
LOOKED = kind(undo=Undo.NONE, read_only=True)

DONE = Row(state=State.DONE, done_in=3, choice=1, attempt=2, key_no=1)
DUE = DONE._replace(abort=True, clear_in=3)
UNDOING = DUE._replace(state=State.COMPENSATING)
ENDS = [Outcome.ABORTED, Outcome.FAILED]


def same(row: Row, fact: Fact, step: StepPlan = PLAIN) -> None:
    assert transition(row, fact, step) is row


@pytest.mark.parametrize("row", [Row(), Row(done_in=1), Row(done_in=3, attempt=1), Row(done_in=3, parked=Parked.PARKED)])
@pytest.mark.parametrize("fact", [AbortCame(Cause.TIMED_OUT), ClearCame(1, debt=True)])
def test_a_waiting_step_that_hears_of_the_abort_becomes_a_tombstone_without_a_veto(row: Row, fact: Fact) -> None:
    assert accepted(row, fact, PLAIN) == row._replace(state=State.TOMB, parked=Parked.NO, abort=True)


@pytest.mark.parametrize(
    "row",
    [Row(done_in=3, parked=Parked.HUMAN, operator="ann"), Row(state=State.RUNNING), Row(state=State.RUNNING, pending=True)],
)
def test_a_call_or_a_person_at_work_finishes_first_and_the_abort_is_remembered(row: Row) -> None:
    heard = accepted(row, AbortCame(), OUTSIDE)
    assert heard == row._replace(abort=True)
    same(heard, AbortCame(), OUTSIDE)
    clear = accepted(heard, ClearCame(2, debt=True), OUTSIDE)
    assert clear == heard._replace(clear_in=2, debt=True)
    same(clear, ClearCame(2), OUTSIDE)
    assert accepted(row, ClearCame(1), OUTSIDE) == row._replace(abort=True, clear_in=1)


@pytest.mark.parametrize(("undo", "state"), [(PLAIN, State.DONE), (OUTSIDE, State.COMPENSATING), (LOOKED, State.COMPENSATED)])
def test_a_done_step_is_undone_once_every_successor_is_clear_and_not_before(undo: StepPlan, state: State) -> None:
    half = accepted(DONE, ClearCame(1), undo)
    assert half == DONE._replace(abort=True, clear_in=1)
    same(half, AbortCame(), undo)
    whole = accepted(half, ClearCame(2, debt=True), undo)
    assert (whole.state, whole.clear_in, whole.debt, whole.choice) == (state, 3, True, 1)
    assert (whole.attempt, whole.key_no) == ((2, 1) if undo is LOOKED else (0, 0))


@pytest.mark.parametrize("state", [State.DONE, State.SKIPPED])
def test_a_step_that_stands_remembers_the_abort_before_anything_is_clear(state: State) -> None:
    """Seen as compensating from then on, and an outcome that follows is no contradiction."""
    assert accepted(Row(state=state), AbortCame(), PLAIN) == Row(state=state, abort=True)


def test_a_repeated_abort_of_an_undo_that_is_due_does_not_forget_its_attempts() -> None:
    trying = DUE._replace(attempt=3)
    same(trying, AbortCame())
    same(trying, ClearCame(2))


def test_a_debt_that_comes_with_a_repeated_clear_is_kept() -> None:
    half = DONE._replace(abort=True, clear_in=1)
    assert accepted(half, ClearCame(1, debt=True), PLAIN) == half._replace(debt=True)
    assert accepted(half._replace(debt=True), ClearCame(2), PLAIN).debt


def test_a_skipped_step_is_clear_once_every_successor_is() -> None:
    skipped = Row(state=State.SKIPPED, skip_in=3)
    half = accepted(skipped, ClearCame(2), PLAIN)
    assert half == skipped._replace(abort=True, clear_in=2)
    assert accepted(half, ClearCame(1), PLAIN) == half._replace(state=State.SKIPPED_CLEARED, clear_in=3)


@pytest.mark.parametrize("row", [DUE, UNDOING])
def test_an_undo_closes_the_step_only_in_its_own_attempt(row: Row) -> None:
    assert accepted(row, Undone(2), PLAIN) == row._replace(state=State.COMPENSATED)
    same(row, Undone(1))


@pytest.mark.parametrize("row", [DONE, DONE._replace(abort=True, clear_in=1), DONE._replace(clear_in=3)])
def test_an_undo_that_is_not_due_counts_nothing(row: Row) -> None:
    same(row, Undone(2))
    same(row, UndoFailed(2))


@pytest.mark.parametrize("parked", [Parked.PARKED, Parked.PASSED])
def test_a_parked_undo_has_no_result(parked: Parked) -> None:
    same(UNDOING._replace(parked=parked), Undone(2))
    same(UNDOING._replace(parked=parked), UndoFailed(2, exhausted=True, refused=True))


def test_a_local_undo_that_fails_goes_on_as_one_that_is_retried() -> None:
    assert accepted(DUE, UndoFailed(2), PLAIN) == UNDOING
    same(DUE, UndoFailed(1))


def test_an_undo_that_keeps_failing_is_parked_or_passed_by_with_a_debt() -> None:
    same(UNDOING, UndoFailed(2))
    same(UNDOING, UndoFailed(1, exhausted=True))
    assert accepted(UNDOING, UndoFailed(2, exhausted=True), PLAIN) == UNDOING._replace(parked=Parked.PARKED)
    passed = accepted(UNDOING, UndoFailed(2, exhausted=True, go_on=True), PLAIN)
    assert passed == UNDOING._replace(parked=Parked.PASSED, debt=True)
    same(UNDOING, UndoFailed(2, go_on=True))


def test_an_undo_that_was_definitely_refused_is_called_again_under_a_new_key() -> None:
    assert accepted(UNDOING, UndoFailed(2, refused=True), PLAIN) == UNDOING._replace(key_no=2)
    assert accepted(UNDOING, UndoFailed(2, exhausted=True, refused=True), PLAIN) == UNDOING._replace(key_no=2, parked=Parked.PARKED)


@pytest.mark.parametrize("state", [State.WAITING, State.RUNNING, State.DONE, State.TOMB, State.COMPENSATED])
def test_a_request_to_cancel_is_noted_once_and_refused_after_the_outcome(state: State) -> None:
    row = Row(state=state, cancel=Cancel.HEARD)
    asked = accepted(row, CancelRequested(), PLAIN)
    assert asked == row._replace(cancel=Cancel.HEARD | Cancel.ASKED)
    same(asked, CancelRequested())
    assert not refusal(row._replace(outcome=Outcome.ABORTED), CancelRequested(), PLAIN).alarm


@pytest.mark.parametrize("row", [DONE, Row(state=State.SKIPPED)])
def test_a_step_that_stands_takes_a_completion_and_raises_an_alarm_over_an_abort(row: Row) -> None:
    completed = OutcomeCame(Outcome.COMPLETED, Cause.CANCELLED)
    ended = accepted(row, completed, PLAIN)
    assert ended == row._replace(outcome=Outcome.COMPLETED, cause=Cause.CANCELLED)
    same(ended, OutcomeCame(Outcome.ABORTED))
    for outcome in ENDS:
        assert refusal(row, OutcomeCame(outcome), PLAIN).alarm
        assert accepted(row._replace(abort=True), OutcomeCame(outcome), PLAIN).outcome is outcome
    assert refusal(row._replace(abort=True), completed, PLAIN).alarm


@pytest.mark.parametrize("state", [State.TOMB, State.COMPENSATED, State.SKIPPED_CLEARED, State.RUNNING, State.COMPENSATING])
def test_a_step_that_does_not_stand_takes_an_abort_and_raises_an_alarm_over_a_completion(state: State) -> None:
    row = Row(state=state, abort=True, debt=True)
    for outcome in ENDS:
        ended = accepted(row, OutcomeCame(outcome, Cause.TIMED_OUT), PLAIN)
        assert ended == row._replace(outcome=outcome, cause=Cause.TIMED_OUT)
        same(ended, OutcomeCame(outcome, Cause.REFUSED))
    assert refusal(row, OutcomeCame(Outcome.COMPLETED), PLAIN).alarm


def test_an_outcome_closes_a_waiting_step_but_not_over_the_head_of_a_person() -> None:
    aborted = OutcomeCame(Outcome.ABORTED, Cause.TIMED_OUT)
    tomb = Row(state=State.TOMB, abort=True, outcome=Outcome.ABORTED, cause=Cause.TIMED_OUT)
    assert accepted(Row(), aborted, PLAIN) == tomb
    held = Row(done_in=3, parked=Parked.HUMAN, operator="ann")
    kept = accepted(held, aborted, PLAIN)
    assert kept == held._replace(abort=True, outcome=Outcome.ABORTED, cause=Cause.TIMED_OUT)
    same(kept, OutcomeCame(Outcome.ABORTED, Cause.REFUSED))
    assert refusal(held, OutcomeCame(Outcome.COMPLETED), PLAIN).alarm
    assert refusal(kept, OutcomeCame(Outcome.COMPLETED), PLAIN).alarm


def test_a_fact_that_no_rule_knows_changes_nothing() -> None:
    same(DONE, Started())


DUTIES = [
    (Row(), None),
    (Row(done_in=3), Duty.RUN),
    (Row(done_in=1, skip_in=2), Duty.RUN),
    (Row(done_in=3, parked=Parked.PARKED), None),
    (Row(state=State.RUNNING), Duty.CALL),
    (Row(state=State.RUNNING, pending=True), None),
    (DONE, None),
    (DONE._replace(abort=True, clear_in=1), None),
    (DONE._replace(clear_in=3), None),
    (DUE, Duty.UNDO),
    (UNDOING, Duty.CALL_UNDO),
    (UNDOING._replace(parked=Parked.PASSED), None),
    (Row(state=State.TOMB), None),
    (Row(state=State.SKIPPED, abort=True, clear_in=3), None),
    (Row(state=State.COMPENSATED, abort=True, clear_in=3), None),
]


@pytest.mark.parametrize(("row", "expected"), DUTIES)
def test_a_record_asks_for_just_what_is_due(row: Row, expected: Duty | None) -> None:
    assert duty(row, PLAIN) is expected


@pytest.mark.parametrize("state", list(State))
def test_a_record_is_finished_when_it_knows_the_outcome_and_has_nothing_open(state: State) -> None:
    at_origin = state in (State.COMPLETED, State.ABORTED, State.REFUSED)
    closed = state in (State.DONE, State.TOMB, State.SKIPPED, State.SKIPPED_CLEARED, State.COMPENSATED)
    assert is_finished(Row(state=state)) is at_origin
    assert is_finished(Row(state=state, outcome=Outcome.ABORTED)) is (at_origin or closed)
