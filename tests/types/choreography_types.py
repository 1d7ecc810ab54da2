"""What type checkers must conclude about choreographies; run by mypy and pyright, never imported."""

from typing import assert_type

from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.model.event import Event, EventRef


class OrderCreated(Event, name="order.created"): ...


step = ChoreographyStep("charge-payment").on_event(OrderCreated).publish_event("payment.charged").owned_by("payment")
assert_type(step, ChoreographyStep)
assert_type(Choreography("orders").starts_with(OrderCreated).step(step), Choreography)
assert_type(OrderCreated.event, EventRef)
