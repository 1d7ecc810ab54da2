"""The order saga's services as processes of their own: `saga-choreo run tests.scenarios.chaos.services:payment`.

Every effect is a row in the service's own ledger, written in the step's transaction. The ledger has no unique key and the toolkit
knows nothing of it: what was to be undone is gone, and what happened twice is there twice. CHAOS_* come from the scenario:
CHAOS_DIES_AT=n kills the process at its n-th call of broker or store, CHAOS_DIES_BEFORE=ack before its first one of that name,
CHAOS_STOPS_AT=file stops it (SIGSTOP) at the n-th call after a SIGUSR1, n being what the file says then; CHAOS_COPIES=n publishes
everything so often, CHAOS_SHUFFLES=1 delivers in any order, CHAOS_CLOCK_S=n is how far the wall clock is ahead, CHAOS_BLOCKS_S=n holds
up the event loop once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
from saga_choreo.ports import Broker, Clock
from saga_choreo.runtime.plugins import WholeStore, make_broker, make_store
from tests.scenarios.chaos.around import Boundaries, Copying, ShiftedClock, Shuffling

__all__ = ["DECLARE", "LEDGER", "LIMITS", "agent_of"]

# What one would wait for otherwise: scans and repeated announcements are quick here. All else is the default.
LIMITS = Limits(nudge_first_s=2.0, nudge_max_s=8.0, unannounced_after_s=0.6, ready_timeout_s=20.0, stop_grace_s=5.0)
_BOUNDED = {"CHAOS_DIES_AT", "CHAOS_DIES_BEFORE", "CHAOS_STOPS_AT"}
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


def _block_once() -> None:
    time.sleep(float(os.environ.pop("CHAOS_BLOCKS_S", "0")))


def _payment(agent: Agent) -> None:
    @agent.step("charge-payment")
    async def charge(order: OrderCreated, reserved: StockReserved, ctx: StepContext) -> PaymentCharged:
        _block_once()
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


def agent_of(
    service: str, broker: str | Broker, store: str | WholeStore, prefix: str, limits: Limits = LIMITS, clock: Clock | None = None
) -> Agent:
    return Agent(service, saga=order_processing, broker=broker, store=store, prefix=prefix, limits=limits, clock=clock)


def __getattr__(name: str) -> Agent:
    """`saga-choreo run` asks for the service by name: only that one is made."""
    if name not in DECLARE or "CHAOS_PREFIX" not in os.environ:
        raise AttributeError(name)
    prefix = os.environ["CHAOS_PREFIX"]
    broker: Any = make_broker(os.environ["SAGA_BROKER_URL"], prefix=prefix)
    store: Any = make_store(os.environ["SAGA_STORE_URL"])
    if copies := int(os.environ.get("CHAOS_COPIES", "0")):
        broker = Copying(broker, copies)
    if "CHAOS_SHUFFLES" in os.environ:
        broker = Shuffling(broker)
    if _BOUNDED & os.environ.keys():
        boundaries = Boundaries(os.environ)
        broker, store = boundaries.around(broker), boundaries.around(store)
    agent = agent_of(name, broker, store, prefix, clock=ShiftedClock(float(os.environ.get("CHAOS_CLOCK_S", "0"))))
    DECLARE[name](agent)
    return agent
