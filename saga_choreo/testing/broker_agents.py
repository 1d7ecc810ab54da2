"""Broker behaviours with several agents of a service: one dies, one stalls, they come and go, one is too slow, one is stopped."""

from __future__ import annotations

import asyncio
import contextlib

from saga_choreo.errors import BrokerUnavailable
from saga_choreo.ports import Broker
from saga_choreo.testing.behaviours import BrokerSuite, bodies, collect, event, nothing_comes, opened, publish, tool, topology
from saga_choreo.testing.broker_harness import BrokerHarness
from saga_choreo.testing.broker_servers import BACK_S, collect_all, publish_once, until

__all__ = ["AGENTS"]

AGENTS = BrokerSuite()


@AGENTS.that("what an agent held when it died goes to another one", "proxy")
async def _one_dies(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy:
        dying = h.broker(proxy.port)
        await dying.open(topology(agent="dying"))
        await publish(dying, *(event(number) for number in range(30)))
        held = await collect(dying, 30, ack=False, batch=10)
        # A process that is killed says nothing any more: its connections are reset and not made again.
        with proxy.refusing():
            async with opened(h, agent="a2") as other:
                await collect_all(other, {delivery.body for delivery in held})
            await dying.close()


@AGENTS.that("what an agent held that fell silent goes to another one; when it speaks again it harms nothing", "proxy")
async def _one_stalls(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, agent="stalls", port=proxy.port) as stalls:
        await publish(stalls, *(event(number) for number in range(10)))
        held = await collect(stalls, 10, ack=False, batch=10)
        with proxy.black_hole():
            async with opened(h, agent="a2") as other:
                await collect_all(other, {delivery.body for delivery in held})
        with contextlib.suppress(BrokerUnavailable):
            await stalls.ack(held[:5])
        with contextlib.suppress(BrokerUnavailable):
            await stalls.release(held[5:])
        await publish(stalls, event(b"after"))
        await collect_all(stalls, {b"after"})


@AGENTS.that("agents that come and go all the time lose nothing, and the work goes on")
async def _storm(h: BrokerHarness) -> None:
    wanted: set[bytes] = set()
    found: set[bytes] = set()
    stop = asyncio.Event()

    async def load(broker: Broker) -> None:
        number = 0
        while not stop.is_set():
            confirmed, _ = await publish_once(broker, 10, number)
            wanted.update(confirmed)
            number += 10
            await asyncio.sleep(0.05)

    async def visit(turn: int, stay_s: float) -> None:
        async with opened(h, agent=f"visitor-{turn}") as broker:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(stay_s):
                    while True:
                        deliveries = await broker.receive(20, 0.01)
                        await broker.ack(deliveries[: len(deliveries) // 2])
                        found.update(delivery.body for delivery in deliveries[: len(deliveries) // 2])

    async with opened(h, "stock", "stock.reserved") as publisher, opened(h, agent="stays") as stays:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load(publisher))
            for turn in range(6):
                await asyncio.gather(visit(2 * turn, 0.4), visit(2 * turn + 1, 0.8))
            stop.set()
        await collect_all(stays, wanted - found)


@AGENTS.that("a slow consumer gets all that a fast publisher sends")
async def _slow_consumer(h: BrokerHarness) -> None:
    count, body = 3000, b"x" * 1024
    async with opened(h, "stock", "stock.reserved") as publisher, opened(h) as slow:
        publishing = asyncio.ensure_future(publish(publisher, *(event(b"%d:" % number + body) for number in range(count))))
        found: set[bytes] = set()
        async with asyncio.timeout(3 * BACK_S):
            while len(found) < count:
                deliveries = await slow.receive(100, 0.0)
                await asyncio.sleep(0.01)
                found |= {delivery.body for delivery in deliveries}
                await slow.ack(deliveries)
        await publishing


@AGENTS.that("an agent that is stopped under load finishes or hands back, and loses nothing")
async def _graceful(h: BrokerHarness) -> None:
    async with contextlib.AsyncExitStack() as open_brokers:
        stopping = h.broker()
        await stopping.open(topology(agent="stopping"))
        done: set[bytes] = set()
        wanted = {b"%d" % number for number in range(500)}
        await publish(stopping, *(event(body) for body in wanted))
        publishing = asyncio.ensure_future(stopping.publish([event(10_000 + number) for number in range(500)]))
        for _ in range(3):
            deliveries = await asyncio.wait_for(stopping.receive(50, 0.0), BACK_S)
            await stopping.ack(deliveries[:25])
            done |= {delivery.body for delivery in deliveries[:25]}
        receiving = asyncio.ensure_future(stopping.receive(50, 0.0))
        await asyncio.wait((receiving,), timeout=0.05)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        await stopping.close()
        answers = await asyncio.wait_for(publishing, BACK_S)
        assert all(answer is None or isinstance(answer, BrokerUnavailable) for answer in answers)
        wanted |= {b"%d" % (10_000 + number) for number, answer in enumerate(answers) if answer is None}
        other = await open_brokers.enter_async_context(opened(h, agent="a2"))
        await collect_all(other, wanted - done)


@AGENTS.that("a message that was published three times comes three times or less, never not at all")
async def _three_times(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        messages = [event(number) for number in range(50)]
        for _ in range(3):
            await publish(broker, *messages)
        await publish(broker, event(b"last"))
        counts: dict[bytes, int] = {}
        while b"last" not in counts or len(counts) < 51:
            deliveries = await asyncio.wait_for(broker.receive(64, 0.02), BACK_S)
            for delivery in deliveries:
                counts[delivery.body] = counts.get(delivery.body, 0) + (not delivery.redelivered)
            await broker.ack(deliveries)
        assert max(counts.values()) <= 3


@AGENTS.that("two prefixes on one server do not meet")
async def _prefixes(h: BrokerHarness) -> None:
    one, two = h.broker(prefix="one"), h.broker(prefix="two")
    try:
        for broker in (one, two):
            await broker.open(topology())
        await publish(one, event(b"1"))
        assert bodies(await collect(one, 1)) == [b"1"]
        await nothing_comes(two, 0.5)
    finally:
        await one.close()
        await two.close()


@AGENTS.that("two releases of a service that read different events each get theirs to the service")
async def _two_releases(h: BrokerHarness) -> None:
    found: set[bytes] = set()

    async def share(broker: Broker) -> None:
        while True:
            deliveries = await broker.receive(10, 0.0)
            found.update(delivery.body for delivery in deliveries)
            await broker.ack(deliveries)

    async with (
        opened(h, "payment", "order.created", "order.changed", agent="old") as old,
        opened(h, "payment", "order.created", "order.closed", agent="new") as new,
    ):
        await publish(new, event(b"1", "order.changed"), event(b"2", "order.closed"), event(b"3", "order.created"))
        shares = [asyncio.ensure_future(share(broker)) for broker in (old, new)]
        try:
            await until(lambda: found == {b"1", b"2", b"3"})
        finally:
            for task in shares:
                task.cancel()
            await asyncio.gather(*shares, return_exceptions=True)
