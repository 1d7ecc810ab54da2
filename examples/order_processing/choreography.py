"""The order saga, as all four services share it: who reacts to what, and who can undo it.

order.created -> inventory reserves -> payment charges -> shipping books -> order confirms.
"""

from saga_choreo import Choreography, ChoreographyStep, Event, all_of


class OrderCreated(Event, name="order.created"):
    order: str
    item: str
    quantity: int
    amount_cents: int
    card: str
    address: str


class StockReserved(Event, name="stock.reserved"):
    order: str
    quantity: int


class StockReleased(Event, name="stock.released"):
    order: str


class PaymentCharged(Event, name="payment.charged"):
    order: str
    amount_cents: int


class PaymentRefunded(Event, name="payment.refunded"):
    order: str
    amount_cents: int


class ShipmentBooked(Event, name="shipment.booked"):
    order: str


order_processing = (
    Choreography("order-processing", version=1)
    .starts_with(OrderCreated)
    .step(
        ChoreographyStep("reserve-stock")
        .on_event(OrderCreated)
        .publish_event(StockReserved)
        .with_compensation(StockReleased)
        .owned_by("inventory"),
        # It needs the order as well as the reservation: a step may read any event of the saga that comes before it.
        ChoreographyStep("charge-payment")
        .on_event(all_of(OrderCreated, StockReserved))
        .publish_event(PaymentCharged)
        .with_compensation(PaymentRefunded)
        .owned_by("payment"),
        ChoreographyStep("book-shipment")
        .on_event(all_of(OrderCreated, PaymentCharged))
        .publish_event(ShipmentBooked)
        .with_compensation()
        .owned_by("shipping"),
        ChoreographyStep("confirm-order").on_event(ShipmentBooked).with_compensation().owned_by("order"),
    )
    .deadline(minutes=30)
)
