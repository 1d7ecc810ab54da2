"""Handlers bound to the steps of a shared choreography, by name; the code may say nothing else than it does."""

from __future__ import annotations

import pytest

from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography, ChoreographyStep, all_of
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.assemble import assemble
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.declare.decorators import on_event, with_compensation
from tests.unit.declare.support import MailSent, OrderCreated, PaymentCharged, PaymentRefunded, StockReserved

RESERVE = ChoreographyStep("reserve").owned_by("stock").on_event(OrderCreated).publish_event(StockReserved).kind(read_only=True)
CHARGE = (
    ChoreographyStep("charge-payment")
    .owned_by("payment")
    .on_event(all_of(OrderCreated, StockReserved))
    .publish_event(PaymentCharged)
    .with_compensation(PaymentRefunded, external=True)
    .kind(external=True)
)
SHARED = Choreography("orders").starts_with(OrderCreated).step(RESERVE, CHARGE)


def test_what_the_code_does_not_say_is_taken_from_the_choreography() -> None:
    payment = Declarations("payment")

    @payment.step("charge-payment")
    async def charge(ctx: StepContext): ...  # type: ignore[no-untyped-def]

    @charge.compensation
    async def refund(ctx: StepContext): ...  # type: ignore[no-untyped-def]

    [bound] = payment.freeze(SHARED)

    assert bound.definition == CHARGE
    assert charge.definition == CHARGE
    assert bound.has_undo


def test_the_same_said_again_is_no_mismatch() -> None:
    payment = Declarations("payment")

    @payment.step("charge-payment", external=True, pivot=False)
    @with_compensation("payment.refunded", external=True)
    async def charge(stock: StockReserved, order: OrderCreated) -> PaymentCharged: ...

    @charge.compensation
    async def refund(done: PaymentCharged) -> PaymentRefunded: ...

    assert [bound.definition for bound in payment.freeze(SHARED)] == [CHARGE]


def test_every_mismatch_is_reported_at_once() -> None:
    payment = Declarations("payment")

    @payment.step("charge-payment", external=False, pivot=True)
    @on_event(OrderCreated)
    async def charge(order: OrderCreated) -> MailSent: ...

    @charge.compensation(external=False)
    async def refund(done: MailSent) -> MailSent: ...

    with pytest.raises(DefinitionError) as caught:
        payment.freeze(SHARED)
    told = "\n".join(caught.value.findings)
    for expected in (
        "what it reacts to: the code says order.created v1, the choreography order.created v1, stock.reserved v1",
        "what it publishes: the code says mail.sent v1, the choreography payment.charged v2",
        "the event of its compensation: the code says mail.sent v1, the choreography payment.refunded v1",
        "external: the code says False, the choreography True",
        "pivot: the code says True, the choreography False",
        "external compensation: the code says False, the choreography True",
        "its compensation takes one event (mail.sent v1)",
    ):
        assert expected in told
    assert str(caught.value).count("\n  - ") == len(caught.value.findings)


def test_steps_and_handlers_that_do_not_meet_are_named() -> None:
    payment = Declarations("payment")

    @payment.step
    async def charge_payment(order: OrderCreated, stock: StockReserved) -> PaymentCharged: ...

    @payment.step
    async def reserve(order: OrderCreated) -> StockReserved: ...

    with pytest.raises(DefinitionError) as caught:
        payment.freeze(SHARED)
    assert caught.value.findings == (
        "step 'charge_payment' is not in choreography 'orders'; name it as it is there: @agent.step('charge-payment')",
        "step 'reserve' belongs to service 'stock' in choreography 'orders'; move the handler there or correct the owner",
        "step 'charge-payment' of choreography 'orders' is ours and has no handler; add @agent.step('charge-payment')",
    )


def test_two_handlers_for_one_step_are_refused() -> None:
    stock = Declarations("stock")

    @stock.step("reserve")
    async def one(order: OrderCreated) -> StockReserved: ...

    @stock.step("reserve")
    async def two(order: OrderCreated) -> StockReserved: ...

    with pytest.raises(DefinitionError, match="step 'reserve' is declared twice"):
        stock.freeze(SHARED)


def test_a_missing_compensation_handler_is_refused() -> None:
    payment = Declarations("payment")

    @payment.step("charge-payment")
    async def charge(ctx: StepContext) -> PaymentCharged: ...

    with pytest.raises(DefinitionError, match="the choreography says it can be undone, and the code has no handler"):
        payment.freeze(SHARED)


def test_a_choreography_assembled_from_declarations_has_the_hash_of_the_shared_one() -> None:
    stock, payment = Declarations("stock"), Declarations("payment")

    @stock.step(read_only=True)
    async def reserve(order: OrderCreated) -> StockReserved: ...

    @payment.step("charge-payment", external=True)
    async def charge(order: OrderCreated, stock: StockReserved) -> PaymentCharged: ...

    @charge.compensation(external=True)
    async def refund(done: PaymentCharged) -> PaymentRefunded: ...

    assembled = assemble("orders", 1, OrderCreated, [payment, stock])

    assert assembled == SHARED
    assert assembled.definition == SHARED.definition
    assert assemble("orders", 1, "order.created", [[RESERVE], payment]).definition == SHARED.definition
