"""Saga and step states as people see them: each from the records that say so."""

from __future__ import annotations

from uuid import UUID

import pytest
from planned import JOIN, PLAN

from saga_choreo.core.states import end_state, saga_state, step_state
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Cause, Outcome, Parked, SagaState, State, StepState


def held(step: int, row: Row) -> Record:
    return Record(service="s", saga_id=UUID(int=1), definition="d", step=step, row=row, choreography="c", origin="o")


def seen(origin: Row | None, *rows: Row) -> SagaState:
    return saga_state([*([] if origin is None else [held(ORIGIN, origin)]), *(held(n, row) for n, row in enumerate(rows))])


OPEN = Row(state=State.OPEN, choice=1)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (Row(), StepState.PENDING),
        (Row(parked=Parked.PARKED), StepState.RUNNING),
        (Row(parked=Parked.HUMAN), StepState.RUNNING),
        (Row(state=State.RUNNING), StepState.RUNNING),
        (Row(state=State.DONE), StepState.COMPLETED),
        (Row(state=State.DONE, abort=True), StepState.COMPENSATING),
        (Row(state=State.TOMB, vetoer=True), StepState.FAILED),
        (Row(state=State.TOMB), StepState.SKIPPED),
        (Row(state=State.COMPENSATING), StepState.COMPENSATING),
        (Row(state=State.COMPENSATED), StepState.COMPENSATED),
        (Row(state=State.SKIPPED), StepState.SKIPPED),
        (Row(state=State.SKIPPED_CLEARED), StepState.SKIPPED),
    ],
)
def test_each_record_is_seen_as_one_step_state(row: Row, state: StepState) -> None:
    assert step_state(row) is state


def test_a_waiting_step_is_running_once_all_it_waits_for_has_come() -> None:
    join = PLAN.steps[JOIN]
    assert step_state(Row(done_in=join.all_in), join) is StepState.RUNNING
    assert step_state(Row(done_in=1), join) is StepState.PENDING
    assert step_state(Row(done_in=join.all_in)) is StepState.PENDING


@pytest.mark.parametrize(
    ("outcome", "cause", "state"),
    [
        (Outcome.COMPLETED, Cause.NONE, SagaState.COMPLETED),
        # A cancel that came too late is no reason to call a completed saga cancelled.
        (Outcome.COMPLETED, Cause.CANCELLED, SagaState.COMPLETED),
        (Outcome.FAILED, Cause.CANCELLED, SagaState.FAILED),
        (Outcome.ABORTED, Cause.CANCELLED, SagaState.CANCELLED),
        (Outcome.ABORTED, Cause.TIMED_OUT, SagaState.TIMED_OUT),
        (Outcome.ABORTED, Cause.REFUSED, SagaState.COMPENSATED),
    ],
)
def test_an_end_is_named_after_its_outcome_and_first_cause(outcome: Outcome, cause: Cause, state: SagaState) -> None:
    assert end_state(outcome, cause) is state
    assert seen(None, Row(state=State.DONE), Row(state=State.DONE, outcome=outcome, cause=cause)) is state
    assert seen(Row(state=State.ABORTED, outcome=outcome, cause=cause), Row(state=State.DONE, abort=True)) is state


def test_the_origins_word_counts_more_than_that_of_a_step() -> None:
    assert seen(OPEN, Row(state=State.TOMB, outcome=Outcome.FAILED)) is SagaState.RUNNING


@pytest.mark.parametrize(
    ("origin", "rows", "state"),
    [
        (OPEN, (), SagaState.PENDING),
        (None, (), SagaState.PENDING),
        (None, (Row(),), SagaState.PENDING),
        (OPEN, (Row(),), SagaState.RUNNING),
        (OPEN, (Row(state=State.DONE), Row()), SagaState.STEP_COMPLETED),
        (None, (Row(state=State.SKIPPED),), SagaState.STEP_COMPLETED),
        (None, (Row(state=State.DONE), Row(state=State.RUNNING)), SagaState.RUNNING),
        (None, (Row(state=State.DONE), Row(state=State.TOMB, abort=True)), SagaState.COMPENSATING),
        (OPEN, (Row(state=State.RUNNING, abort=True),), SagaState.COMPENSATING),
        (Row(state=State.ABORTING), (), SagaState.COMPENSATING),
        (Row(state=State.ABORTING), (Row(state=State.RUNNING),), SagaState.COMPENSATING),
    ],
)
def test_an_open_saga_is_seen_as_its_records_say(origin: Row | None, rows: tuple[Row, ...], state: SagaState) -> None:
    assert seen(origin, *rows) is state
