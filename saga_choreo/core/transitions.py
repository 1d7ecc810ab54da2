"""The transition table: every rule of the protocol, keyed by state and fact.

`transition(row, fact, step)` gives the new row, the same object when nothing changes, or a Refusal. It is the one function
that agents, simulator and model checker run; the table also draws the state diagram of the docs. Rule numbers are those of
the protocol's table. What is not in the table is a no-op (rule 26).

Nothing is emitted here: what a row implies it has said is derived by `core.emissions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from saga_choreo.core import origin, resolutions
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
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.rows import cleared, is_resolved, judged, refused, tombed
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State

__all__ = ["TABLE", "Rule", "transition"]

S = State
# What the hot path asks for: to look a member up on its class costs as much as a call (Python 3.11).
_NOT_PARKED, _OPEN, _COMPLETED = Parked.NO, Outcome.OPEN, Outcome.COMPLETED


class Rule(NamedTuple):
    """`number` as in the protocol; `to` lists the states it may lead to."""

    number: str
    to: tuple[State, ...]
    run: Callable[[Row, Any, StepPlan], Row | Refusal]


def transition(row: Row, fact: Fact, step: StepPlan) -> Row | Refusal:
    """Apply one fact to one row. The same row object back means: nothing changes (a counted no-op)."""
    rule = TABLE.get((row.state, type(fact)))
    return row if rule is None else rule.run(row, fact, step)


def _done_came(row: Row, fact: DoneCame, step: StepPlan) -> Row:
    fresh = fact.edges & step.all_in & ~(row.done_in | row.skip_in)
    return judged(row._replace(done_in=row.done_in | fresh), step) if fresh else row


def _skip_came(row: Row, fact: SkipCame, step: StepPlan) -> Row:
    fresh = fact.edges & step.all_in & ~(row.done_in | row.skip_in)
    return judged(row._replace(skip_in=row.skip_in | fresh), step) if fresh else row


def _claim(row: Row, _fact: Claimed, step: StepPlan) -> Row:
    if row.parked is not _NOT_PARKED or row.pending or (row.state is S.WAITING and not is_resolved(row, step)):
        return row
    return row._replace(attempt=row.attempt + 1)


def _ran(row: Row, fact: Succeeded, step: StepPlan) -> Row:
    """Rules 5 and 13. A waiting step is done only if it was ready to run and this attempt is the one that counts."""
    if row.parked is not _NOT_PARKED or row.pending or fact.attempt != row.attempt or not is_resolved(row, step):
        return row
    return cleared(row._replace(state=_D, choice=fact.choice), step)


def _waiting_declined(row: Row, fact: Declined, step: StepPlan) -> Row:
    """Rules 7 and 8; a step that may not veto tries again (rule 9)."""
    if row.parked is not _NOT_PARKED or fact.attempt != row.attempt or not is_resolved(row, step):
        return row
    if not step.may_veto and not step.optional:
        return row._replace(parked=Parked.PARKED) if fact.exhausted else row
    return refused(row, step, Cause.REFUSED)


def _waiting_failed(row: Row, fact: Failed, step: StepPlan) -> Row:
    """Rule 9: durable backoff, then park or refuse."""
    if row.parked is not _NOT_PARKED or fact.attempt != row.attempt or not is_resolved(row, step) or not fact.exhausted:
        return row
    may_end = step.may_veto or step.optional
    return refused(row, step, Cause.REFUSED) if fact.veto and may_end else row._replace(parked=Parked.PARKED)


def _waiting_cancelled(row: Row, fact: CancelCame, step: StepPlan) -> Row:
    """Rule 10: a request, which only a step that may veto can follow; a person who has the step is asked later."""
    if not step.may_veto:
        return row
    if row.parked is Parked.HUMAN:
        heard = row.cancel & Cancel.HEARD
        return row if heard else row._replace(cancel=row.cancel | Cancel.HEARD, cause=fact.cause)
    return tombed(row, vetoer=True, cause=fact.cause)


def _waiting_deadline(row: Row, fact: DeadlinePassed, step: StepPlan) -> Row:
    """Rule 10. A step's own deadline takes the branch of its event (12c), parked or not, or else is a refusal (7, 8); a person
    who has the step is not hurried."""
    if not fact.own:
        return _waiting_cancelled(row, CancelCame(Cause.TIMED_OUT), step)
    if row.parked is Parked.HUMAN or not is_resolved(row, step):
        return row
    if step.deadline_choice:
        return cleared(row._replace(state=S.DONE, parked=Parked.NO, choice=step.deadline_choice), step)
    return refused(row, step, Cause.TIMED_OUT) if step.may_veto or step.optional else row


def _waiting_aborted(row: Row, fact: AbortCame | ClearCame, step: StepPlan) -> Row:
    """Rule 11; a person who has the step finishes first (rule 16)."""
    if row.parked is Parked.HUMAN:
        return _open_aborted(row, fact, step)
    return tombed(row, vetoer=False, cause=Cause.NONE)


def _remember_abort(row: Row, fact: AbortCame | ClearCame) -> Row:
    bit, debt = (fact.bit, fact.debt) if isinstance(fact, ClearCame) else (0, False)
    return row._replace(abort=True, clear_in=row.clear_in | bit, debt=row.debt or debt)


def _open_aborted(row: Row, fact: AbortCame | ClearCame, _step: StepPlan) -> Row:
    """Rule 16: wait for the result of the call that may be on its way; the clear bit counts already."""
    changed = _remember_abort(row, fact)
    return row if changed == row else changed


def _settled_aborted(row: Row, fact: AbortCame | ClearCame, step: StepPlan) -> Row:
    """Rules 17, 18, 19, 21: undone once every successor is clear."""
    changed = _remember_abort(row, fact)
    return row if changed == row else cleared(changed, step)


def _running_declined(row: Row, fact: Declined, step: StepPlan) -> Row:
    """Rule 14."""
    if row.parked is not _NOT_PARKED or row.pending or fact.attempt != row.attempt:
        return row
    return _definitely_declined(row, step, exhausted=fact.exhausted)


def _definitely_declined(row: Row, step: StepPlan, *, exhausted: bool) -> Row:
    if row.abort:
        return tombed(row, vetoer=False, cause=Cause.NONE)
    if step.optional or step.may_veto:
        return refused(row, step, Cause.REFUSED)
    row = row._replace(key_no=row.key_no + 1, pending=False)
    return row._replace(parked=Parked.PARKED) if exhausted else row


def _running_failed(row: Row, fact: Failed, _step: StepPlan) -> Row:
    """Rules 9b and 15: an unknown result is never a failure; the same key is used again, in the end by a person's word."""
    if row.parked is not _NOT_PARKED or row.pending or fact.attempt != row.attempt or not fact.exhausted:
        return row
    return row._replace(parked=Parked.PARKED)


