"""The consumer, on a real (memory) broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.memory.clock import SystemClock
from saga_choreo.ports import Channel, ChannelKind, Delivery, Outgoing, Topology
from saga_choreo.runtime.consumer import Consumer
from saga_choreo.runtime.sharing import Sharing
from saga_choreo.runtime.timing import Limits


class _Counting(MemoryBroker):
    delivered = 0

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.enough = asyncio.Event()

    async def receive(self, max_messages: int, max_wait_s: float) -> Sequence[Delivery]:
        deliveries = await super().receive(max_messages, max_wait_s)
        self.delivered += len(deliveries)
        if self.delivered >= 8:
            self.enough.set()
        return deliveries


def test_outcomes_that_wait_for_slow_callbacks_hold_up_consumption_instead_of_piling_up() -> None:
    async def scenario() -> None:
        broker = _Counting(f"memory://{uuid4().hex}?ack_wait=100")
        await broker.open(Topology(service="s", agent="a", events=(), known_events=(), owners=("s",)))
        letter = Outgoing(Channel(ChannelKind.OUTCOME), "", {}, b"")
        await broker.publish([letter] * 100)
        go_on, all_handled, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
        handled: list[Delivery] = []

        async def handle(deliveries: Sequence[Delivery]) -> None:
            await go_on.wait()
            handled.extend(deliveries)
            if len(handled) == 100:
                all_handled.set()

        limits = Limits(batch_max=4, batch_wait_s=0.0, outcome_max=2, outcome_wait_s=0.001)
        consumer = Consumer(broker, SystemClock(), limits, 1, handle)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            running = group.create_task(consumer.run(group, stop))
            await broker.enough.wait()
            for _ in range(500):
                await asyncio.sleep(0)
            held_up_at = broker.delivered
            go_on.set()
            await all_handled.wait()
            stop.set()
            await running
        assert held_up_at <= 16

    asyncio.run(scenario())


def test_a_message_does_not_wait_while_only_outcomes_are_applied() -> None:
    async def scenario() -> None:
        broker = MemoryBroker(f"memory://{uuid4().hex}?ack_wait=100")
        await broker.open(Topology(service="s", agent="a", events=(), known_events=(), owners=("s",)))
        applying, go_on, came, stop = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handle(deliveries: Sequence[Delivery]) -> None:
            if deliveries[0].channel.kind is ChannelKind.OUTCOME:
                applying.set()
                await go_on.wait()
            else:
                came.set()

        limits = Limits(batch_wait_s=1000.0, outcome_wait_s=0.001)
        consumer = Consumer(broker, SystemClock(), limits, 2, handle)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            running = group.create_task(consumer.run(group, stop))
            await broker.publish([Outgoing(Channel(ChannelKind.OUTCOME), "", {}, b"")])
            await applying.wait()
            # The loop is in `receive`: this one brings it to where it might wait for the batch of outcomes.
            await broker.publish([Outgoing(Channel(ChannelKind.OUTCOME), "", {}, b"")])
            for _ in range(50):
                await asyncio.sleep(0)
            await broker.publish([Outgoing(Channel(ChannelKind.CONTROL, "s"), "", {}, b"")])
            try:
                async with asyncio.timeout(2):
                    await came.wait()
            finally:
                go_on.set()
                stop.set()
                await running

    asyncio.run(scenario())


class _Timed(SystemClock):
    """Sleeps for a moment only, and notes for how long it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0)


def _gathered(agents: int, size: int) -> list[float]:
    """How long the consumer of one of so many agents waits after a batch of that size."""

    async def scenario() -> list[float]:
        broker, clock, stop, handled = (
            MemoryBroker(f"memory://{uuid4().hex}?ack_wait=100"),
            _Timed(),
            asyncio.Event(),
            asyncio.Event(),
        )
        await broker.open(Topology(service="s", agent="a", events=(), known_events=(), owners=("s",)))

        async def handle(deliveries: Sequence[Delivery]) -> None:
            assert len(deliveries) == size
            handled.set()

        limits = Limits(batch_wait_s=0.0, batch_gather_s=10.0)
        consumer = Consumer(broker, clock, limits, 1, handle, Sharing(broker, limits, lambda: (0, agents)))
        await broker.publish([Outgoing(Channel(ChannelKind.CONTROL, "s"), "", {}, b"")] * size)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            running = group.create_task(consumer.run(group, stop))
            await handled.wait()
            for _ in range(50):
                await asyncio.sleep(0)
            asked = clock.asked[:]
            stop.set()
            await running
        return asked

    return asyncio.run(scenario())


def test_each_further_agent_of_a_service_gathers_for_longer_after_a_batch_of_several() -> None:
    assert _gathered(1, 1) == _gathered(3, 1) == [], "what comes alone goes at once"
    for agents, most_s in ((1, 10.0), (3, 30.0), (4, 40.0), (9, 40.0)):
        (asked_s,) = _gathered(agents, 2)
        assert most_s - 5 < asked_s <= most_s


def test_who_stops_leaves_what_waits_to_the_others_before_its_own_batches_have_ended() -> None:
    async def scenario() -> None:
        stop, begun, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

        class Leaving(MemoryBroker):
            async def withdraw(self) -> None:
                go_on.set()

        async def handle(deliveries: Sequence[Delivery]) -> None:
            assert len(deliveries) == 1
            begun.set()
            await go_on.wait()

        broker = Leaving(f"memory://{uuid4().hex}?ack_wait=100")
        await broker.open(Topology(service="s", agent="a", events=(), known_events=(), owners=("s",)))
        await broker.publish([Outgoing(Channel(ChannelKind.CONTROL, "s"), "", {}, b"")])
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            running = group.create_task(Consumer(broker, SystemClock(), Limits(), 1, handle).run(group, stop))
            await begun.wait()
            stop.set()
            await running
        assert go_on.is_set()

    asyncio.run(scenario())
