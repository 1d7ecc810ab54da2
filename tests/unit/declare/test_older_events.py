"""Upcasting: a handler of today's version of an event takes what was published, or kept in a record, as an older one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from saga_choreo.errors import DecodeError
from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.model.event import Event, EventRef, older_of
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.part import Fit, Part
from tests.unit.declare.support import FakeContext


def in_cents(old: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in old.items() if name != "amount"}
    return {**rest, "cents": round(100 * old["amount"])}


def with_currency(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "currency": "EUR"}


class Ordered(Event, name="order.placed", version=3, upcast={1: in_cents, 2: with_currency}):
    order: str
    cents: int
    currency: str


class Charged(Event, name="charge.made", version=2, upcast={1: lambda old: {"number": f"c-{old['number']}"}}):
    number: str


V1, V2, V3 = (EventRef("order.placed", version) for version in (1, 2, 3))
BODIES = {
    V1: b'{"order":"o","amount":3,"gift":true,"big":123456789012345678901234567890}',
    V2: b'{"order":"o","cents":300,"gift":true,"big":123456789012345678901234567890}',
    V3: b'{"order":"o","cents":300,"currency":"EUR","gift":true,"big":123456789012345678901234567890}',
}


def declared() -> tuple[list[BoundStep], list[Event]]:
    seen: list[Event] = []
    shop = Declarations("shop")

    async def charge(order: Ordered) -> Charged:
        seen.append(order)
        return Charged(number="c-1")

    step = shop.step()(charge)

    @step.compensation
    async def refund(done: Charged) -> None:
        seen.append(done)

    return shop.freeze(None), seen


def step_of(reads: EventRef, publishes: EventRef) -> ChoreographyStep:
    return ChoreographyStep("charge").on_event(reads).publish_event(publishes).owned_by("shop").with_compensation()


def fit_of(bound: list[BoundStep], step: ChoreographyStep) -> Fit:
    form = Choreography("orders").starts_with(step.reads[0]).step(step)
    return Part("shop", bound, [Choreography("orders", version=2)]).fit(form)


@pytest.mark.parametrize("version", [V1, V2, V3])
def test_a_handler_takes_every_version_that_its_class_can_be_made_from(version: EventRef) -> None:
    bound, seen = declared()
    fit = fit_of(bound, step_of(version, Charged.event))
    assert fit.is_whole
    asyncio.run(fit.handlers[0].run({version: BODIES[version]}, FakeContext()))
    [order] = seen
    assert isinstance(order, Ordered)
    assert (order.cents, order.currency) == (300, "EUR")
    assert order.model_extra == {"gift": True, "big": 123456789012345678901234567890}, "unknown fields survive"


def test_what_a_step_did_under_an_older_version_is_undone_and_not_done_anew() -> None:
    bound, seen = declared()
    fit = fit_of(bound, step_of(V1, EventRef("charge.made", 1)))
    [step] = fit.handlers.values()
    assert step.only_undoes
    assert "publishes" in fit.misfits[0]
    asyncio.run(step.undo({0: b'{"number":"7"}'}, None, FakeContext()))
    assert seen == [Charged(number="c-7")]


def test_a_version_that_no_upcast_knows_does_not_fit() -> None:
    bound, _ = declared()
    fit = fit_of(bound, step_of(EventRef("order.placed", 4), Charged.event))
    assert not fit.handlers
    assert "order.placed" in fit.misfits[0]


def test_a_shared_choreography_may_still_say_the_older_version() -> None:
    shop = Declarations("shop")

    @shop.step("charge")
    async def charge(order: Ordered) -> None: ...

    step = ChoreographyStep("charge").on_event(V1).owned_by("shop")
    [bound] = shop.freeze(Choreography("orders").starts_with(V1).step(step))
    assert bound.definition.reads == (V1,)
    asyncio.run(bound.run({V1: BODIES[V1]}, FakeContext()))


def test_a_class_of_the_very_version_goes_before_one_that_is_made_from_it() -> None:
    seen: list[object] = []
    shop = Declarations("shop")

    class Old(Event, name="order.placed", version=1):
        order: str

    @shop.step("look")
    async def look(order: Ordered | Old) -> None:
        seen.append(order)

    [bound] = shop.freeze(None)
    asyncio.run(bound.run({V1: BODIES[V1]}, FakeContext()))
    assert [type(one) for one in seen] == [Old]


@pytest.mark.parametrize(
    "body", [b'{"order":"o","amount":"secret"}', b'{"order":"secret"}', b'["secret"]'], ids=["wrong type", "missing", "no object"]
)
def test_a_payload_that_cannot_be_brought_up_is_named_without_its_values(body: bytes) -> None:
    bound, _ = declared()
    fit = fit_of(bound, step_of(V1, Charged.event))
    with pytest.raises(DecodeError) as info:
        asyncio.run(fit.handlers[0].run({V1: body}, FakeContext()))
    assert "'order.placed' v1" in str(info.value)
    assert "secret" not in str(info.value) + repr(info.value.__context__)


def test_upcasts_lead_from_version_to_version_without_a_gap() -> None:
    assert older_of(Ordered) == (V2, V1)
    with pytest.raises(TypeError, match="name each version from the oldest it reads up to 2"):
        type("Gap", (Event,), {}, name="order.placed", version=3, upcast={1: with_currency})
    with pytest.raises(TypeError, match=r"has upcasts from \[2\]"):
        type("Ahead", (Event,), {}, name="order.placed", version=2, upcast={2: with_currency})
