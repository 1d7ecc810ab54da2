"""Carries out the pipeline's operations on a real store and broker. The only place where the generator meets I/O."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol, assert_never
from uuid import UUID

from saga_choreo.core.rows import Duty
from saga_choreo.errors import SagaError, StoreConflict
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports.broker import Broker, Delivery, Outgoing
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import Store, Transaction
from saga_choreo.runtime.attempt import execute, take_lock
from saga_choreo.runtime.budgets import Budgets
from saga_choreo.runtime.catalog import Catalog, Known
from saga_choreo.runtime.failures import stamped
from saga_choreo.runtime.gates import Gates, Permit
from saga_choreo.runtime.leases import Leases
from saga_choreo.runtime.operations import (
    Ack,
    Admit,
    Admitted,
    Begin,
    Broke,
    Claim,
    Commit,
    Complete,
    Ending,
    Execute,
    Executed,
    HeldBack,
    Now,
    Operation,
    Overran,
    Pause,
    Publication,
    Publish,
    Rejected,
    Release,
    Rollback,
    Save,
    Tell,
)
from saga_choreo.runtime.pipeline import Steps
from saga_choreo.runtime.settling import is_undo

__all__ = ["Driver", "Surroundings"]

_log = logging.getLogger("saga_choreo.driver")
_step_log = logging.getLogger("saga_choreo.step")


class Surroundings(Protocol):
    """What a driver is used in: an agent, or a client that only starts sagas."""

    @property
    def service(self) -> str: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def store(self) -> Store: ...
    @property
    def broker(self) -> Broker: ...
    @property
    def catalog(self) -> Catalog: ...
    @property
    def gates(self) -> Gates: ...

    async def publish(self, publications: Sequence[Publication], loose: Sequence[Outgoing]) -> None:
        """Take over publishing; returns before the broker has confirmed, unless too much is under way."""
        ...

    def saved(self, records: Sequence[Record]) -> None:
        """These records are committed."""
        ...

    def completed(self, keys: Sequence[RecordKey]) -> None:
        """The sagas of these records are committed as completed, with all their records here."""
        ...

    async def tell(self, endings: Sequence[Ending]) -> frozenset[Any]: ...

    def waited(self, seconds: float) -> None:
        """For a handler, or for its turn."""
        ...

    @property
    def leases(self) -> Leases: ...
    @property
    def executing(self) -> dict[RecordKey, str]: ...
    @property
    def agent(self) -> str:
        """Which process this is, to be kept with what goes wrong; and `version`, of what code."""
        ...

    @property
    def version(self) -> str: ...


class Driver:
    """One run of one generator: at most one open transaction."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._open: tuple[AbstractAsyncContextManager[Transaction], Transaction] | None = None
        self._saved: list[Record] = []
        self._ended: list[RecordKey] = []
        self._permits: dict[RecordKey, Permit] = {}
        self._answers: dict[RecordKey, Executed] = {}
        self._leased: RecordKey | None = None
        self._budgets = Budgets()
        self.acked: set[int] = set()

    async def run(self, steps: Steps) -> Any:
        """Drive to the end and return what the generator returns. Raises what it raises; a transaction left open is rolled back."""
        try:
            operation: Operation = next(steps)
            while True:
                if isinstance(operation, Now):  # asked three times a message, and answered without a wait
                    operation = steps.send(self._now())
                    continue
                try:
                    answer = await self._carry_out(operation)
                except SagaError as error:
                    operation = steps.throw(error)
                else:
                    operation = steps.send(answer)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()
            self._budgets.close()
            for key in tuple(self._permits):
                self._end_permit(key, self._answers.get(key))
            if self._leased is not None:
                self._around.leases.let_go(self._leased)
            await self._leave()

    async def _carry_out(self, operation: Operation) -> Any:
        around = self._around
        match operation:
            case Now():
                return self._now()
            case Begin():
                context = around.store.transaction()
                self._open = (context, await context.__aenter__())
            case Claim(sagas=sagas):
                return await self._transaction().claim(around.service, sagas)
            case Complete():
                return await self._complete(operation)
            case Admit():
                return await self._admit(operation)
            case Execute():
                return await self._execute(operation)
            case Save():
                await self._save(operation)
            case Commit():
                await self._commit()
            case Rollback():
                await self._leave()
            case Pause(seconds=seconds):
                await around.clock.sleep(seconds)
            case Publish(publications=publications, loose=loose):
                await around.publish(publications, loose)
            case Ack(deliveries=deliveries):
                await self._ack(deliveries)
            case Release(deliveries=deliveries, delay_s=delay_s):
                await self._release(deliveries, delay_s)
            case Tell(endings=endings):
                return await around.tell(endings)
            case _:
                assert_never(operation)
        return None

    def _now(self) -> tuple[int, float]:
        clock = self._around.clock
        return clock.time_ns(), clock.chance()

    async def _complete(self, operation: Complete) -> Collection[UUID]:
        ended = await self._transaction().complete(self._around.service, operation.ends, operation.now_ms)
        self._ended = [end.key for end in operation.ends if end.key.saga_id in ended]
        return ended

    def _transaction(self) -> Transaction:
        assert self._open is not None, "the pipeline begins a transaction before it uses one"
        return self._open[1]

    async def _admit(self, operation: Admit) -> Admitted | Executed:
        """A permit stays with the record until its run has an answer, or this whole piece of work ends."""
        record, key = operation.record, operation.record.record_key
        known = self._around.catalog.get(record.definition)
        assert known is not None
        if key not in self._permits:
            name, options = known.plan.step(record.step).name, known.options(record.step)
            said = self._around.gates.ask(name, options, waited=operation.waited)
            if isinstance(said, HeldBack):
                self._around.waited(said.until_ms / 1000 - self._around.clock.time_ns() / 10**9)
                return said
            if said is not None:
                self._permits[key] = said
        if operation.duty is not Duty.CALL:
            return Admitted(record.lock)
        answer = await take_lock(record, known, self._transaction(), self._around.clock)
        if not isinstance(answer, Admitted):
            self._end_permit(key, None)
        return answer

    def _end_permit(self, key: RecordKey, answer: Executed | None) -> None:
        permit = self._permits.pop(key, None)
        if permit is not None:
            permit.end(permit, answer)

    async def _execute(self, operation: Execute) -> Any:
        known = self._around.catalog.get(operation.record.definition)
        assert known is not None
        transaction = self._open[1] if self._open is not None else None
        if operation.record.lease_ms is not None:  # kept alive until its answer is settled
            self._leased = operation.record.record_key
            self._around.leases.hold(operation.record)
        began = self._around.clock.monotonic()
        key = operation.record.record_key
        self._around.executing[key] = known.plan.step(key.step).name
        try:
            answer = await execute(operation, known, transaction, self._extend, self._around.clock, self._budgets)
        finally:
            self._around.executing.pop(key, None)
            took_s = self._around.clock.monotonic() - began
            self._around.waited(took_s)
        answer = stamped(answer, self._around.agent, self._around.version)
        # Overrunning the fast lane's budget says nothing of what the step calls, an attempt's time-out does.
        timed_out = isinstance(answer, Overran) and operation.record.lease_ms is not None
        said = Broke("timed out") if timed_out else answer
        if operation.inside and operation.record.lease_ms is not None:
            self._answers[key] = said  # after a conflict it runs once more, under the same permit
        else:
            self._end_permit(key, said)
        level = logging.INFO if isinstance(answer, Rejected) or is_undo(operation.duty) else logging.DEBUG
        if _step_log.isEnabledFor(level):
            _report(level, operation, known, answer, 1000 * took_s)
        return answer

    async def _save(self, operation: Save) -> None:
        transaction = self._transaction()
        if operation.records:
            await transaction.save(operation.records)
        if operation.quarantined or operation.held or operation.counters or operation.unhold or operation.unlock:
            agent, version = self._around.agent, self._around.version
            await transaction.append(
                quarantined=[replace(one, agent=agent, version=version) for one in operation.quarantined],
                held=operation.held,
                counters=operation.counters,
                unhold=operation.unhold,
                unlock=operation.unlock,
            )
        self._saved.extend(operation.records)

    async def _commit(self) -> None:
        await self._transaction().commit()
        saved, ended = self._saved, self._ended
        await self._leave()
        self._around.saved(saved)
        if ended:
            self._around.completed(ended)

    async def _leave(self) -> None:
        self._saved, self._ended = [], []
        if self._open is not None:
            context, self._open = self._open[0], None
            await context.__aexit__(None, None, None)

    async def _ack(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self._around.broker.ack(deliveries)
        except SagaError as error:
            _log.info("an acknowledgement got lost (%s); the broker will deliver again, and nothing will be done twice", error)
        self.acked.update(map(id, deliveries))

    async def _release(self, deliveries: Sequence[Delivery], delay_s: float) -> None:
        """What cannot be handed back comes again later; it must not keep what is committed from being published."""
        try:
            await self._around.broker.release(deliveries, delay_s)
        except SagaError as error:
            _log.info("%d messages could not be handed back (%s); the broker delivers them again later", len(deliveries), error)

    async def _extend(self, claimed: Record) -> None:
        """A heartbeat: the lease begins anew, if the attempt is still the one that counts."""
        if await Driver(self._around).run(self._around.leases.renewal([claimed])):
            raise StoreConflict(
                f"step {claimed.step!r} of saga {str(claimed.saga_id)!r}: this attempt is not the one that counts any more; stop it"
            )


def _report(level: int, operation: Execute, known: Known, answer: Executed, duration_ms: float) -> None:
    """One line for a step's end. Undos and refusals are worth a line by default, the many that simply work are not."""
    record, word = operation.record, type(answer).__name__.lower()
    step = known.plan.step(record.step).name
    ids = {"saga_id": str(record.saga_id), "step_id": step, "duration_ms": round(duration_ms, 3), "event": f"step.{word}"}
    why = f" ({answer.reason})" if isinstance(answer, Rejected) else ""
    _step_log.log(level, "%s of step %r: %s%s", operation.duty, step, word, why, extra=ids)
