"""One attempt of one handler: its context, its lock, its budget, and what its end means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from saga_choreo.codec.tokens import Token, write_token
from saga_choreo.core.rows import Duty
from saga_choreo.errors import (
    ConfigurationError,
    DefinitionError,
    Reject,
    ResultTooLarge,
    StoreConflict,
    StoreUnavailable,
    TransactionTooLong,
)
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import Record
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import SagaLock, Transaction, UserTx
from saga_choreo.runtime.budgets import Budgets
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.payload import encode
from saga_choreo.runtime.failures import failure_of
from saga_choreo.runtime.lending import Lent
from saga_choreo.runtime.locking import on_conflict
from saga_choreo.runtime.logs import bound
from saga_choreo.runtime.operations import Admitted, Broke, Execute, Executed, HeldBack, Overran, Ran, Rejected
from saga_choreo.runtime.settling import is_undo
from saga_choreo.runtime.stored import storable

__all__ = ["Attempt", "execute", "inputs_of", "is_cancelled", "take_lock"]

_log = logging.getLogger("saga_choreo.step")
# A later attempt would end the same way: the code or the definition has to change first.
_FINAL = (ResultTooLarge, DefinitionError, ConfigurationError)


class Attempt:
    """The `ctx` of a handler (see `StepContext`)."""

    def __init__(
        self, record: Record, step: str, what: Duty, transaction: Transaction | None, extend: Callable[[Record], Awaitable[None]]
    ) -> None:
        self._record = record
        self._what = what
        self._transaction = transaction
        self._extend = extend
        self._lent = Lent(transaction, step)
        self.kept: bytes | None = None
        self.step = step
        self.service = record.service
        self.saga_id: UUID = record.saga_id
        self.key = record.key
        # In the fast lane an attempt is counted only when it fails; in the slow lane before it runs.
        self.attempt = max(record.row.attempt, 1)

    @property
    def tx(self) -> UserTx:
        return self._lent.tx

    @property
    def raw(self) -> Any:
        return self._lent.raw

    def end(self) -> None:
        """The handler has ended: what it left running writes nothing any more."""
        self._lent.end()

    @property
    def idempotency_key(self) -> str:
        side = "undo" if is_undo(self._what) else "do"
        return f"{self.saga_id}:{self.step}:{side}:{self._record.row.key_no}"

    @property
    def token(self) -> str:
        if self._what is not Duty.CALL:
            raise ConfigurationError(
                f"{'the compensation of ' if is_undo(self._what) else ''}step {self.step!r} cannot be completed later and has no "
                "ctx.token; only the handler of an external step may return Pending()"
            )
        record = self._record
        return write_token(Token(record.saga_id, record.definition, record.step, record.row.key_no))

    @property
    def deadline(self) -> datetime | None:
        at = self._record.deadline_ms
        return None if at is None else datetime.fromtimestamp(at / 1000, UTC)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        return bound(_log, saga_id=str(self.saga_id), step_id=self.step)

    async def heartbeat(self) -> None:
        if self._transaction is None:  # the lease of a plain step outlasts its time-out anyway
            await self._extend(self._record)

    def keep(self, model: BaseModel) -> None:
        self.kept = encode(model, f"what step {self.step!r} keeps for its compensation")


async def execute(
    operation: Execute,
    known: Known,
    transaction: Transaction | None,
    extend: Callable[[Record], Awaitable[None]],
    clock: Clock,
    budgets: Budgets,
) -> Executed:
    """Run the handler within its budget. Raises StoreConflict and StoreUnavailable (no fault of the step) and
    TransactionTooLong (the transaction is gone); else a savepoint has undone what the handler wrote unless the answer is Ran. In
    the fast lane most handlers succeed, so the store may hope that none has to be undone."""
    record, what = operation.record, operation.duty
    step = known.handlers[record.step]
    inside = transaction if operation.inside else None
    ctx = Attempt(record, step.definition.name, what, inside, extend)
    budget = budgets.of(operation.budget_s)
    try:
        with budget:
            if inside is None:
                return await _call(step, record, known, what, ctx)
            async with inside.savepoint(hopeful=record.lease_ms is None and step.options.lock is None):
                if step.options.lock is None and not record.lock:
                    return await _call(step, record, known, what, ctx)
                taken = await _take_lock(record, known, what, inside, clock)
                if not isinstance(taken, Admitted):
                    return taken
                return replace(await _call(step, record, known, what, ctx), lock=taken.lock)
    except Reject as no:
        return Rejected(storable(no.reason))
    except (StoreConflict, StoreUnavailable, TransactionTooLong) as error:
        if inside is None:  # a heartbeat that failed: the call to the outside must not be repeated for it
            return _broke(error, known, record, what)
        raise
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        return _broke(error, known, record, what)  # the handler, or what it waited for, was cancelled by itself
    except TimeoutError as error:
        return Overran() if budget.has_run_out else _broke(error, known, record, what)
    except Exception as error:  # noqa: BLE001  whatever a handler raises is a technical failure of the step, never of the agent
        ctx.log.warning("attempt %d failed: %s", ctx.attempt, _words(error))
        return _broke(error, known, record, what)
    finally:
        ctx.end()


async def take_lock(record: Record, known: Known, transaction: Transaction, clock: Clock) -> Admitted | Executed:
    """The lock of a call to the outside, taken in the commit that claims its attempt. A function for its name that fails is a
    failure of the step. Raises what the store raises."""
    try:
        return await _take_lock(record, known, Duty.CALL, transaction, clock)
    except (StoreConflict, StoreUnavailable, TransactionTooLong):
        raise
    except Exception as error:  # noqa: BLE001  (as in `execute`)
        return _broke(error, known, record, Duty.CALL)


async def _take_lock(
    record: Record, known: Known, what: Duty, transaction: Transaction, clock: Clock
) -> Admitted | Rejected | HeldBack:
    """Nothing is asked for what holds its lock already, or needs none."""
    step = known.handlers[record.step]
    name = "" if is_undo(what) or record.lock or step.options.lock is None else step.lock_name(inputs_of(record, known))
    if not name:
        return Admitted(record.lock)
    wanted = SagaLock(service=record.service, name=name, saga_id=record.saga_id)
    held = await transaction.lock(wanted)
    if held.saga_id == record.saga_id:
        return Admitted(name)
    return on_conflict(record, held, step.options.on_conflict, clock.time_ns() // 1_000_000, clock.chance())


def _broke(error: BaseException, known: Known, record: Record, what: Duty) -> Broke:
    """A failure, with the policy the step has for errors of this class."""
    options = known.options(record.step)
    retry = options.undo_retry if is_undo(what) else options.retry
    return Broke(_words(error), final=isinstance(error, _FINAL), retry=retry.of(type(error)), failure=failure_of(error))


async def _call(step: BoundStep, record: Record, known: Known, what: Duty, ctx: Attempt) -> Ran:
    if is_undo(what):
        results = {number: record.results[number] for number in record.results}
        return Ran(undo_result=await step.undo(results, record.kept, ctx))
    handled = await step.run(inputs_of(record, known), ctx)
    return Ran(handled, ctx.kept)


def inputs_of(record: Record, known: Known) -> Mapping[EventRef, bytes]:
    """The payloads that have come, by event."""
    edges = known.plan.step(record.step).in_edges
    inputs: dict[EventRef, bytes] = {}
    for bit, payload in record.inputs.items():
        event = edges[bit][1]
        if event is not None:
            inputs[event] = payload
    return inputs


def is_cancelled() -> bool:
    """Whether somebody wants this very task to end."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _words(error: BaseException) -> str:
    return storable(f"{type(error).__name__}: {error}")
