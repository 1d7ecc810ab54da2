"""The shipping service: books a shipment, or refuses an address it cannot reach."""

from examples.order_processing.choreography import OrderCreated, PaymentCharged, ShipmentBooked, order_processing
from examples.order_processing.ledger import note
from saga_choreo import Agent, Reject, StepContext

agent = Agent("shipping", saga=order_processing)


@agent.step("book-shipment")
async def book_shipment(order: OrderCreated, charged: PaymentCharged, ctx: StepContext) -> ShipmentBooked:
    if order.address == "unreachable":
        raise Reject(f"nobody delivers to order {charged.order}")
    await ctx.tx.execute("create table if not exists shipment (order_id text, address text)")
    await ctx.tx.execute("insert into shipment values (?, ?)", order.order, order.address)
    await note(ctx, "do")
    return ShipmentBooked(order=order.order)


@book_shipment.compensation
async def cancel_shipment(booked: ShipmentBooked, ctx: StepContext) -> None:
    await ctx.tx.execute("delete from shipment where order_id = ?", booked.order)
    await note(ctx, "undo")
