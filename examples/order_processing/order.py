"""The order service: starts the saga when an order is placed, and confirms the order at its end."""

from examples.order_processing.choreography import OrderCreated, ShipmentBooked, order_processing
from examples.order_processing.ledger import note
from saga_choreo import Agent, StepContext
from saga_choreo.runtime.sagas import SagaHandle

agent = Agent("order", saga=order_processing)


async def place_order(order: OrderCreated) -> SagaHandle:
    """What a web handler would do: inside `async with agent.client()` or while the agent runs."""
    return await agent.start_saga(order, key=order.order)


@agent.step("confirm-order")
async def confirm_order(booked: ShipmentBooked, ctx: StepContext) -> None:
    await ctx.tx.execute("create table if not exists confirmed (order_id text)")
    await ctx.tx.execute("insert into confirmed values (?)", booked.order)
    await note(ctx, "do")


@confirm_order.compensation
async def withdraw_confirmation(ctx: StepContext) -> None:
    await ctx.tx.execute("delete from confirmed where order_id = ?", ctx.key)
    await note(ctx, "undo")
