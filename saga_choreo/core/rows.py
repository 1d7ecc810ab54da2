"""Small steps that several rules share: judging a join, leaving a tombstone, undoing when every successor is clear."""

from __future__ import annotations

from enum import StrEnum

from saga_choreo.core.graph import StepPlan
from saga_choreo.model.choreography import Undo
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cause, Outcome, Parked, State

__all__ = ["FINAL_ORIGIN", "UNDOS", "Duty", "cleared", "duty", "is_finished", "is_resolved", "judged", "refused", "tombed"]

FINAL_ORIGIN = frozenset({State.COMPLETED, State.ABORTED, State.REFUSED})
_MAY_FINISH = frozenset({State.DONE, State.TOMB, State.SKIPPED, State.SKIPPED_CLEARED, State.COMPENSATED})
# Asked for tens of times a message: a member that is looked up on its class costs as much as a call (Python 3.11).
_WAITING, _RUNNING, _DONE, _COMPENSATING = State.WAITING, State.RUNNING, State.DONE, State.COMPENSATING
_NOT_PARKED, _OPEN = Parked.NO, Outcome.OPEN


class Duty(StrEnum):
    """What a record asks its owner to execute now."""

    RUN = "run"
    CALL = "call"
    UNDO = "undo"
    CALL_UNDO = "call_undo"


_RUN, _CALL, _UNDO, _CALL_UNDO = Duty.RUN, Duty.CALL, Duty.UNDO, Duty.CALL_UNDO
UNDOS = (_UNDO, _CALL_UNDO)


def is_resolved(row: Row, step: StepPlan) -> bool:
    """Every in-edge is DONE or SKIP."""
    return (row.done_in | row.skip_in) == step.all_in


def judged(row: Row, step: StepPlan) -> Row:
    """Rules 4 and 6: once every in-edge is resolved, a join that cannot be satisfied is skipped, and an external step is
    recorded first."""
    if not is_resolved(row, step):
        return row
    if (step.needs_all and row.skip_in) or not row.done_in:
        return row._replace(state=State.SKIPPED)
    return row._replace(state=State.RUNNING) if step.external else row


def tombed(row: Row, *, vetoer: bool, cause: Cause) -> Row:
    """The step will never run, whatever comes."""
    return row._replace(state=State.TOMB, parked=Parked.NO, pending=False, abort=True, vetoer=vetoer, cause=cause, operator="")


def refused(row: Row, step: StepPlan, cause: Cause) -> Row:
    """A business no: an optional step is skipped, any other aborts the saga (unless it is aborting already)."""
    if step.optional:
        return cleared(row._replace(state=State.SKIPPED, parked=Parked.NO, pending=False), step)
    return tombed(row, vetoer=not row.abort, cause=Cause.NONE if row.abort else cause)


def cleared(row: Row, step: StepPlan) -> Row:
    """Rules 18, 19, 21: what a done or skipped step becomes once it is to be undone and every successor is clear."""
    if not row.abort or row.clear_in != step.all_succ:
        return row
    if row.state is State.SKIPPED:
        return row._replace(state=State.SKIPPED_CLEARED)
    match step.undo:
        case Undo.EXTERNAL:
            return row._replace(state=State.COMPENSATING, attempt=0, key_no=0)
        case Undo.NONE:
            return row._replace(state=State.COMPENSATED)
        case Undo.LOCAL:
            return row._replace(attempt=0, key_no=0)


def duty(row: Row, step: StepPlan) -> Duty | None:
    """What is to be executed for this row, if anything. Recovery after a crash asks the very same question."""
    state = row.state
    if row.parked is not _NOT_PARKED:
        return None
    if state is _WAITING:
        return _RUN if (row.done_in | row.skip_in) == step.all_in else None
    if state is _RUNNING:
        return None if row.pending else _CALL
    if state is _DONE:
        return _UNDO if row.abort and row.clear_in == step.all_succ else None
    return _CALL_UNDO if state is _COMPENSATING else None


def is_finished(row: Row) -> bool:
    """The record knows the outcome and has nothing open: it only waits for the horizon."""
    return row.state in FINAL_ORIGIN or (row.outcome is not _OPEN and row.state in _MAY_FINISH)
