"""What the oracle is told of each run of a handler: that it begins, with what, and how it ends."""

from __future__ import annotations

from saga_choreo.core.graph import Plan
from saga_choreo.core.rows import Duty
from saga_choreo.model.record import Record
from saga_choreo.runtime.operations import Broke, Execute, Executed, Rejected
from saga_choreo.runtime.settling import is_undo
from saga_choreo.testing.simulator.oracle import Oracle

__all__ = ["notice_answer", "notice_run"]


def notice_run(oracle: Oracle, operation: Execute, plan: Plan, *, is_suspect: bool) -> None:
    record, undoes = operation.record, is_undo(operation.duty)
    oracle.policies.runs(record, is_undo=undoes)
    if operation.inside and record.lease_ms is None:
        oracle.policies.runs_fast(record, is_suspect=is_suspect)
    if undoes:
        oracle.carried.undo(oracle.ledgers[record.saga_id], record.step, record.results, record.kept)
        return
    oracle.carried.inputs(record, plan)
    if operation.duty is Duty.CALL:
        oracle.policies.calls(record.record_key, str(record.row.key_no))


def notice_answer(oracle: Oracle, record: Record, executed: Executed) -> None:
    if isinstance(executed, Rejected) or (isinstance(executed, Broke) and executed.final):
        oracle.policies.is_told(record.record_key, refused=isinstance(executed, Rejected))
