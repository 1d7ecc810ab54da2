"""The memory broker in virtual time, and what only it has. Its behaviour as a broker is in the conformance suite."""

from __future__ import annotations

import asyncio
import gc
from heapq import heappop, heappush

import pytest

from saga_choreo.errors import ConfigurationError
from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.memory.clock import SystemClock
from saga_choreo.ports import Topology
from saga_choreo.testing.behaviours import event

PAYMENT = Topology(service="payment", agent="a1", events=("order.created",))


class HandClock(SystemClock):
    """Time moves only by `advance`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (self.now + seconds, id(sleeper), sleeper))
        await sleeper

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        while self._sleepers and self._sleepers[0][0] <= self.now:
            sleeper = heappop(self._sleepers)[2]
            if not sleeper.done():
                sleeper.set_result(None)
        for _ in range(10):
            await asyncio.sleep(0)


def test_redelivery_and_delays_follow_the_injected_clock_only() -> None:
    async def scenario() -> None:
        clock = HandClock()
        broker = MemoryBroker("memory://virtual?ack_wait=1000", clock=clock)
        await broker.open(PAYMENT)
        await broker.publish([event(b"1")])
        (first,) = await broker.receive(10, 0.0)
        waiting = asyncio.ensure_future(broker.receive(10, 0.0))
        await clock.advance(999)
        assert not waiting.done()
        await clock.advance(1)
        (second,) = waiting.result()
        assert (second.attempt, second.redelivered) == (2, True)
        await broker.release([first], 0.0)
        waiting = asyncio.ensure_future(broker.receive(10, 0.0))
        await clock.advance(1)
        assert not waiting.done(), "an old delivery was handed back in the name of a new one"
        await broker.release([second], 500.0)
        await clock.advance(499)
        assert not waiting.done()
        await clock.advance(1)
        assert waiting.result()[0].attempt == 3
        await broker.close()

    asyncio.run(scenario())


def test_brokers_of_one_name_share_a_bus_and_others_do_not() -> None:
    async def scenario() -> None:
        one, same, other, prefixed = (
            MemoryBroker("memory://shared"),
            MemoryBroker("memory://shared"),
            MemoryBroker("memory://elsewhere"),
            MemoryBroker("memory://shared", prefix="test"),
        )
        for broker in (one, same, other, prefixed):
            await broker.open(PAYMENT)
        await one.publish([event(b"1")])
        assert len(await same.receive(1, 0.0)) == 1
        for broker in (other, prefixed):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(broker.receive(1, 0.0), 0.05)

    asyncio.run(scenario())


def test_a_bus_is_forgotten_with_its_last_broker() -> None:
    async def scenario() -> None:
        broker = MemoryBroker("memory://short")
        await broker.open(PAYMENT)
        await broker.publish([event(b"1")])
        del broker
        gc.collect()
        again = MemoryBroker("memory://short")
        with pytest.raises(ConfigurationError, match="queue 'payment' is missing"):
            await again.open(Topology(service="payment", agent="a1", events=("order.created",), create=False))

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["nats://x", "memory://x?ack_wait=0", "memory://x?ack_wait=soon", "memory://x?what=1"])
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        MemoryBroker(url)


def test_a_broker_that_is_not_open_says_so() -> None:
    with pytest.raises(ConfigurationError, match="call open"):
        asyncio.run(MemoryBroker().publish([event(b"1")]))
