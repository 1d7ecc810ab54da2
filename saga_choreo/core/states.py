"""Saga and step states as people see them, derived from records in this one place.

A participant's own list knows its own steps only; the origin's row knows the end and its first cause.
"""

from __future__ import annotations

from collections.abc import Sequence

from saga_choreo.core.graph import StepPlan
from saga_choreo.core.rows import is_resolved
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Cause, Outcome, Parked, SagaState, State, StepState

__all__ = ["end_state", "saga_state", "step_state"]

_COMPLETED, _END_COMPLETED = Outcome.COMPLETED, SagaState.COMPLETED


def step_state(row: Row, step: StepPlan | None = None) -> StepState:
    """The state of one step. With its plan, a step that waits for nothing but its run is told from one that waits for events."""
    match row.state:
        case State.WAITING:
            ready = row.parked is not Parked.NO or (step is not None and is_resolved(row, step))
            return StepState.RUNNING if ready else StepState.PENDING
        case State.RUNNING:
            return StepState.RUNNING
        case State.DONE:
            return StepState.COMPENSATING if row.abort else StepState.COMPLETED
        case State.TOMB:
            return StepState.FAILED if row.vetoer else StepState.SKIPPED
        case State.COMPENSATING:
            return StepState.COMPENSATING
        case State.COMPENSATED:
            return StepState.COMPENSATED
        case _:
            return StepState.SKIPPED


def end_state(outcome: Outcome, cause: Cause) -> SagaState:
    """The final state of a saga: cancelled and timed_out by the first cause; compensated = undone after a refusal; failed =
    ended with a debt (an undo was waived)."""
    if outcome is _COMPLETED:
        return _END_COMPLETED
    if outcome is Outcome.FAILED:
        return SagaState.FAILED
    match cause:
        case Cause.CANCELLED:
            return SagaState.CANCELLED
        case Cause.TIMED_OUT:
            return SagaState.TIMED_OUT
        case _:
            return SagaState.COMPENSATED


def saga_state(records: Sequence[Record]) -> SagaState:
    """The state of one saga from the records that one participant (or several) holds of it."""
    origin = next((record.row for record in records if record.step == ORIGIN), None)
    rows = [record.row for record in records if record.step != ORIGIN]
    known = origin or next((row for row in rows if row.outcome is not Outcome.OPEN), None)
    if known is not None and known.outcome is not Outcome.OPEN:
        return end_state(known.outcome, known.cause)
    if (origin is not None and origin.state is State.ABORTING) or any(row.abort for row in rows):
        return SagaState.COMPENSATING
    if any(step_state(row) is StepState.RUNNING for row in rows):
        return SagaState.RUNNING
    if any(row.state in (State.DONE, State.SKIPPED) for row in rows):
        return SagaState.STEP_COMPLETED
    return SagaState.PENDING if origin is None or not rows else SagaState.RUNNING
