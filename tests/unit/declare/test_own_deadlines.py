"""What a step may say of a deadline of its own."""

from __future__ import annotations

import pytest

from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.runtime.declare.declarations import Declarations
from tests.unit.declare.support import MailSent, OrderCreated, PaymentCharged, PaymentTimedOut, StockReserved


def faults_of(shop: Declarations, choreography: Choreography | None = None) -> tuple[str, ...]:
    with pytest.raises(DefinitionError) as caught:
        shop.freeze(choreography)
    return caught.value.findings


def test_a_call_to_the_outside_cannot_be_refused_at_its_deadline() -> None:
    shop = Declarations("shop")

    @shop.step("charge", external=True, deadline=5)
    async def charge(order: OrderCreated) -> PaymentCharged: ...

    (fault,) = faults_of(shop)
    assert "nothing to publish then" in fault
    assert "add on_deadline=..." in fault


def test_a_deadline_that_could_do_nothing_is_refused() -> None:
    shop = Declarations("shop")

    @shop.step("charge", retriable=True, deadline=5)
    async def charge(order: OrderCreated) -> PaymentCharged: ...

    (fault,) = faults_of(shop)
    assert "may not refuse, so the deadline could do nothing" in fault


def test_a_plain_step_may_have_a_deadline_without_an_event() -> None:
    shop = Declarations("shop")

    @shop.step("charge", deadline=5)
    async def charge(order: OrderCreated) -> PaymentCharged: ...

    assert [bound.options.deadline_s for bound in shop.freeze(None)] == [5.0]


def test_the_event_of_a_deadline_must_not_need_a_field() -> None:
    shop = Declarations("shop")

    @shop.step("charge", external=True, deadline=5, on_deadline=StockReserved)
    async def charge(order: OrderCreated) -> PaymentCharged: ...

    (fault,) = faults_of(shop)
    assert "'stock.reserved v1' is published with no fields when a deadline passes" in fault
    assert "field 'order_id' (missing)" in fault
    assert "give them defaults" in fault


def test_whoever_reads_the_event_of_another_ones_deadline_must_not_need_a_field_either() -> None:
    shop = Declarations("shop")

    @shop.step("apologise")
    async def apologise(late: StockReserved) -> MailSent: ...

    charge = ChoreographyStep("charge").on_event(OrderCreated).publish_event(PaymentCharged).owned_by("payment")
    choreography = (
        Choreography("orders")
        .starts_with(OrderCreated)
        .step(
            charge.on_deadline(StockReserved),
            ChoreographyStep("apologise").on_event(StockReserved).publish_event(MailSent).owned_by("shop"),
        )
    )
    (fault,) = faults_of(shop, choreography)
    assert fault.startswith("step 'apologise': 'stock.reserved v1' is published with no fields")


def test_an_event_without_fields_is_fine_on_both_sides() -> None:
    shop = Declarations("shop")

    @shop.step("charge", external=True, deadline=5, on_deadline=PaymentTimedOut)
    async def charge(order: OrderCreated) -> PaymentCharged: ...

    @shop.step("apologise")
    async def apologise(late: PaymentTimedOut) -> MailSent: ...

    assert len(shop.freeze(None)) == 2