def _went_pending(row: Row, fact: WentPending, _step: StepPlan) -> Row:
    if row.parked is not _NOT_PARKED or row.pending or fact.attempt != row.attempt:
        return row
    return row._replace(pending=True)


def _completed(row: Row, fact: Completed, step: StepPlan) -> Row | Refusal:
    if not row.pending or fact.key_no != row.key_no:
        return _not_waited_for(row, fact)
    return cleared(row._replace(state=S.DONE, pending=False, choice=fact.choice), step)


def _completion_declined(row: Row, fact: CompletionDeclined, step: StepPlan) -> Row | Refusal:
    if not row.pending or fact.key_no != row.key_no:
        return _not_waited_for(row, fact)
    return _definitely_declined(row, step, exhausted=False)


def _not_waited_for(row: Row, fact: Completed | CompletionDeclined) -> Refusal:
    if fact.key_no != row.key_no:
        return Refusal("the token is of a call that was declined; the step has called again since, under another key")
    if row.parked is not _NOT_PARKED:
        return Refusal("the step is parked and waits for a person's word: resolve it as done or failed instead")
    return Refusal("the step has not said yet that it waits for a completion; try again a little later")


def _completion_too_late(_row: Row, _fact: Completed | CompletionDeclined, _step: StepPlan) -> Refusal:
    return Refusal("the step does not wait for a completion; it has ended, or its deadline has passed")


def _running_deadline(row: Row, fact: DeadlinePassed, step: StepPlan) -> Row:
    """Rule 12c."""
    if not (fact.own and row.pending and step.deadline_choice):
        return row
    return cleared(row._replace(state=S.DONE, pending=False, choice=step.deadline_choice), step)


