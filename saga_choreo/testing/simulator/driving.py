"""Drives one generator of the product's pipeline in the simulated world: what `runtime.driver` does for a real one.

Between any two operations the process may die; then the generator is never resumed and never cleaned up, its locks are
free and what it had not committed is gone.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, assert_never
from uuid import UUID

from saga_choreo.core.states import end_state
from saga_choreo.errors import SagaError, StoreConflict, StoreUnavailable, TransactionTooLong
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports.broker import Delivery
from saga_choreo.ports.store import completed_among
from saga_choreo.runtime.operations import (
    Ack,
    Admit,
    Admitted,
    Begin,
    Claim,
    Commit,
    Complete,
    Ending,
    Execute,
    Executed,
    Now,
    Operation,
    Pause,
    Publish,
    Ran,
    Release,
    Rollback,
    Save,
    Tell,
)
from saga_choreo.runtime.pipeline import Steps
from saga_choreo.runtime.settling import is_undo
from saga_choreo.testing.simulator.admission import Admission
from saga_choreo.testing.simulator.broker import Letter
from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.noticing import notice_answer, notice_run
from saga_choreo.testing.simulator.shown import shown
from saga_choreo.testing.simulator.store import SimulatedTransaction
from saga_choreo.testing.simulator.world import SECOND

if TYPE_CHECKING:
    from saga_choreo.testing.simulator.process import Process

__all__ = ["Run"]

Ended = Callable[["Run", Any, SagaError | None], None]
_WAITING = object()


class Run:
    """One run of one generator. `letters` are the deliveries it has to acknowledge; `effects` go with its first commit (what a
    person did by hand, and now says)."""

    def __init__(
        self,
        process: Process,
        what: str,
        steps: Steps,
        ended: Ended,
        letters: Sequence[Letter] = (),
        effects: Sequence[Effect] = (),
    ) -> None:
        self.process = process
        self.what = what
        self.steps = steps
        self.unacked: dict[Letter, None] = dict.fromkeys(letters)
        self.has_committed = self.has_acked = self.is_calling = self.owes_publishing = False
        # A step was held back in it; something failed that it may fail for.
        self.was_held_back = self.was_hurt = False
        # The attempt that the store has ended.
        self._unsettled: Record | None = None
        self._is_due = what.startswith("work on")
        # The only message has come so often that it may have killed its agent.
        self._is_suspect = len(letters) == 1 and letters[0].attempt > process.limits.deliveries_fast
        self._ended = ended
        self._effects = list(effects)
        self._world = process.world
        self._store = process.store
        self._transaction: SimulatedTransaction | None = None
        self._saved: list[Record] = []
        self._completed: list[RecordKey] = []
        self._is_dead = False
        self._admission = Admission(self)
        self._misses = process.presuming.misses

    @property
    def is_dead(self) -> bool:
        return self._is_dead

    def kill(self) -> None:
        """The process has died."""
        self._is_dead = True
        if self._transaction is not None:
            self._store.end(self._transaction)

    def go(self, answer: Any = None, error: Exception | None = None) -> None:
        """Resume with an answer, and go on until something takes time."""
        if self._is_dead:
            return
        world = self._world
        while True:
            self.was_hurt = self.was_hurt or error is not None
            try:
                operation: Operation = self.steps.send(answer) if error is None else self.steps.throw(error)
            except StopIteration as end:
                self._end(end.value, None)
                return
            except SagaError as failure:
                self._end(None, failure)
                return
            except Exception:  # noqa: BLE001  whatever it is, it is a bug of the product, and the seed's finding
                world.broken("BUG", traceback.format_exc(limit=-4))
                return
            error = None
            if self.process.dies_here(self):
                return
            if world.is_traced:
                world.note(f"{self.process.name}", f"{self.what}: {shown(operation)}")
            try:
                answer = self._carry_out(operation)
            except SagaError as failure:
                error = failure
            if answer is _WAITING:
                return

    def _end(self, value: Any, error: SagaError | None) -> None:
        self._leave()
        self._is_dead = True
        self._admission.over()
        if error is not None and self.was_held_back and not self.was_hurt:
            self._world.broken("L7", f"{self.what} failed for a step that was held back: {error}")
        oracle = self.process.house.oracle
        if isinstance(error, TransactionTooLong):
            self._world.broken("L7", f"{self.what} failed for one step that held up its transaction: {error}")
        elif self._unsettled is not None and error is None:
            oracle.blocked.settled(self._unsettled, self._store.get(self._unsettled.record_key))
        self._ended(self, value, error)

    def _leave(self) -> None:
        self._saved, self._completed = [], []
        if self._transaction is not None:
            transaction, self._transaction = self._transaction, None
            self._store.end(transaction)

    def _carry_out(self, operation: Operation) -> Any:
        world, process = self._world, self.process
        match operation:
            case Now():
                return world.wall_ns(process.skew_ns), process.jitter.random()
            case Begin():
                self._transaction = SimulatedTransaction()
            case Claim(sagas=sagas):
                self._in_store_time(self._claim, self._store.keys_of(sagas))
                return _WAITING
            case Complete():
                self._in_store_time(self._complete, operation)
                return _WAITING
            case Admit():
                answer = self._admission.ask(operation, self._open(), self.go)
                return _WAITING if answer is None else answer
            case Execute():
                return self._execute(operation)
            case Save():
                return self._save(operation)
            case Commit():
                self._in_store_time(self._commit)
                return _WAITING
            case Rollback():
                self._leave()
            case Pause(seconds=seconds):
                # A conflict that the pipeline has found by itself is one.
                self.was_hurt = self.was_hurt or process.presuming.misses > self._misses
                if self.was_held_back and not self.was_hurt:
                    world.broken("L7", f"{self.what} waits for a step that is held back, and messages with it")
                world.after(int(seconds * SECOND), self.go)
                return _WAITING
            case Publish(publications=publications, loose=loose):
                self.owes_publishing = False
                process.publishing.submit(publications, loose)
            case Ack(deliveries=deliveries):
                world.soon(self._ack, deliveries)
                return _WAITING
            case Release(deliveries=deliveries, delay_s=delay_s):
                for delivery in deliveries:
                    self._release(delivery, delay_s)
            case Tell(endings=endings):
                return self._tell(endings)
            case _:
                assert_never(operation)
        return None

    def _tell(self, endings: Sequence[Ending]) -> frozenset[UUID]:
        world, service = self._world, self._store.service
        if world.hit("tell_fails") is not None:
            world.saw("callback told again")
            return frozenset(ending.record.saga_id for ending in endings)
        for one in endings:
            world.told.setdefault((service, one.record.saga_id), []).append(end_state(one.outcome, one.cause))
        return frozenset()

    def _in_store_time(self, call: Callable[..., None], *arguments: Any) -> None:
        slow = self._world.hit("store_slow")
        if slow is None:
            self._world.soon(call, *arguments)
        else:
            self._world.after(int(slow * slow * 3 * SECOND), call, *arguments)

    def _open(self) -> SimulatedTransaction:
        assert self._transaction is not None, "the pipeline begins a transaction before it uses one"
        return self._transaction

    def _claim(self, keys: Sequence[Any]) -> None:
        self._with_rows(keys, self.go)

    def _with_rows(self, keys: Sequence[RecordKey], then: Callable[[list[Record]], None]) -> None:
        """Lock these rows, waiting for whoever has one, and go on with what they say."""
        if self._is_dead:
            return
        bad = self._world.hit("store_error")
        if bad is not None:
            self.go(error=StoreConflict("deadlock detected") if bad < 0.6 else StoreUnavailable("the connection was lost"))
            return
        taken = self._store.claim(self._open(), keys)
        if taken is not None:
            self._world.saw("waited for a row")
            try:
                self._store.when_free(self._open(), taken, lambda: self._with_rows(keys, then))
            except StoreConflict as conflict:
                self.go(error=conflict)
            return
        mine = self._open().writes
        then([record for key in keys if (record := mine.get(key) or self._store.get(key)) is not None])

    def _complete(self, operation: Complete) -> None:
        keys = self._store.keys_of(sorted({end.key.saga_id for end in operation.ends}))

        def ended(records: list[Record]) -> None:
            saved, sagas = completed_among(records, operation.ends, operation.now_ms)
            self._store.save(self._open(), saved)
            self._completed = [record.record_key for record in records if record.saga_id in sagas]
            if saved:
                self._world.saw("ended in bulk")
            self.go(sagas)

        self._with_rows(keys, ended)

    def _execute(self, operation: Execute) -> Any:
        known = self.process.catalog.get(operation.record.definition)
        assert known is not None
        self.is_calling = not operation.inside

        in_slow_lane = operation.record.lease_ms is not None
        stalled = self._world.hit("stall") if in_slow_lane else None

        record, transaction, lock = operation.record, self._transaction, operation.record.lock

        before = {} if transaction is None else dict(transaction.saga_locks)

        def go_on(executed: Executed) -> None:
            self.is_calling = False
            if self._is_dead:
                return
            if operation.inside and transaction is not None and not isinstance(executed, Ran):
                transaction.saga_locks = before  # the savepoint is undone
            self._admission.executed(record, executed)
            if operation.inside and self.process.house.oracle.blocked.hits(record):
                self._cut_short(operation)
                return
            notice_answer(self.process.house.oracle, record, executed)
            self.go(replace(executed, lock=lock) if isinstance(executed, Ran) and operation.inside else executed)

        def answer(executed: Executed) -> None:
            if stalled is None:
                go_on(executed)
            else:  # the process was stopped for a while, perhaps longer than its lease
                self._world.saw("attempt stalled")
                self._world.after(int(stalled * 100 * SECOND), go_on, executed)

        def run(taken: Admitted | Executed) -> None:
            nonlocal lock
            if isinstance(taken, Admitted):
                lock = taken.lock
                self.process.handlers.run(operation, known, transaction, answer)
            else:
                go_on(taken)

        notice_run(self.process.house.oracle, operation, known.plan, is_suspect=self._is_suspect)
        if operation.inside and not is_undo(operation.duty) and transaction is not None:
            self._admission.take_lock(record, transaction, run)
        else:
            self.process.handlers.run(operation, known, transaction, answer)
        return _WAITING

    def _cut_short(self, operation: Execute) -> None:
        """The store has ended the transaction, which the handler held up for too long."""
        if operation.record.lease_ms is None:
            self.process.house.oracle.blocked.noted(operation.record, f"{self.process.name}: {self.what}" if self._is_due else self)
        else:
            self._unsettled = operation.record
        self.go(error=TransactionTooLong("the only writer was held for too long"))

    def _save(self, operation: Save) -> Any:
        """The rows of locks that it frees may be another transaction's: then it waits."""
        transaction = self._open()
        busy = self._store.free_locks(transaction, operation.unlock)
        if busy is not None:
            self._store.when_lock_free(transaction, busy, lambda: self._save_again(operation))
            return _WAITING
        self._store.save(transaction, operation.records)
        transaction.quarantined += operation.quarantined
        transaction.held += operation.held
        transaction.unheld += operation.unhold
        for (_, name), count in operation.counters.items():
            transaction.counters[name] = transaction.counters.get(name, 0) + count
        self._saved.extend(operation.records)
        if self.unacked and all(letter.attempt <= self.process.limits.deliveries_fast for letter in self.unacked):
            fresh = (one for one in operation.records if (old := self._store.get(one.record_key)) is None or old.error != one.error)
            self.process.house.oracle.blocked.saved(fresh)
        return None

    def _save_again(self, operation: Save) -> None:
        if self._is_dead:
            return
        try:
            answer = self._save(operation)
        except SagaError as failure:
            self.go(error=failure)
            return
        if answer is not _WAITING:
            self.go()

    def _commit(self) -> None:
        if self._is_dead:
            return
        world, transaction = self._world, self._open()
        if world.hit("commit_refused") is not None:
            world.saw("commit refused")
            self._store.end(transaction)
            self.go(error=StoreConflict("could not serialize access"))
            return
        unknown = world.hit("commit_unknown")
        if unknown is not None and unknown < 0.5:
            world.saw("commit unknown, not applied")
            self._store.end(transaction)
            self.go(error=StoreUnavailable("the connection was lost during the commit"))
            return
        transaction.effects[:0] = self._effects  # they were done by hand before the word was said
        self._effects = []
        records = self._store.commit(transaction)
        if transaction.held:
            self.process.expect_held()
        self.process.house.changed(self.process, records)
        if unknown is not None:
            world.saw("commit unknown, applied")
            self.go(error=StoreUnavailable("the connection was lost during the commit"))
            return
        self.has_committed = True
        self.owes_publishing = any(record.announced < record.version for record in records)
        saved, completed = self._saved, self._completed
        self._leave()
        self.process.publishing.saved(saved)
        self.process.publishing.announcing.forget(completed)
        self.go()

    def _ack(self, deliveries: Sequence[Delivery]) -> None:
        if self._is_dead:
            return
        self.has_acked = True
        for delivery in deliveries:
            if delivery.token in self.unacked:
                del self.unacked[delivery.token]
                self.process.house.broker.ack(delivery.token)
        self.go()

    def _release(self, delivery: Delivery, delay_s: float) -> None:
        self.unacked.pop(delivery.token, None)
        self.process.house.broker.give_back(delivery.token, delay_s)
