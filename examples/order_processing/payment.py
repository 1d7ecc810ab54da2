"""The payment service: charges the card, or refuses; refunds when the saga is undone."""

from examples.order_processing.choreography import OrderCreated, PaymentCharged, PaymentRefunded, StockReserved, order_processing
from examples.order_processing.ledger import note
from saga_choreo import Agent, Reject, StepContext

agent = Agent("payment", saga=order_processing)


@agent.step("charge-payment")
async def charge_payment(order: OrderCreated, reserved: StockReserved, ctx: StepContext) -> PaymentCharged:
    if order.card == "declined":
        raise Reject("card declined")
    await ctx.tx.execute("create table if not exists charge (order_id text, amount_cents integer)")
    await ctx.tx.execute("insert into charge values (?, ?)", reserved.order, order.amount_cents)
    await note(ctx, "do")
    return PaymentCharged(order=order.order, amount_cents=order.amount_cents)


@charge_payment.compensation
async def refund_payment(charged: PaymentCharged, ctx: StepContext) -> PaymentRefunded:
    await ctx.tx.execute("insert into charge values (?, ?)", charged.order, -charged.amount_cents)
    await note(ctx, "undo")
    return PaymentRefunded(order=charged.order, amount_cents=charged.amount_cents)
