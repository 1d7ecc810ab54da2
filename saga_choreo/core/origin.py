"""Rules of the origin row: virtual source and sink of a saga in one record at the service that started it.

COMPLETED is the decision: reached only when every last step is DONE or SKIP, and then no veto can exist.
"""

from __future__ import annotations

from saga_choreo.core.facts import AbortCame, CancelRequested, ClearCame, DeadlinePassed, DoneCame, Refusal, SkipCame, Started
from saga_choreo.core.graph import StepPlan
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cancel, Cause, Outcome, State

__all__ = [
    "abort_came",
    "cancel_before_start",
    "cancel_requested",
    "cancel_too_late",
    "clear_came",
    "deadline_passed",
    "done_came",
    "opened",
    "skip_came",
    "started",
    "started_too_late",
]


def opened() -> Row:
    """Rule 1: the row of a saga that has just been started."""
    return Row(state=State.OPEN, choice=1)


def cancel_before_start() -> Row:
    """Rule 2's other half: a cancel that overtook the start; a START that follows is refused."""
    return Row(state=State.REFUSED, abort=True, cause=Cause.CANCELLED, outcome=Outcome.ABORTED)


def started(row: Row, _fact: Started, _step: StepPlan) -> Row:
    return row


def started_too_late(_row: Row, _fact: Started, _step: StepPlan) -> Refusal:
    return Refusal("the saga was cancelled before it was started")


def _complete(row: Row, step: StepPlan) -> Row:
    if (row.done_in | row.skip_in) != step.all_in:
        return row
    return row._replace(state=State.COMPLETED, outcome=Outcome.COMPLETED)


def done_came(row: Row, fact: DoneCame, step: StepPlan) -> Row:
    fresh = fact.edges & step.all_in & ~(row.done_in | row.skip_in)
    return _complete(row._replace(done_in=row.done_in | fresh), step) if fresh else row


def skip_came(row: Row, fact: SkipCame, step: StepPlan) -> Row:
    fresh = fact.edges & step.all_in & ~(row.done_in | row.skip_in)
    return _complete(row._replace(skip_in=row.skip_in | fresh), step) if fresh else row


def _stop(row: Row, step: StepPlan, cause: Cause) -> Row:
    """A definition without a pivot aborts at once; with one, only a step that may still veto can decide."""
    if row.cancel & Cancel.ASKED:
        return row
    if step.pivot:
        return row._replace(cancel=row.cancel | Cancel.ASKED, cause=row.cause or cause)
    return row._replace(state=State.ABORTING, abort=True, vetoer=True, cause=row.cause or cause)


def cancel_requested(row: Row, _fact: CancelRequested, step: StepPlan) -> Row:
    return _stop(row, step, Cause.CANCELLED)


def deadline_passed(row: Row, _fact: DeadlinePassed, step: StepPlan) -> Row:
    return _stop(row, step, Cause.TIMED_OUT)


def cancel_too_late(row: Row, _fact: CancelRequested, _step: StepPlan) -> Refusal:
    return Refusal(f"the saga has ended already ({row.outcome})")


def abort_came(row: Row, fact: AbortCame, _step: StepPlan) -> Row:
    """Also when a CLEAR came first and told no cause: the saga is not over, so this is still the first one."""
    if row.state is State.ABORTING and (row.cause or not fact.cause):
        return row
    return row._replace(state=State.ABORTING, abort=True, cause=row.cause or fact.cause)


def clear_came(row: Row, fact: ClearCame, step: StepPlan) -> Row:
    clear_in, debt = row.clear_in | fact.bit, row.debt or fact.debt
    if (clear_in, debt) == (row.clear_in, row.debt):
        return row
    row = row._replace(state=State.ABORTING, abort=True, clear_in=clear_in, debt=debt)
    if clear_in != step.all_succ:
        return row
    # No cause has come with an ABORT: nothing was cancelled or late here, so somebody refused.
    outcome = Outcome.FAILED if debt else Outcome.ABORTED
    return row._replace(state=State.ABORTED, outcome=outcome, cause=row.cause or Cause.REFUSED)
