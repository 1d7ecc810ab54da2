"""What one run of the pipeline asks before a step may run: permits of the agent's limits, and semantic locks.

As the real driver does it: a permit stays with the record until its run has an answer, or the whole piece of work ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from saga_choreo.core.rows import Duty
from saga_choreo.errors import SagaError
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports.store import SagaLock
from saga_choreo.runtime.attempt import inputs_of
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.gates import Permit
from saga_choreo.runtime.locking import on_conflict
from saga_choreo.runtime.operations import Admit, Admitted, Broke, Executed, HeldBack, Overran, Ran, Rejected
from saga_choreo.runtime.settling import is_undo

if TYPE_CHECKING:
    from saga_choreo.testing.simulator.driving import Run
    from saga_choreo.testing.simulator.store import SimulatedTransaction

__all__ = ["Admission"]

Then = Callable[[Admitted | Executed], None]


class Admission:
    """Of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._process = run.process
        self._incarnation = run.process.publishing
        self._permits: dict[RecordKey, tuple[Permit, str, object]] = {}

    def _known(self, record: Record) -> Known:
        known = self._process.catalog.get(record.definition)
        assert known is not None
        return known

    def ask(self, operation: Admit, transaction: SimulatedTransaction, then: Then) -> HeldBack | Admitted | None:
        """The answer, or None when `then` will be called with it."""
        process, record, key = self._process, operation.record, operation.record.record_key
        known = self._known(record)
        name, options = known.plan.step(record.step).name, known.options(record.step)
        if is_undo(operation.duty):
            process.world.broken("LIMIT", f"the undo of step {name!r} was held back; only what a step does is limited")
        if key not in self._permits:
            said = process.gates.ask(name, options, waited=operation.waited)
            if isinstance(said, HeldBack):
                self._run.was_held_back = True
                return said
            if said is not None:
                now_s = process.world.now_ns / 1e9
                self._permits[key] = said, name, process.watch.began(self._incarnation, name, options, now_s)
        if operation.duty is not Duty.CALL:
            return Admitted(record.lock)

        def taken(answer: Admitted | Executed) -> None:
            if not isinstance(answer, Admitted):
                self._end(key, None)
            then(answer)

        process.world.soon(self.take_lock, record, transaction, taken)
        return None

    def take_lock(self, record: Record, transaction: SimulatedTransaction, then: Then) -> None:
        """The step's lock, if it has one and does not hold it: `then` is called once this is known."""
        if self._run.is_dead:
            return
        world, known = self._process.world, self._known(record)
        bound = known.handlers[record.step]
        name = "" if record.lock or bound.options.lock is None else bound.lock_name(inputs_of(record, known))
        if not name:
            then(Admitted(record.lock))
            return
        store = self._process.store
        holder = store.take_lock(transaction, name, record.saga_id)
        if holder is None:
            world.saw("waited for a lock's row")
            try:
                store.when_lock_free(transaction, name, lambda: self.take_lock(record, transaction, then))
            except SagaError as conflict:
                self._run.go(error=conflict)
        elif holder == record.saga_id:
            then(Admitted(name))
        else:
            held = SagaLock(service=record.service, name=name, saga_id=holder)
            now_ms = world.wall_ns(self._process.skew_ns) // 1_000_000
            answer = on_conflict(record, held, bound.options.on_conflict, now_ms, self._process.jitter.random())
            then(answer)

    def executed(self, record: Record, answer: Executed) -> None:
        """Overrunning the fast lane's budget says nothing of what the step calls, an attempt's time-out does."""
        timed_out = isinstance(answer, Overran) and record.lease_ms is not None
        self._end(record.record_key, Broke("timed out") if timed_out else answer)

    def over(self) -> None:
        """The run has ended."""
        for key in tuple(self._permits):
            self._end(key, None)

    def _end(self, key: RecordKey, answer: Executed | None) -> None:
        if key not in self._permits:
            return
        permit, name, run = self._permits.pop(key)
        permit.end(permit, answer)
        failed: bool | None = None
        match answer:
            case Ran() | Rejected(was_run=True):
                failed = False
            case Broke():
                failed = True
            case _:
                pass
        self._process.watch.ended(self._incarnation, name, run, self._process.world.now_ns / 1e9, failed=failed)
