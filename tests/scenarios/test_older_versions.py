"""A record that an earlier release wrote is read by the code of a later one, which has changed its events.

The earlier release is stopped while its saga waits: one input is in a record, with the payload of version 1. The later release has
never seen such a payload arrive; it finds it in its store, and the definition beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from saga_choreo import Agent, Choreography, ChoreographyStep, Event, Reject, SagaState, all_of
from saga_choreo.ports import SagaFilter
from saga_choreo.runtime.plugins import make_store
from tests.scenarios.world import QUICK, eventually, run

_numbers = itertools.count()
_ALL = SagaFilter()


class OrderedV1(Event, name="old.ordered"):
    order: str
    amount: int


class Reserved(Event, name="old.reserved"):
    order: str


class ChargedV1(Event, name="old.charged"):
    number: int


def in_cents(old: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in old.items() if name != "amount"}
    return {**rest, "cents": 100 * old["amount"]}


class Ordered(Event, name="old.ordered", version=2, upcast={1: in_cents}):
    order: str
    cents: int


class Charged(Event, name="old.charged", version=2, upcast={1: lambda old: {**old, "number": f"c-{old['number']}"}}):
    number: str


def form(version: int, ordered: type[Event], charged: type[Event]) -> Choreography:
    return (
        Choreography("aged", version=version)
        .starts_with(ordered)
        .step(
            ChoreographyStep("reserve").on_event(ordered).publish_event(Reserved).owned_by("shop").with_compensation(),
            ChoreographyStep("charge")
            .on_event(all_of(ordered, Reserved))
            .publish_event(charged)
            .owned_by("payment")
            .with_compensation(),
            ChoreographyStep("ship").on_event(charged).owned_by("shop").with_compensation(),
        )
    )


OLD, NEW = form(1, OrderedV1, ChargedV1), form(2, Ordered, Charged)
# A later release that has changed what it reads, and not what it publishes.
READS_NEW = form(2, Ordered, ChargedV1)


class Place:
    """The service `shop` stays at the earlier release, and holds the saga back until `may_reserve`."""

    def __init__(self, broker: str, store: Callable[[str], str]) -> None:
        self.broker, self.store, self.prefix = broker, store, f"aged{next(_numbers)}"
        self.seen: list[Any] = []
        self.may_reserve = False
        self.may_ship = False

    def agent(self, service: str, saga: Choreography) -> Agent:
        return Agent(service, saga=saga, broker=self.broker, store=self.store(service), prefix=self.prefix, limits=QUICK)

    def shop(self, *, refuses: bool = False) -> Agent:
        agent = self.agent("shop", OLD)

        @agent.step
        async def reserve(order: OrderedV1) -> Reserved:
            if not self.may_reserve:
                raise OSError("the warehouse is closed")
            return Reserved(order=order.order)

        @reserve.compensation
        async def unreserve() -> None: ...

        @agent.step
        async def ship(done: ChargedV1) -> None:
            if not self.may_ship:
                raise OSError("no lorry")
            if refuses:
                raise Reject("nobody delivers there")

        @ship.compensation
        async def unship() -> None: ...

        return agent

    def earlier_payment(self) -> Agent:
        agent = self.agent("payment", OLD)

        @agent.step
        async def charge(order: OrderedV1, reserved: Reserved) -> ChargedV1:
            return ChargedV1(number=7)

        @charge.compensation
        async def refund(done: ChargedV1) -> None:
            raise AssertionError("the later release undoes it")

        return agent

    def payment_that_reads_anew(self) -> Agent:
        agent = self.agent("payment", READS_NEW)

        @agent.step
        async def charge(order: Ordered, reserved: Reserved) -> ChargedV1:
            self.seen.append(order)
            return ChargedV1(number=8)

        @charge.compensation
        async def refund(done: ChargedV1) -> None: ...

        return agent

    def later_payment(self) -> Agent:
        agent = self.agent("payment", NEW)

        @agent.step
        async def charge(order: Ordered, reserved: Reserved) -> Charged:
            raise AssertionError("nobody of the earlier release could read what it publishes")

        @charge.compensation
        async def refund(done: Charged) -> None:
            self.seen.append(done)

        return agent

    async def has_record(self, service: str, state: str) -> bool:
        store = make_store(self.store(service))
        await store.open(migrate=False)
        found = await store.sagas(_ALL)
        await store.close()
        return any(record.row.state.name == state for group in found for record in group if record.step >= 0)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, nats_url: str, store: str) -> Place:
    if request.param == "sqlite":
        return Place(nats_url, lambda service: store.replace("{service}", service))
    make: Callable[[], str] = request.getfixturevalue("postgres_schema")
    urls = {service: make() for service in ("shop", "payment")}
    return Place(nats_url, urls.__getitem__)


def test_an_input_that_was_recorded_as_version_1_is_read_by_a_handler_of_version_2(place: Place) -> None:
    async def scenario() -> None:
        shop = place.shop()
        async with shop.serving():
            async with place.earlier_payment().serving():
                await shop.ready(10)
                handle = await shop.start_saga(OrderedV1.model_validate({"order": "o-1", "amount": 3, "gift": True}))
                await eventually(lambda: place.has_record("payment", "WAITING"), 10)
            async with place.payment_that_reads_anew().serving():
                place.may_reserve = place.may_ship = True
                assert await handle.wait(20) is SagaState.COMPLETED
        [order] = place.seen
        assert (type(order), order.cents, order.model_extra) == (Ordered, 300, {"gift": True})

    run(scenario(), 60)


def test_what_version_1_did_is_undone_by_the_code_of_version_2(place: Place) -> None:
    async def scenario() -> None:
        place.may_reserve = True
        shop = place.shop(refuses=True)
        async with shop.serving():
            async with place.earlier_payment().serving():
                await shop.ready(10)
                handle = await shop.start_saga(OrderedV1(order="o-1", amount=3))
                await eventually(lambda: place.has_record("payment", "DONE"), 10)
            async with place.later_payment().serving():
                place.may_ship = True
                assert await handle.wait(20) is SagaState.COMPENSATED
        assert place.seen == [Charged(number="c-7")]

    run(scenario(), 60)
