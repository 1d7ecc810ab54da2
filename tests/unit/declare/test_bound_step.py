"""Running a frozen step: decode, call, check the answer, encode."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from pydantic import BaseModel, Field

from saga_choreo.errors import DecodeError, DefinitionError, Reject, ResultTooLarge
from saga_choreo.model.choreography import Split
from saga_choreo.model.event import Event, EventRef
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.declare.decorators import on_event, publish_event
from saga_choreo.runtime.declare.payload import PAYLOAD_BYTES_MAX, encode
from saga_choreo.runtime.declare.results import Chosen, Handled, Pending, choose
from tests.unit.declare.support import FakeContext, MailSent, OrderCreated, PaymentCharged, StockRefused, StockReserved

ORDER = {OrderCreated.event: b'{"order_id":"o1","amount":3}'}


def frozen(handler: Callable[..., Any], **said: Any) -> BoundStep:
    shop = Declarations("shop")
    shop.step(**said)(handler)
    [bound] = shop.freeze(None)
    return bound


def run(bound: BoundStep, inputs: dict[EventRef, bytes] | None = None) -> Handled:
    return asyncio.run(bound.run(ORDER if inputs is None else inputs, FakeContext()))


def answering(answer: object, *publishes: type[Event], split: Split | None = None, **said: Any) -> BoundStep:
    async def handle(ctx: StepContext) -> Any:
        return answer

    decorated = on_event(OrderCreated)(handle)
    return frozen(publish_event(*publishes, split=split)(decorated) if publishes else decorated, **said)


def test_an_event_is_decoded_handled_and_encoded() -> None:
    async def charge(order: OrderCreated, ctx: StepContext, *, limit: int = 5) -> PaymentCharged:
        return PaymentCharged(charge_id=f"{order.order_id}/{order.amount}/{ctx.attempt}/{limit}")

    assert run(frozen(charge)) == Handled({0: b'{"charge_id":"o1/3/1/5"}'}, 1)


def test_an_unknown_field_of_a_newer_publisher_is_kept() -> None:
    async def forward(order: OrderCreated) -> StockReserved:
        return StockReserved.model_validate(order.model_dump())

    handled = run(frozen(forward), {OrderCreated.event: b'{"order_id":"o1","colour":"red"}'})
    assert handled.results[0] == b'{"order_id":"o1","amount":1,"colour":"red"}'


def test_any_of_hands_over_what_came_and_none_for_the_rest() -> None:
    seen: list[object] = []

    async def either(a: StockReserved | None, b: StockRefused | None) -> None:
        seen.append((a, b))

    run(frozen(either), {StockRefused.event: b'{"order_id":"o1"}'})
    assert seen == [(None, StockRefused(order_id="o1"))]


def test_one_of_hands_over_the_branch_that_came() -> None:
    seen: list[object] = []

    async def exclusive(x: StockReserved | StockRefused) -> None:
        seen.append(x)

    run(frozen(exclusive), {StockRefused.event: b'{"order_id":"o1"}'})
    run(frozen(exclusive), {StockReserved.event: b'{"order_id":"o2"}'})
    assert seen == [StockRefused(order_id="o1"), StockReserved(order_id="o2")]


def test_every_form_of_answer_gives_its_events_and_their_mask() -> None:
    mail, reserved = MailSent(to="m"), StockReserved(order_id="s")
    mail_body, reserved_body = b'{"to":"m"}', b'{"order_id":"s"}'

    assert run(answering(None)) == Handled({}, 0)
    assert run(answering(mail, MailSent)) == Handled({0: mail_body}, 1)
    assert run(answering(reserved, StockReserved, MailSent, split=Split.ONE)) == Handled({1: reserved_body}, 0b10)
    assert run(answering((reserved, mail), StockReserved, MailSent)) == Handled({0: mail_body, 1: reserved_body}, 0b11)
    chosen = answering(choose(reserved, mail), StockReserved, MailSent, StockRefused, split=Split.SOME)
    assert run(chosen) == Handled({0: mail_body, 2: reserved_body}, 0b101)
    assert run(answering(Pending(), MailSent, external=True)) == Handled({}, 0, pending=True)


SECRET = "4111-1111"


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (
            answering(MailSent(to=SECRET), StockReserved),
            r"returned 'MailSent', and is declared to publish all of stock.reserved v1",
        ),
        (answering(None, MailSent), "returned 'NoneType', and is declared to publish all of mail.sent v1"),
        (answering(MailSent()), "returned 'MailSent', and is declared to publish nothing"),
        (answering(SECRET, MailSent), "returned 'str'"),
        (answering({"to": SECRET}, MailSent), "returned 'dict'"),
        (answering(Pending(), MailSent), "returned 'Pending'"),
        (answering((MailSent(),), MailSent, StockReserved), r"returned 'tuple\(MailSent\)'"),
        (answering((MailSent(), MailSent()), MailSent, StockReserved), r"returned 'tuple\(MailSent, MailSent\)'"),
        (answering(MailSent(), MailSent, StockReserved), "is declared to publish all of mail.sent v1, stock.reserved v1"),
        (answering(choose(MailSent()), MailSent, StockReserved), r"returned 'Chosen\(MailSent\)'"),
        (answering(MailSent(), MailSent, StockReserved, split=Split.SOME), r"choose\(\.\.\.\) some of mail.sent v1"),
        (answering(choose(MailSent(), MailSent()), MailSent, StockReserved, split=Split.SOME), r"Chosen\(MailSent, MailSent\)"),
        (answering(StockRefused(order_id="x"), MailSent, StockReserved, split=Split.ONE), "one of mail.sent v1, stock.reserved v1"),
    ],
)
def test_an_answer_that_is_not_declared_is_refused_by_type(bound: BoundStep, message: str) -> None:
    with pytest.raises(DefinitionError, match=message) as caught:
        run(bound)
    assert SECRET not in str(caught.value)


def test_a_choice_of_nothing_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="given no event"):
        choose()


def test_a_chosen_event_is_found_by_its_class() -> None:
    chosen: Chosen[MailSent | StockReserved] = choose(MailSent(to="m"))
    assert chosen.get(MailSent) == MailSent(to="m")
    assert chosen.get(StockReserved) is None


def test_a_reject_and_any_other_error_come_through_as_they_are() -> None:
    async def refuse(order: OrderCreated) -> None:
        raise Reject("card declined")

    async def fail(order: OrderCreated) -> None:
        raise ZeroDivisionError

    with pytest.raises(Reject, match="card declined"):
        run(frozen(refuse))
    with pytest.raises(ZeroDivisionError):
        run(frozen(fail))


def test_a_payload_that_does_not_fit_is_named_without_its_values() -> None:
    class Line(BaseModel):
        prices: dict[str, int]

    class CardUsed(Event, name="card.used"):
        number: int = Field(alias="cardNumber")
        lines: tuple[Line, ...] = ()
        holder: str

    async def charge(card: CardUsed) -> None: ...

    body = b'{"cardNumber":"%s","lines":[{"prices":{"%s":"x"}}]}' % (SECRET.encode(), SECRET.encode())
    with pytest.raises(DecodeError) as caught:
        run(frozen(charge), {CardUsed.event: body})

    told = str(caught.value)
    assert caught.value.code == "payload_invalid"
    for expected in (
        "event 'card.used' v1",
        "field 'cardNumber' (int_parsing)",
        "field 'lines' (int_parsing)",
        "field 'holder' (missing)",
    ):
        assert expected in told
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
def test_bytes_that_are_no_json_object_are_refused(body: bytes) -> None:
    async def charge(order: OrderCreated) -> None: ...

    with pytest.raises(DecodeError, match=r"event 'order.created' v1 does not fit 'OrderCreated'"):
        run(frozen(charge), {OrderCreated.event: body})


def test_an_input_that_has_not_come_is_an_error_and_no_call() -> None:
    async def join(a: OrderCreated, b: StockReserved) -> None:
        raise AssertionError("called")

    with pytest.raises(DecodeError, match=r"parameter 'b' of step 'join' needs stock.reserved v1"):
        run(frozen(join), ORDER)


def test_a_result_over_64_kib_is_refused_and_one_of_just_64_kib_is_not() -> None:
    room = PAYLOAD_BYTES_MAX - len(b'{"to":""}')

    assert len(run(answering(MailSent(to="x" * room), MailSent)).results[0]) == PAYLOAD_BYTES_MAX
    with pytest.raises(ResultTooLarge, match="the result of step 'handle' is 65537 bytes and the limit is 65536"):
        run(answering(MailSent(to="x" * (room + 1)), MailSent))


def test_payloads_are_written_under_the_names_they_are_read_by() -> None:
    class Renamed(Event, name="re.named"):
        full_name: str = Field(alias="fullName")

    assert encode(Renamed(fullName="x"), "it") == b'{"fullName":"x"}'


def test_a_class_of_ones_own_for_the_same_event_is_published_as_that_event() -> None:
    class OwnMail(Event, name="mail.sent"):
        to: str
        cc: str = ""

    assert run(answering(OwnMail(to="a"), MailSent)) == Handled({0: b'{"to":"a","cc":""}'}, 1)


def test_a_step_is_still_a_function() -> None:
    shop = Declarations("shop")

    @shop.step
    async def charge(order: OrderCreated, times: int = 2) -> PaymentCharged:
        """Charge."""
        return PaymentCharged(charge_id=order.order_id * times)

    assert asyncio.run(charge(OrderCreated(order_id="a"), times=3)) == PaymentCharged(charge_id="aaa")
    assert (charge.name, charge.__doc__) == ("charge", "Charge.")


def test_a_result_from_outside_is_checked_as_one_of_the_handler() -> None:
    bound = answering(Pending(), MailSent, external=True)
    assert bound.handled(MailSent(to="hook")) == Handled({0: b'{"to":"hook"}'}, 1)
    with pytest.raises(DefinitionError, match="returned 'StockRefused'"):
        bound.handled(StockRefused(order_id="x"))


def test_a_run_does_no_reflection() -> None:
    async def charge(order: OrderCreated, ctx: StepContext) -> PaymentCharged:
        return PaymentCharged(charge_id=order.order_id)

    bound, context = frozen(charge), FakeContext()
    called: set[str] = set()

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.add(frame.f_globals["__name__"])

    async def watched() -> None:
        sys.setprofile(watch)
        await bound.run(ORDER, context)
        sys.setprofile(None)

    asyncio.run(watched())
    assert "saga_choreo.runtime.declare.invoke" in called
    assert called.isdisjoint({"inspect", "typing", "annotationlib", "functools", "pydantic.type_adapter"})
