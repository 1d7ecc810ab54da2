"""The order saga's services as processes of their own: `saga-choreo run tests.scenarios.chaos.services:payment`.

Every effect is a row in the service's own ledger, written in the step's transaction. The ledger has no unique key and the toolkit
knows nothing of it: what was to be undone is gone, and what happened twice is there twice. CHAOS_* come from the scenario:
CHAOS_DIES_AT=n kills the process at its n-th call of broker or store, CHAOS_COPIES=n publishes everything so often.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from examples.order_processing.choreography import (
    OrderCreated,
    PaymentCharged,
    PaymentRefunded,
    ShipmentBooked,
    StockReleased,
    StockReserved,
    order_processing,
)
from saga_choreo import Agent, Limits, Reject, StepContext
from saga_choreo.ports import Broker, Outgoing
from saga_choreo.runtime.plugins import WholeStore, make_broker, make_store

__all__ = ["DECLARE", "LEDGER", "LIMITS", "agent_of"]

# What one would wait for otherwise: scans and repeated announcements are quick here. All else is the default.
LIMITS = Limits(nudge_first_s=2.0, nudge_max_s=8.0, unannounced_after_s=0.6, ready_timeout_s=20.0, stop_grace_s=5.0)
LEDGER = "create table if not exists ledger (saga text, step text, effect text, at_ns bigint)"
_NOTE = "insert into ledger (saga, step, effect, at_ns) values ($1, $2, $3, $4)"


async def note(ctx: StepContext, effect: str) -> None:
    await ctx.tx.execute(_NOTE, str(ctx.saga_id), ctx.step, effect, time.time_ns())


def _inventory(agent: Agent) -> None:
    @agent.step("reserve-stock")
    async def reserve(order: OrderCreated, ctx: StepContext) -> StockReserved:
        await note(ctx, "do")
        return StockReserved(order=order.order, quantity=order.quantity)

    @reserve.compensation
    async def release(reserved: StockReserved, ctx: StepContext) -> StockReleased:
        await note(ctx, "undo")
        return StockReleased(order=reserved.order)


def _payment(agent: Agent) -> None:
    @agent.step("charge-payment")
    async def charge(order: OrderCreated, reserved: StockReserved, ctx: StepContext) -> PaymentCharged:
        await note(ctx, "do")
        if order.card == "declined":  # after the write: the refusal has to undo it
            raise Reject("card declined")
        return PaymentCharged(order=order.order, amount_cents=order.amount_cents)

    @charge.compensation
    async def refund(charged: PaymentCharged, ctx: StepContext) -> PaymentRefunded:
        await note(ctx, "undo")
        return PaymentRefunded(order=charged.order, amount_cents=charged.amount_cents)


def _shipping(agent: Agent) -> None:
    @agent.step("book-shipment")
    async def book(order: OrderCreated, charged: PaymentCharged, ctx: StepContext) -> ShipmentBooked:
        await note(ctx, "do")
        if order.address == "unreachable":
            raise Reject("nobody delivers there")
        return ShipmentBooked(order=order.order)

    @book.compensation
    async def cancel(booked: ShipmentBooked, ctx: StepContext) -> None:
        await note(ctx, "undo")


def _order(agent: Agent) -> None:
    @agent.step("confirm-order")
    async def confirm(booked: ShipmentBooked, ctx: StepContext) -> None:
        await note(ctx, "do")

    @confirm.compensation
    async def withdraw(ctx: StepContext) -> None:
        await note(ctx, "undo")


DECLARE: dict[str, Callable[[Agent], None]] = {
    "inventory": _inventory,
    "payment": _payment,
    "shipping": _shipping,
    "order": _order,
}


class _Boundaries:
    """Counts the calls of broker and store: each is a point before and a point after. Dies at the n-th, says how many there were."""

    def __init__(self, dies_at: int, count_in: str) -> None:
        self._dies_at = dies_at
        self._count_in = count_in
        self._passed = 0

    def passes(self) -> None:
        self._passed += 1
        if self._count_in:
            Path(self._count_in).write_text(str(self._passed))
        if self._passed == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, real: Any) -> Any:
        return _Bounded(real, self)


class _Bounded:
    """A broker, store or transaction, with a boundary before and after each awaited call. Waiting for messages is none."""

    def __init__(self, real: Any, boundaries: _Boundaries) -> None:
        self._real = real
        self._boundaries = boundaries

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name == "transaction":
            return lambda: self._inside(found())
        if not iscoroutinefunction(found) or name in ("receive", "open", "close", "notify"):
            return found

        async def bounded(*arguments: Any, **named: Any) -> Any:
            self._boundaries.passes()
            answer = await found(*arguments, **named)
            self._boundaries.passes()
            return answer

        return bounded

    @asynccontextmanager
    async def _inside(self, context: Any) -> AsyncGenerator[Any]:
        async with context as real:
            self._boundaries.passes()
            yield self._boundaries.around(real)
        self._boundaries.passes()


class _Copying:
    """A broker that delivers everything several times."""

    def __init__(self, real: Broker, copies: int) -> None:
        self._real = real
        self._copies = copies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        answers = await self._real.publish(messages)
        for _ in range(self._copies - 1):
            await self._real.publish(messages)
        return answers


def agent_of(service: str, broker: str | Broker, store: str | WholeStore, prefix: str) -> Agent:
    return Agent(service, saga=order_processing, broker=broker, store=store, prefix=prefix, limits=LIMITS)


def __getattr__(name: str) -> Agent:
    """`saga-choreo run` asks for the service by name: only that one is made."""
    if name not in DECLARE or "CHAOS_PREFIX" not in os.environ:
        raise AttributeError(name)
    prefix = os.environ["CHAOS_PREFIX"]
    boundaries = _Boundaries(int(os.environ.get("CHAOS_DIES_AT", "0")), os.environ.get("CHAOS_COUNT_IN", ""))
    broker: Any = make_broker(os.environ["SAGA_BROKER_URL"], prefix=prefix)
    store: Any = make_store(os.environ["SAGA_STORE_URL"])
    if copies := int(os.environ.get("CHAOS_COPIES", "0")):
        broker = _Copying(broker, copies)
    if "CHAOS_DIES_AT" in os.environ:
        broker, store = boundaries.around(broker), boundaries.around(store)
    agent = agent_of(name, broker, store, prefix)
    DECLARE[name](agent)
    return agent
