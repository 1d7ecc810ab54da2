"""A compensation takes what the step returned, what was kept, and the context; anything else is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from saga_choreo.errors import DecodeError, DefinitionError
from saga_choreo.model.choreography import Split, Undo
from saga_choreo.model.retry import Retry
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.declare.decorators import publish_event, with_compensation
from saga_choreo.runtime.declare.payload import encode
from saga_choreo.runtime.declare.results import Chosen, choose
from tests.unit.declare.support import (
    FakeContext,
    MailSent,
    OrderCreated,
    PaymentCharged,
    PaymentRefunded,
    PaymentTimedOut,
    Receipt,
    StockRefused,
    StockReserved,
)

ORDER = {OrderCreated.event: b'{"order_id":"o1"}'}


def frozen(handler: Callable[..., Any], undo: Callable[..., Any], **said: Any) -> BoundStep:
    shop = Declarations("shop")
    shop.step(**said)(handler).compensation(undo)
    [bound] = shop.freeze(None)
    return bound


def there_and_back(bound: BoundStep, kept: bytes | None = None) -> bytes | None:
    async def both() -> bytes | None:
        done = await bound.run(ORDER, FakeContext())
        return await bound.undo(done.results, kept, FakeContext())

    return asyncio.run(both())


async def single(order: OrderCreated) -> PaymentCharged:
    return PaymentCharged(charge_id=order.order_id)


async def choice(order: OrderCreated) -> StockReserved | MailSent:
    return MailSent(to=order.order_id)


async def both(order: OrderCreated) -> tuple[StockReserved, MailSent]:
    return StockReserved(order_id=order.order_id), MailSent(to="x")


async def subset(order: OrderCreated) -> Chosen[StockReserved | StockRefused | MailSent]:
    return choose(MailSent(to="m"), StockReserved(order_id="s"))


async def silent(order: OrderCreated) -> None: ...


def test_it_gets_the_event_and_publishes_its_own() -> None:
    async def refund(done: PaymentCharged, ctx: StepContext) -> PaymentRefunded:
        return PaymentRefunded(charge_id=f"{done.charge_id} {ctx.step}")

    bound = frozen(single, refund)

    assert bound.definition.undo is Undo.LOCAL
    assert bound.definition.undo_event == PaymentRefunded.event
    assert there_and_back(bound) == b'{"charge_id":"o1 step"}'


def test_it_gets_what_was_chosen_the_tuple_or_the_subset() -> None:
    seen: list[object] = []

    async def undo_choice(done: StockReserved | MailSent) -> None:
        seen.append(done)

    async def undo_both(done: tuple[StockReserved, MailSent]) -> None:
        seen.append(done)

    async def undo_subset(done: Chosen[StockReserved | StockRefused | MailSent]) -> None:
        seen.append({type(event) for event in done.events})

    for handler, undo in ((choice, undo_choice), (both, undo_both), (subset, undo_subset)):
        assert there_and_back(frozen(handler, undo)) is None

    assert seen == [MailSent(to="o1"), (StockReserved(order_id="o1"), MailSent(to="x")), {MailSent, StockReserved}]


def test_it_gets_what_was_kept() -> None:
    seen: list[object] = []

    async def undo(kept: Receipt) -> None:
        seen.append(kept)

    async def undo_maybe(kept: Receipt | None) -> None:
        seen.append(kept)

    there_and_back(frozen(silent, undo), encode(Receipt(number=7), "kept"))
    there_and_back(frozen(silent, undo_maybe))

    assert seen == [Receipt(number=7), None]
    with pytest.raises(DecodeError, match=r"'silent' needs what the step kept.*ctx.keep"):
        there_and_back(frozen(silent, undo))


def test_its_own_options_are_taken() -> None:
    shop = Declarations("shop")
    step = shop.step(single)

    @step.compensation(external=True, retry=Retry(attempts=99), on_park_continue=True)
    async def refund(done: PaymentCharged) -> None: ...

    [bound] = shop.freeze(None)
    assert bound.definition.undo is Undo.EXTERNAL
    assert bound.options.undo_retry.attempts == 99
    assert bound.options.on_park_continue


def test_a_second_compensation_is_refused() -> None:
    step = Declarations("shop").step(single)

    async def refund(done: PaymentCharged) -> None: ...

    step.compensation(refund)
    with pytest.raises(DefinitionError, match="'single' has two compensations"):
        step.compensation(refund)


async def takes_other(done: MailSent) -> None: ...
async def takes_half(done: StockReserved) -> None: ...
async def takes_text(done: str) -> None: ...
async def takes_two(done: PaymentCharged, again: PaymentCharged) -> None: ...
async def returns_text(done: PaymentCharged) -> str: ...


@pytest.mark.parametrize(
    ("handler", "undo", "message"),
    [
        (single, takes_other, r"takes one event \(mail.sent v1\), and the step leaves one event \(payment.charged v2\)"),
        (choice, takes_half, "takes one event .* and the step leaves a union of events"),
        (both, takes_half, "the step leaves a tuple of events"),
        (silent, takes_half, "takes a result, and the step publishes nothing"),
        (single, takes_text, "parameter 'done' of compensation 'takes_text'"),
        (single, takes_two, "more than one result"),
        (single, returns_text, "returns 'str'; it returns one event"),
    ],
)
def test_one_that_does_not_take_what_the_step_returned_is_refused(
    handler: Callable[..., Any], undo: Callable[..., Any], message: str
) -> None:
    with pytest.raises(DefinitionError, match=message):
        frozen(handler, undo)


def test_it_must_also_take_the_event_of_the_deadline() -> None:
    seen: list[object] = []

    async def refund(done: PaymentCharged) -> None: ...

    async def refund_or_forget(done: PaymentCharged | PaymentTimedOut) -> None:
        seen.append(done)

    said = {"external": True, "deadline": 5, "on_deadline": PaymentTimedOut}
    with pytest.raises(DefinitionError, match=r"the step leaves a union of events \(payment.charged v2, payment.timed_out v1\)"):
        frozen(single, refund, **said)
    bound = frozen(single, refund_or_forget, **said)
    # The event of the deadline is numbered after the published ones, as in the plan.
    asyncio.run(bound.undo({1: b"{}"}, None, FakeContext()))
    assert seen == [PaymentTimedOut()]


def test_an_event_that_is_not_declared_is_refused_when_it_is_returned() -> None:
    async def refund(done: PaymentCharged) -> Any:
        return MailSent()

    with pytest.raises(DefinitionError, match="the compensation of step 'single' returned 'MailSent', and its event is None"):
        there_and_back(frozen(single, refund))


def test_without_annotations_the_declared_events_say_what_it_takes() -> None:
    async def one(done: StockReserved) -> None: ...
    async def fan(done: tuple[MailSent, StockReserved]) -> None: ...
    async def pick(done: StockReserved | MailSent) -> None: ...
    async def some(done: Chosen[StockReserved | MailSent]) -> None: ...

    undos = (one, fan, pick, some)
    for wanted, (events, split) in enumerate(
        [
            ((StockReserved,), None),
            ((MailSent, StockReserved), None),
            ((MailSent, StockReserved), Split.ONE),
            ((MailSent, StockReserved), Split.SOME),
        ]
    ):
        for number, undo in enumerate(undos):

            async def handle(order: OrderCreated) -> Any: ...

            publish_event(*events, split=split)(handle)
            if number == wanted:
                assert frozen(handle, undo).has_undo
            else:
                with pytest.raises(DefinitionError, match="a compensation takes what the step returned"):
                    frozen(handle, undo)


def test_a_fan_out_with_an_event_at_its_deadline_is_undone_from_what_was_kept() -> None:
    async def undo_both(done: tuple[StockReserved, MailSent]) -> None: ...
    async def undo_kept(kept: Receipt | None) -> None: ...

    said = {"external": True, "deadline": 5, "on_deadline": PaymentTimedOut}
    with pytest.raises(DefinitionError, match=r"payment.timed_out v1 at the deadline is not.*ctx.keep"):
        frozen(both, undo_both, **said)
    assert frozen(both, undo_kept, **said).has_undo


def test_one_that_can_never_return_its_declared_event_is_refused() -> None:
    async def undo(done: PaymentCharged) -> None: ...

    @with_compensation(PaymentRefunded)
    async def charge(order: OrderCreated) -> PaymentCharged: ...

    with pytest.raises(DefinitionError, match=r"annotated to return None, and 'payment.refunded v1' is its event"):
        frozen(charge, undo)


def test_a_result_that_is_not_in_the_record_is_an_error() -> None:
    async def undo(done: tuple[StockReserved, MailSent]) -> None: ...

    with pytest.raises(DecodeError, match="the result of step 'both' is not in its record"):
        asyncio.run(frozen(both, undo).undo({0: b"{}"}, None, FakeContext()))


def test_a_step_without_one_cannot_be_asked_to_undo() -> None:
    shop = Declarations("shop")
    shop.step(silent)
    [bound] = shop.freeze(None)

    assert not bound.has_undo
    with pytest.raises(DefinitionError, match="'silent' has no compensation"):
        asyncio.run(bound.undo({}, None, FakeContext()))