def _undone(row: Row, fact: Undone, step: StepPlan) -> Row:
    """Rules 18 and 20."""
    ready = row.abort and row.clear_in == step.all_succ and row.parked is _NOT_PARKED
    return row._replace(state=S.COMPENSATED) if ready and fact.attempt == row.attempt else row


def _undo_failed_at_once(row: Row, fact: UndoFailed, step: StepPlan) -> Row:
    """A local undo that fails or overruns goes on as one that is due and retried (rule 20 from then on)."""
    ready = row.abort and row.clear_in == step.all_succ
    return row._replace(state=S.COMPENSATING) if ready and fact.attempt == row.attempt else row


def _undo_failed(row: Row, fact: UndoFailed, _step: StepPlan) -> Row:
    if row.parked is not _NOT_PARKED or fact.attempt != row.attempt:
        return row
    if fact.refused:
        row = row._replace(key_no=row.key_no + 1)
    if not fact.exhausted:
        return row
    # Not told by `debt`, which is inherited from successors: only this step's own policy lets its predecessors go on.
    return row._replace(parked=Parked.PASSED, debt=True) if fact.go_on else row._replace(parked=Parked.PARKED)


def _asked_to_cancel(row: Row, _fact: CancelRequested, _step: StepPlan) -> Row | Refusal:
    if row.outcome is not _OPEN:
        return Refusal(f"the saga has ended already ({row.outcome})")
    return row if row.cancel & Cancel.ASKED else row._replace(cancel=row.cancel | Cancel.ASKED)


def _outcome(row: Row, fact: OutcomeCame, _step: StepPlan) -> Row | Refusal:
    """Rule 28: consistent with what happened here, or an alarm."""
    if row.outcome is not _OPEN:
        return row
    completed = row.state in (_D, _K) and not row.abort
    if completed is not (fact.outcome is _COMPLETED):
        return _contradiction(row, fact)
    return _ended(row, fact)


def _outcome_while_open(row: Row, fact: OutcomeCame, _step: StepPlan) -> Row | Refusal:
    """An open undo keeps the outcome in mind and is finished when it is closed."""
    if fact.outcome is _COMPLETED:
        return _contradiction(row, fact)
    return row if row.outcome is not _OPEN else _ended(row, fact)


def _outcome_while_waiting(row: Row, fact: OutcomeCame, _step: StepPlan) -> Row | Refusal:
    """A tombstone even where there was no record yet: an ABORT that comes later would make one that never learns the outcome."""
    if fact.outcome is _COMPLETED:
        return _contradiction(row, fact)
    if row.outcome is not _OPEN:
        return row
    if row.parked is Parked.HUMAN:
        return _ended(row._replace(abort=True), fact)
    return _ended(tombed(row, vetoer=False, cause=Cause.NONE), fact)


def _ended(row: Row, fact: OutcomeCame) -> Row:
    return row._replace(outcome=fact.outcome, cause=fact.cause)


def _contradiction(row: Row, fact: OutcomeCame) -> Refusal:
    return Refusal(f"the saga is said to have ended as {fact.outcome}, but the step is {row.state.name.lower()} here", alarm=True)


_W, _R, _D, _T, _K, _X, _CR, _C = (
    S.WAITING, S.RUNNING, S.DONE, S.TOMB, S.SKIPPED, S.SKIPPED_CLEARED, S.COMPENSATING, S.COMPENSATED,
)  # fmt: skip
_AFTER_DONE = (_D, _CR, _C)

