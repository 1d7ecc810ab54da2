"""What a conformance suite is made of: a behaviour is a sentence and an async function that takes a harness.

The harness says how to make the thing under test and how to break it. No test framework is needed to run a behaviour.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from saga_choreo.ports import Broker, BrokerFeatures, Channel, ChannelKind, Delivery, Outgoing, Topology

__all__ = [
    "BrokerBehaviour",
    "BrokerHarness",
    "BrokerSuite",
    "ServerControl",
    "bodies",
    "collect",
    "control",
    "event",
    "nothing_comes",
    "opened",
    "publish",
    "topology",
    "unread",
]

Feature = Literal["counts_deliveries", "delays_release", "survives_restart", "real"]

# Generous: a loaded two-core machine must not fail a correct adapter. A behaviour that hangs is a failed one.
WITHIN_S = 20.0
_BEHAVIOUR_S = 90.0


class ServerControl(Protocol):
    """The server behind a real broker. `port` is a loopback port and stays the same over restarts."""

    @property
    def port(self) -> int: ...
    def start(self) -> object: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class BrokerHarness(Protocol):
    """Made anew for each behaviour: all its brokers share one server and one prefix that nobody else uses.

    `ack_wait_s` is how long the brokers it makes wait for an acknowledgement (short, so that tests are quick). `server` is
    None where features.real is False. `destroy` deletes bindings (queues, durables) or channels (streams, exchanges) behind
    the adapter's back.
    """

    @property
    def features(self) -> BrokerFeatures: ...
    @property
    def ack_wait_s(self) -> float: ...
    @property
    def server(self) -> ServerControl | None: ...
    def broker(self, port: int | None = None) -> Broker:
        """A broker that is not open yet; through this port (a proxy's) if one is given."""
        ...

    async def destroy(self, what: Literal["bindings", "channels"]) -> None: ...


@dataclass(frozen=True, slots=True)
class BrokerBehaviour:
    """One sentence that every broker must make true. `needs` names the features without which it makes no sense."""

    name: str
    check: Callable[[BrokerHarness], Awaitable[None]]
    needs: tuple[Feature, ...] = ()

    def __str__(self) -> str:
        return self.name

    def missing(self, features: BrokerFeatures) -> str:
        """Why this behaviour is skipped for a broker, or an empty text."""
        lacking = [feature for feature in self.needs if not getattr(features, feature)]
        return f"broker {features.name!r} does not claim {', '.join(lacking)}" if lacking else ""

    async def run(self, harness: BrokerHarness) -> None:
        async with asyncio.timeout(_BEHAVIOUR_S):
            await self.check(harness)


class BrokerSuite(list[BrokerBehaviour]):
    """Collects behaviours: `@SUITE.that("a sentence", "real")`."""

    def that(self, name: str, *needs: Feature) -> Callable[[Callable[[BrokerHarness], Awaitable[None]]], None]:
        def add(check: Callable[[BrokerHarness], Awaitable[None]]) -> None:
            self.append(BrokerBehaviour(name, check, needs))

        return add


def topology(service: str = "payment", *events: str, agent: str = "a1", create: bool = True) -> Topology:
    return Topology(service=service, agent=agent, events=events or ("order.created",), create=create)


@asynccontextmanager
async def opened(
    harness: BrokerHarness, service: str = "payment", *events: str, agent: str = "a1", port: int | None = None
) -> AsyncGenerator[Broker]:
    broker = harness.broker(port)
    await broker.open(topology(service, *events, agent=agent))
    try:
        yield broker
    finally:
        await broker.close()


def event(body: bytes | int = b"", name: str = "order.created", **headers: str) -> Outgoing:
    data = body if isinstance(body, bytes) else b"%d" % body
    return Outgoing(channel=Channel(ChannelKind.EVENT, name), key="saga-1", headers=headers or {"ce-type": name}, body=data)


def unread(outgoing: Outgoing) -> Outgoing:
    """The same for an event that no service of the choreography reads."""
    return replace(outgoing, must_route=False)


def control(service: str, body: bytes = b"") -> Outgoing:
    return Outgoing(channel=Channel(ChannelKind.CONTROL, service), key="saga-1", headers={"ce-type": "step.failed"}, body=body)


async def publish(broker: Broker, *messages: Outgoing) -> None:
    """Publish, and publish again what was not confirmed, until all is."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    left: Sequence[Outgoing] = messages
    while left:
        answers = await broker.publish(left)
        assert len(answers) == len(left), f"{len(answers)} answers to {len(left)} messages"
        left = [message for message, answer in zip(left, answers, strict=True) if answer is not None]
        assert not left or asyncio.get_running_loop().time() < deadline, f"not confirmed within {WITHIN_S} s: {answers!r:.500}"
        if left:
            await asyncio.sleep(0.05)


async def collect(broker: Broker, count: int, *, ack: bool = True, batch: int = 64) -> list[Delivery]:
    """Receive until `count` different bodies have come; the first delivery of each, in the order of arrival."""
    found: dict[bytes, Delivery] = {}
    try:
        async with asyncio.timeout(WITHIN_S):
            while len(found) < count:
                deliveries = await broker.receive(batch, 0.02)
                for delivery in deliveries:
                    found.setdefault(delivery.body, delivery)
                if ack:
                    await broker.ack(deliveries)
    except TimeoutError:
        raise AssertionError(f"{len(found)} of {count} messages came within {WITHIN_S} s") from None
    return list(found.values())


async def nothing_comes(broker: Broker, for_s: float) -> None:
    """A negative needs a time: long enough that a wrong adapter would have delivered."""
    try:
        async with asyncio.timeout(for_s):
            extra = await broker.receive(10, 0.0)
    except TimeoutError:
        return
    raise AssertionError(f"nothing should have come, but there is {extra!r}")


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return sorted(delivery.body for delivery in deliveries)
