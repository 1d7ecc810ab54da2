"""The order saga of the benchmark, as its four services share it."""

from __future__ import annotations

from saga_choreo import Choreography, ChoreographyStep, Event

__all__ = [
    "InventoryReserved",
    "OrderHeld",
    "OrderPlaced",
    "PaymentCharged",
    "ShipmentBooked",
    "held_orders",
    "orders",
]


class OrderPlaced(Event, name="order.placed"):
    order: str


class InventoryReserved(Event, name="inventory.reserved"):
    order: str


class PaymentCharged(Event, name="payment.charged"):
    order: str


class ShipmentBooked(Event, name="shipment.booked"):
    order: str


class OrderHeld(Event, name="order.held"):
    order: str


orders = (
    Choreography("orders")
    .starts_with(OrderPlaced)
    .step(
        ChoreographyStep("reserve")
        .on_event(OrderPlaced)
        .publish_event(InventoryReserved)
        .with_compensation()
        .owned_by("inventory"),
        ChoreographyStep("charge")
        .on_event(InventoryReserved)
        .publish_event(PaymentCharged)
        .with_compensation()
        .owned_by("payment"),
        ChoreographyStep("book").on_event(PaymentCharged).publish_event(ShipmentBooked).with_compensation().owned_by("shipment"),
        ChoreographyStep("confirm").on_event(ShipmentBooked).with_compensation().owned_by("order"),
    )
)

# A saga that stays open: it waits for somebody outside who never answers.
held_orders = (
    Choreography("held-orders")
    .starts_with(OrderHeld)
    .step(ChoreographyStep("await-approval").kind(external=True, read_only=True).on_event(OrderHeld).owned_by("inventory"))
)
