"""Sagas from plain events that a service without an agent has published; other readers of the event are not troubled by them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from saga_choreo import Agent, Choreography, ChoreographyStep, Event, SagaState, WantedLetters
from saga_choreo.errors import DefinitionError, SagaNotFound
from saga_choreo.memory.store import MemoryStore
from saga_choreo.model.envelope import Channel, ChannelKind
from saga_choreo.ports import Outgoing, Topology
from saga_choreo.runtime.plugins import make_broker
from tests.scenarios.world import eventually, run


class Placed(Event, name="plain.placed"):
    order: str
    amount: int = 1


class Charged(Event, name="plain.charged"): ...


SHOP = (
    Choreography("plain-shop")
    .starts_with(Placed)
    .step(
        ChoreographyStep("charge").on_event(Placed).publish_event(Charged).with_compensation().owned_by("payment"),
        ChoreographyStep("count").on_event(Charged).kind(read_only=True).owned_by("web"),
    )
)
_numbers = itertools.count()
PLACED = Channel(ChannelKind.EVENT, "plain.placed")
TILL = Topology(service="till", agent="till-1", events=(), known_events=("plain.placed",), receives=False)


class House:
    """A web service that starts sagas from what others publish, and a payment service that reads the very same event."""

    def __init__(self, broker: str, prefix: str) -> None:
        self.store = MemoryStore()
        self.web = Agent("web", saga=SHOP, broker=broker, prefix=prefix, store="sqlite://:memory:")
        self.payment = Agent("payment", saga=SHOP, broker=broker, prefix=prefix, store=self.store)
        self.outside = make_broker(broker, prefix=prefix)
        self.charged: list[str] = []
        self.web.starts_on(Placed, key=lambda placed: placed.order)

        @self.payment.step("charge")
        async def charge(placed: Placed) -> Charged:
            self.charged.append(placed.order)
            return Charged()

        @charge.compensation
        async def refund() -> None: ...

        @self.web.step("count")
        async def count(charged: Charged) -> None: ...

    async def publish(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        answers = await self.outside.publish([Outgoing(PLACED, "", headers or {}, body, must_route=True)])
        assert [one for one in answers if one is not None] == []

    async def ends(self, key: str) -> SagaState:
        async def started() -> Any:
            try:
                return await self.web.saga(key).state()
            except SagaNotFound:
                return None

        await eventually(started, 30)
        return await self.web.saga(key).wait(30)


@pytest.fixture(
    params=["memory", "nats", pytest.param("rabbitmq", marks=pytest.mark.long), pytest.param("kafka", marks=pytest.mark.long)]
)
def house(request: pytest.FixtureRequest) -> House:
    if request.param == "memory":
        return House("memory://plain-events", "plain")
    return House(request.getfixturevalue(f"{request.param}_url"), f"plain{next(_numbers)}")


def test_a_plain_event_starts_one_saga_however_often_it_comes(house: House) -> None:
    async def scenario() -> None:
        async with house.payment.serving(), house.web.serving():
            await house.web.ready(20)
            await house.outside.open(TILL)
            await house.publish(b'{"order":"A-1"}')
            await house.publish(
                b'{"order":"A-1"}', {"ce-specversion": "1.0", "ce-type": "plain.placed", "ce-id": "7", "ce-source": "/till"}
            )
            await house.publish(b'{"order":"A-2","amount":3}')
            assert [await house.ends(key) for key in ("A-1", "A-2")] == [SagaState.COMPLETED] * 2
            assert sorted(house.charged) == ["A-1", "A-2"]

            async def left_alone() -> bool:
                return (await house.store.counters("payment")).get("plain", 0) == 3

            await eventually(left_alone, 20)
            assert "quarantined" not in await house.store.counters("payment")
            await house.outside.close()

    run(scenario(), 90)


def test_what_starts_no_saga_is_kept_with_its_reason(house: House) -> None:
    async def scenario() -> None:
        async with house.payment.serving(), house.web.serving():
            await house.web.ready(20)
            await house.outside.open(TILL)
            await house.publish(b'{"order":"B-1"}')
            await house.ends("B-1")
            for body in (b'{"order":"B-1","amount":99}', b"garbage", b'{"amount":1}', b'{"order":""}'):
                await house.publish(body)
            letters = house.web.dead_letters

            async def kept() -> Any:
                found = sorted([one.code async for one in letters.find(WantedLetters(kind="message"))])
                return found if len(found) == 4 else None

            codes = await eventually(kept, 20)
            assert codes == ["cannot_start", "invalid_json", "key_conflict", "payload_invalid"]
            assert house.charged == ["B-1"]
            await house.outside.close()

    run(scenario(), 90)


def test_an_event_that_starts_nothing_is_refused_at_the_start() -> None:
    agent = Agent("web", saga=Choreography("plain-shop").starts_with(Placed, participants={"payment"}))
    agent.starts_on(Charged, key=lambda _: "x")
    for _ in range(2):  # and again when it is asked again
        with pytest.raises(DefinitionError, match=r"starts_on names event 'plain.charged v1', which starts 0 .*: plain-shop"):
            agent.freeze()