TABLE: dict[tuple[State, type], Rule] = {
    (_W, DoneCame): Rule("3, 4, 6", (_W, _K, _R), _done_came),
    (_W, SkipCame): Rule("3, 4, 6", (_W, _K, _R), _skip_came),
    (_W, Claimed): Rule("9a", (_W,), _claim),
    (_W, Succeeded): Rule("5", (_W, _D), _ran),
    (_W, Declined): Rule("7, 8", (_W, _T, _K), _waiting_declined),
    (_W, Failed): Rule("9", (_W, _T, _K), _waiting_failed),
    (_W, CancelCame): Rule("10", (_W, _T), _waiting_cancelled),
    (_W, DeadlinePassed): Rule("7, 8, 10, 12c", (_W, _T, _K, _D), _waiting_deadline),
    (_W, AbortCame): Rule("11, 16", (_W, _T), _waiting_aborted),
    (_W, ClearCame): Rule("11, 16", (_W, _T), _waiting_aborted),
    (_W, Resolved): Rule("22, 22b", (_W, _K, _T, *_AFTER_DONE), resolutions.of_waiting),
    (_W, OutcomeCame): Rule("28", (_W, _T), _outcome_while_waiting),
    (_R, Claimed): Rule("12", (_R,), _claim),
    (_R, Succeeded): Rule("13", (_R, *_AFTER_DONE), _ran),
    (_R, Declined): Rule("14", (_R, _T, _K), _running_declined),
    (_R, Failed): Rule("9b, 15", (_R,), _running_failed),
    (_R, WentPending): Rule("12b", (_R,), _went_pending),
    (_R, Completed): Rule("12b, 13", _AFTER_DONE, _completed),
    (_R, CompletionDeclined): Rule("12b, 14", (_R, _T, _K), _completion_declined),
    (_R, DeadlinePassed): Rule("12c", (_R, *_AFTER_DONE), _running_deadline),
    (_R, AbortCame): Rule("16", (_R,), _open_aborted),
    (_R, ClearCame): Rule("16", (_R,), _open_aborted),
    (_R, Resolved): Rule("22c", (_R, _T, _K, _X, *_AFTER_DONE), resolutions.of_running),
    (_R, OutcomeCame): Rule("28", (_R,), _outcome_while_open),
    (_D, AbortCame): Rule("17-19", (_D,), _settled_aborted),
    (_D, ClearCame): Rule("17-19", _AFTER_DONE, _settled_aborted),
    (_D, Undone): Rule("18", (_D, _C), _undone),
    (_D, UndoFailed): Rule("18", (_D, _CR), _undo_failed_at_once),
    (_D, OutcomeCame): Rule("28", (_D,), _outcome),
    (_K, AbortCame): Rule("17, 21", (_K,), _settled_aborted),
    (_K, ClearCame): Rule("17, 21", (_K, _X), _settled_aborted),
    (_K, OutcomeCame): Rule("28", (_K,), _outcome),
    (_CR, Claimed): Rule("19", (_CR,), _claim),
    (_CR, Undone): Rule("20", (_CR, _C), _undone),
    (_CR, UndoFailed): Rule("20", (_CR,), _undo_failed),
    (_CR, Resolved): Rule("22d", (_CR, _C), resolutions.of_compensating),
    (_CR, OutcomeCame): Rule("28", (_CR,), _outcome_while_open),
    (_T, OutcomeCame): Rule("28", (_T,), _outcome),
    (_C, OutcomeCame): Rule("28", (_C,), _outcome),
    (_X, OutcomeCame): Rule("28", (_X,), _outcome),
    **{(state, CancelRequested): Rule("-", (state,), _asked_to_cancel) for state in (_W, _R, _D, _T, _K, _X, _CR, _C)},
    **{(state, fact): Rule("12b", (), _completion_too_late)
       for state in (_W, _D, _T, _K, _X, _CR, _C) for fact in (Completed, CompletionDeclined)},
    **{(state, Resolved): Rule("22", (), resolutions.not_parked) for state in (_D, _T, _K, _X, _C)},
    (S.OPEN, Started): Rule("1", (S.OPEN,), origin.started),
    (S.REFUSED, Started): Rule("2", (), origin.started_too_late),
    (S.OPEN, DoneCame): Rule("23", (S.OPEN, S.COMPLETED), origin.done_came),
    (S.OPEN, SkipCame): Rule("23", (S.OPEN, S.COMPLETED), origin.skip_came),
    (S.OPEN, CancelRequested): Rule("24", (S.OPEN, S.ABORTING), origin.cancel_requested),
    (S.OPEN, DeadlinePassed): Rule("24", (S.OPEN, S.ABORTING), origin.deadline_passed),
    (S.OPEN, AbortCame): Rule("24", (S.ABORTING,), origin.abort_came),
    (S.OPEN, ClearCame): Rule("24", (S.ABORTING, S.ABORTED), origin.clear_came),
    (S.ABORTING, AbortCame): Rule("24", (S.ABORTING,), origin.abort_came),
    (S.ABORTING, ClearCame): Rule("25", (S.ABORTING, S.ABORTED), origin.clear_came),
    **{(state, CancelRequested): Rule("26", (), origin.cancel_too_late) for state in (S.COMPLETED, S.ABORTED)},
}  # fmt: skip
