"""What a conformance suite is made of: a behaviour is a sentence and an async function that takes a harness.

The harness says how to make the thing under test and how to break it. No test framework is needed to run a behaviour.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from socket import AF_INET
from typing import Any, TypeVar

from saga_choreo.ports import (
    Broker,
    BrokerFeatures,
    Channel,
    ChannelKind,
    Connection,
    Delivery,
    Outgoing,
    TellsOfConnection,
    Topology,
)
from saga_choreo.testing.broker_harness import BrokerHarness, BrokerTools, ServerControl

__all__ = [
    "BrokerBehaviour",
    "BrokerSuite",
    "bodies",
    "collect",
    "connection_of",
    "control",
    "event",
    "nothing_comes",
    "opened",
    "paced",
    "publish",
    "started",
    "tool",
    "topology",
    "unread",
]

# Generous: a loaded two-core machine must not fail a correct adapter. A behaviour that hangs is a failed one.
WITHIN_S = 20.0
_BEHAVIOUR_S = 180.0
_TOOLS = BrokerTools.names()
_KNOWN_EVENTS = ("order.created", "order.changed", "order.closed", "order.other", "order.unread", "stock.reserved")
# One thread that lasts: a server dies with the thread that started it.
_STARTER = ThreadPoolExecutor(1, "saga-server")
Tool = TypeVar("Tool")


@dataclass(frozen=True, slots=True)
class BrokerBehaviour:
    """One sentence that every broker must make true. `needs` names the features and tools without which it makes no sense."""

    name: str
    check: Callable[[BrokerHarness], Awaitable[None]]
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def hurts(self) -> bool:
        """It stops, kills or pauses the server, or fills it: whoever shares that server has to wait."""
        return not {"server", "blocked"}.isdisjoint(self.needs)

    def unclaimed(self, features: BrokerFeatures) -> str:
        """Why this behaviour says nothing about an adapter: the features that it does not claim. Or an empty text."""
        lacking = [need for need in self.needs if need not in _TOOLS and not getattr(features, need)]
        if self.needs and not features.real and not lacking and not _TOOLS.isdisjoint(self.needs):
            lacking = ["real"]
        return f"broker {features.name!r} does not claim {', '.join(lacking)}" if lacking else ""

    def missing(self, harness: BrokerHarness) -> str:
        """Why it cannot run with this harness: a feature that is not claimed, or a tool that is not there. Or an empty text."""
        if reason := self.unclaimed(harness.features):
            return reason
        lacking = [need for need in self.needs if need in _TOOLS and getattr(harness.tools, need) is None]
        return f"the harness of broker {harness.features.name!r} has no tool {', '.join(lacking)}" if lacking else ""

    async def run(self, harness: BrokerHarness) -> None:
        """Leaves a server that it hurt running, also when it fails."""
        try:
            async with asyncio.timeout(_BEHAVIOUR_S):
                await self.check(harness)
        finally:
            if self.hurts and harness.tools.server is not None:
                harness.tools.server.resume()
                await started(harness.tools.server)


class BrokerSuite(list[BrokerBehaviour]):
    """Collects behaviours: `@SUITE.that("a sentence", "survives_restart", "server")`."""

    def that(self, name: str, *needs: str) -> Callable[[Callable[[BrokerHarness], Awaitable[None]]], None]:
        unknown = {need for need in needs if need not in _TOOLS and need not in BrokerFeatures.__slots__}
        assert not unknown, f"behaviour {name!r} needs {unknown}, which is neither a feature nor a tool"

        def add(check: Callable[[BrokerHarness], Awaitable[None]]) -> None:
            self.append(BrokerBehaviour(name, check, needs))

        return add


def tool(found: Tool | None) -> Tool:
    """A tool that the behaviour named in its needs."""
    assert found is not None, "a behaviour names the tools that it needs"
    return found


async def started(server: ServerControl) -> None:
    """Start it without holding up the event loop, which for some servers would take longer than a client waits."""
    await asyncio.get_running_loop().run_in_executor(_STARTER, server.start)


def topology(service: str = "payment", *events: str, agent: str = "a1", create: bool = True) -> Topology:
    mine = events or ("order.created",)
    return Topology(service=service, agent=agent, events=mine, known_events=tuple({*mine, *_KNOWN_EVENTS}), create=create)


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
    """The key goes with the body, so that a broker with partitions spreads a series of events over them."""
    data = body if isinstance(body, bytes) else b"%d" % body
    key = f"saga-{zlib.crc32(data) % 16}"
    return Outgoing(channel=Channel(ChannelKind.EVENT, name), key=key, headers=headers or {"ce-type": name}, body=data)


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


def connection_of(broker: Broker) -> Connection:
    assert isinstance(broker, TellsOfConnection), f"broker {broker.features.name!r} does not tell of its connection"
    return broker.connection


@contextmanager
def paced() -> Generator[None]:
    """Meanwhile nobody on this event loop tries to connect more than once a second, one quick first attempt aside."""
    loop: Any = asyncio.get_running_loop()
    connect, began, tries = loop.sock_connect, loop.time(), 0

    def counted(sock: Any, address: Any) -> Any:
        nonlocal tries
        tries += sock.family == AF_INET  # a name may stand for two addresses, which are tried one after the other
        return connect(sock, address)

    loop.sock_connect = counted
    try:
        yield
    finally:
        loop.sock_connect = connect
    seconds = loop.time() - began
    assert tries <= seconds + 1, f"{tries} attempts at a connection within {seconds:.1f} s"


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
