"""The four services of the benchmark, written as the README shows, with default settings."""

from __future__ import annotations

import asyncio

from saga_choreo import Agent, Pending, Reject, StepContext
from tests.benchmarks.choreography import (
    InventoryReserved,
    OrderHeld,
    OrderPlaced,
    PaymentCharged,
    ShipmentBooked,
    held_orders,
    orders,
)
from tests.benchmarks.workload import UPSERT

__all__ = ["agents", "prefix_of"]

_EFFECT = UPSERT.format("$1", "$2")


def agents(broker: str, store: str, *, fail_every: int = 0, wait_s: float = 0.0) -> dict[str, Agent]:
    """By service. The handler of payment waits for `wait_s`, as one that asks somebody else does."""
    made = (_inventory(broker, store), _payment(broker, store, wait_s), _shipment(broker, store), _order(broker, store, fail_every))
    return {agent.name: agent for agent in made}


def prefix_of(store: str) -> str:
    """Channels of its own for each database: a run must not hear of the run before, nor take its database for one that was lost."""
    return store.rpartition("/")[2]


def _inventory(broker: str, store: str) -> Agent:
    agent = Agent("inventory", saga=[orders, held_orders], broker=broker, store=store, prefix=prefix_of(store))

    @agent.step
    async def reserve(order: OrderPlaced, ctx: StepContext) -> InventoryReserved:
        await ctx.tx.execute(_EFFECT, order.order, "inventory")
        return InventoryReserved(order=order.order)

    @reserve.compensation
    async def release(reserved: InventoryReserved, ctx: StepContext) -> None:
        await ctx.tx.execute(_EFFECT, reserved.order, "undo_inventory")

    @agent.step("await-approval", external=True, read_only=True)
    async def await_approval(order: OrderHeld) -> Pending | None:
        return Pending()

    return agent


def _payment(broker: str, store: str, wait_s: float) -> Agent:
    agent = Agent("payment", saga=orders, broker=broker, store=store, prefix=prefix_of(store))

    @agent.step
    async def charge(reserved: InventoryReserved, ctx: StepContext) -> PaymentCharged:
        if wait_s:
            await asyncio.sleep(wait_s)
        await ctx.tx.execute(_EFFECT, reserved.order, "payment")
        return PaymentCharged(order=reserved.order)

    @charge.compensation
    async def refund(charged: PaymentCharged, ctx: StepContext) -> None:
        await ctx.tx.execute(_EFFECT, charged.order, "undo_payment")

    return agent


def _shipment(broker: str, store: str) -> Agent:
    agent = Agent("shipment", saga=orders, broker=broker, store=store, prefix=prefix_of(store))

    @agent.step
    async def book(charged: PaymentCharged, ctx: StepContext) -> ShipmentBooked:
        await ctx.tx.execute(_EFFECT, charged.order, "shipment")
        return ShipmentBooked(order=charged.order)

    @book.compensation
    async def cancel(booked: ShipmentBooked, ctx: StepContext) -> None:
        await ctx.tx.execute(_EFFECT, booked.order, "undo_shipment")

    return agent


def _order(broker: str, store: str, fail_every: int) -> Agent:
    agent = Agent("order", saga=[orders, held_orders], broker=broker, store=store, prefix=prefix_of(store))

    @agent.step
    async def confirm(booked: ShipmentBooked, ctx: StepContext) -> None:
        if fail_every and int(booked.order.rpartition("-")[2]) % fail_every == 0:
            raise Reject("out of the delivery area")
        await ctx.tx.execute(_EFFECT, booked.order, "confirm")

    @confirm.compensation
    async def withdraw(ctx: StepContext) -> None:
        raise AssertionError("the last step is never undone")

    return agent
