"""How an attempt begins: whether it may, what it waits for, and its claim. The part of the pipeline before a handler runs."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from saga_choreo.core.facts import Claimed, UndoFailed
from saga_choreo.core.rows import Duty
from saga_choreo.model.record import Record
from saga_choreo.model.states import State
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.leases import lease_of
from saga_choreo.runtime.operations import Admit, Admitted, Executed, Operation
from saga_choreo.runtime.settling import died_too_often, give_up, is_undo, settle_uncalled
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.workspace import Workspace

__all__ = ["admission", "claim_attempt", "settle_unclaimed", "timeout_s"]


def timeout_s(known: Known, step: int, limits: Limits) -> float:
    """How long one attempt may take."""
    return known.options(step).timeout_s or limits.slow_timeout_s


def admission(record: Record, known: Known, what: Duty, *, waited: bool) -> Generator[Operation, Any, Admitted | Executed]:
    """Limits, breakers and locks hold back what a step does, never its undo."""
    if is_undo(what) or not known.options(record.step).is_guarded:
        return Admitted(record.lock)
    answer: Admitted | Executed = yield Admit(record, what, waited)
    return answer


def settle_unclaimed(ws: Workspace, record: Record, known: Known, what: Duty) -> bool:
    """What ends without one more attempt: the last one has died, or the saga was undone before a guarded call began. Returns
    whether it was so."""
    key, row = record.record_key, record.row
    if row.state is not State.DONE and died_too_often(record, known, what, ws.now_ms):
        give_up(ws, key, known, what, record.error or "every attempt ended without an answer")
        return True
    return known.options(key.step).is_guarded and settle_uncalled(ws, key, known)


def claim_attempt(ws: Workspace, record: Record, known: Known, what: Duty, lock: str, limits: Limits) -> Duty:
    """Count the attempt in a commit of its own, so that one which kills its agent is counted too. Returns what it is to do."""
    key, row = record.record_key, record.row
    if row.state is State.DONE:  # a local undo that is due again: from now on it is a retried one
        ws.act(key, UndoFailed(row.attempt), known)
        what = Duty.CALL_UNDO
    lease_ms = ws.now_ms + int(1000 * lease_of(record, limits, timeout_s(known, record.step, limits)))
    ws.act(key, Claimed(), known, lease_ms=lease_ms, lock=lock)
    ws.retry_at(key, lease_ms)
    return what
