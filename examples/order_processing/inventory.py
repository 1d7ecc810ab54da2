"""The inventory service: reserves stock, and releases it when the saga is undone."""

from examples.order_processing.choreography import OrderCreated, StockReleased, StockReserved, order_processing
from examples.order_processing.ledger import note
from saga_choreo import Agent, StepContext

agent = Agent("inventory", saga=order_processing)


@agent.step("reserve-stock")
async def reserve_stock(order: OrderCreated, ctx: StepContext) -> StockReserved:
    await ctx.tx.execute("create table if not exists reservation (order_id text, quantity integer)")
    await ctx.tx.execute("insert into reservation values (?, ?)", order.order, order.quantity)
    await note(ctx, "do")
    return StockReserved(order=order.order, quantity=order.quantity)


@reserve_stock.compensation
async def release_stock(reserved: StockReserved, ctx: StepContext) -> StockReleased:
    await ctx.tx.execute("delete from reservation where order_id = ?", reserved.order)
    await note(ctx, "undo")
    return StockReleased(order=reserved.order)
