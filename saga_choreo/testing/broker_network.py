"""Broker behaviours on a bad network, played by a proxy: cut, refused, swallowed one way or both, slow."""

from __future__ import annotations

import asyncio
import contextlib

from saga_choreo.errors import BrokerUnavailable
from saga_choreo.testing.behaviours import (
    BrokerSuite,
    bodies,
    collect,
    connection_of,
    event,
    opened,
    paced,
    publish,
    tool,
    topology,
    unread,
)
from saga_choreo.testing.broker_harness import BrokerHarness
from saga_choreo.testing.broker_servers import ANSWER_S, BACK_S, collect_all, publish_once, until

__all__ = ["NETWORK"]

NETWORK = BrokerSuite()


@NETWORK.that("a cut connection is made again, and nothing confirmed is lost", "proxy")
async def _cut(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        everything: set[bytes] = set()
        for turn in range(3):
            confirmed, _ = await publish_once(broker, 50, 1000 * turn)
            everything |= confirmed
            proxy.cut()
            await publish(broker, event(10_000 + turn))
            everything.add(b"%d" % (10_000 + turn))
        await collect_all(broker, everything)


@NETWORK.that("a cut in the middle of a publish answers each message, and what was confirmed comes", "proxy")
async def _cut_publishing(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        everything: set[bytes] = set()
        for turn in range(4):
            publishing = asyncio.ensure_future(publish_once(broker, 2000, 10_000 * turn))
            await asyncio.wait((publishing,), timeout=0.01 * (turn + 1))
            proxy.cut()
            confirmed, answers = await publishing
            assert all(answer is None or isinstance(answer, BrokerUnavailable) for answer in answers)
            everything |= confirmed
            await publish(broker, event(1_000_000 + turn))
            everything.add(b"%d" % (1_000_000 + turn))
        await collect_all(broker, everything)


@NETWORK.that("a cut while receiving only means that messages come again", "proxy")
async def _cut_receiving(h: BrokerHarness) -> None:
    async with (
        opened(h, "stock", "stock.reserved") as publisher,
        tool(h.tools.proxy)() as proxy,
        opened(h, port=proxy.port) as broker,
    ):
        wanted = {b"%d" % number for number in range(600)}
        await publish(publisher, *(event(body) for body in wanted))
        found: set[bytes] = set()
        turn = 0
        async with asyncio.timeout(3 * BACK_S):
            while found < wanted:
                deliveries = await broker.receive(50, 0.0)
                turn += 1
                if turn in (2, 4, 6):
                    proxy.cut()
                    continue  # these are not acknowledged: they have to come again
                found |= {delivery.body for delivery in deliveries}
                with contextlib.suppress(BrokerUnavailable):
                    await broker.ack(deliveries)


@NETWORK.that("an acknowledgement that gets lost only means a repeated delivery", "proxy")
async def _cut_acking(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        await publish(broker, *(event(number) for number in range(20)))
        held = await collect(broker, 20, ack=False)
        with proxy.black_hole():
            with contextlib.suppress(BrokerUnavailable):
                async with asyncio.timeout(ANSWER_S):
                    await broker.ack(held[:10])
            proxy.cut()
        await collect_all(broker, {delivery.body for delivery in held[10:]})
        await publish(broker, event(b"after"))
        await collect_all(broker, {b"after"})


@NETWORK.that("acknowledging or handing back what came over a connection that is gone harms nothing", "proxy")
async def _stale_tokens(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        await publish(broker, *(event(number) for number in range(6)))
        held = await collect(broker, 6, ack=False)
        proxy.cut()
        await publish(broker, event(b"after"))
        with contextlib.suppress(BrokerUnavailable):
            await broker.release(held[:3])
        with contextlib.suppress(BrokerUnavailable):
            await broker.release(held[3:], 0.1)
        await collect_all(broker, {delivery.body for delivery in held} | {b"after"})
        with contextlib.suppress(BrokerUnavailable):
            await broker.ack(held)
        await publish(broker, event(b"last"))
        await collect_all(broker, {b"last"})


@NETWORK.that("a publish while the server is away is answered in bounded time, as unknown", "proxy")
async def _publish_down(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        with proxy.refusing():
            for _ in range(3):
                confirmed, answers = await publish_once(broker, 5)
                assert not confirmed
                assert all(isinstance(answer, BrokerUnavailable) for answer in answers)
        await publish(broker, event(b"after"))
        await collect_all(broker, {b"after"})


@NETWORK.that("a network that swallows everything is noticed, and outlived", "proxy")
async def _black_hole(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        with proxy.black_hole():
            for _ in range(2):
                confirmed, _ = await publish_once(broker, 10)
                assert not confirmed
        await publish(broker, event(b"after"))
        await collect_all(broker, {b"after"})


@NETWORK.that("a publish that the server took and whose answer got lost comes at least once", "proxy")
async def _one_way_down(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        with proxy.black_hole("down"):
            confirmed, _ = await publish_once(broker, 10)
            assert not confirmed
        await publish(broker, *(event(number) for number in range(10)))
        await collect_all(broker, {b"%d" % number for number in range(10)})


@NETWORK.that("a network that swallows what the agent says leads to repeats, never to a loss", "proxy")
async def _one_way_up(h: BrokerHarness) -> None:
    async with (
        opened(h, "stock", "stock.reserved") as publisher,
        tool(h.tools.proxy)() as proxy,
        opened(h, port=proxy.port) as broker,
    ):
        await publish(broker, event(b"before"))
        held = await collect(broker, 1, ack=False)
        with proxy.black_hole("up"):
            confirmed, _ = await publish_once(broker, 10)
            assert not confirmed
            await publish(publisher, event(b"meanwhile"))
            with contextlib.suppress(BrokerUnavailable):
                async with asyncio.timeout(ANSWER_S):
                    await broker.ack(held)
        await publish(broker, *(event(number) for number in range(10)))
        await collect_all(broker, {b"meanwhile"} | {b"%d" % number for number in range(10)})


@NETWORK.that("a slow network only makes things slower", "proxy")
async def _slow(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy:
        proxy.delay(0.02, jitter_s=0.06)
        async with opened(h, port=proxy.port) as broker:
            await publish(broker, *(event(number) for number in range(100)))
            assert len(await collect(broker, 100)) == 100


@NETWORK.that("a server that is away is told of, and that it is back, and how often it was lost", "proxy")
async def _told(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        for turn in (1, 2):
            # Nothing between the two: a connection that was lost again meanwhile is not lost by what follows.
            await until(lambda: connection_of(broker).is_up)
            before = connection_of(broker).losses
            with proxy.refusing():
                await until(lambda: not connection_of(broker).is_up)
                assert connection_of(broker).losses > before, turn
            await until(lambda: connection_of(broker).is_up)
            await publish(broker, event(turn))
        await collect_all(broker, {b"1", b"2"})


@NETWORK.that("a server that nothing is heard of any more is told of", "proxy")
async def _told_of_silence(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        await publish(broker, event(b"before"))
        with proxy.black_hole(), paced():
            await publish_once(broker, 1)  # somebody notices sooner than nobody
            await until(lambda: not connection_of(broker).is_up)
        await publish(broker, event(b"after"))
        await until(lambda: connection_of(broker).is_up)
        await collect_all(broker, {b"before", b"after"})


@NETWORK.that("a server that stays away is tried less than once a second", "proxy")
async def _no_spin(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, opened(h, port=proxy.port) as broker:
        receiving = asyncio.ensure_future(broker.receive(1, 0.0))
        with proxy.refusing():
            before = proxy.connections
            watched_s = 6.0
            await asyncio.wait((receiving,), timeout=watched_s)
            assert not receiving.done()
            # One for the quick first attempt.
            assert proxy.connections - before <= watched_s + 1
        await publish(broker, event(b"1"))
        assert bodies(await asyncio.wait_for(receiving, BACK_S)) == [b"1"]


@NETWORK.that("agents that lose the server together do not come back all at once", "proxy")
async def _jitter(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy, contextlib.AsyncExitStack() as open_brokers:
        names = [f"service-{number}" for number in range(6)]
        brokers = [await open_brokers.enter_async_context(opened(h, name, port=proxy.port)) for name in names]
        with proxy.refusing():
            before = len(proxy.connected_at)
            async with asyncio.timeout(BACK_S):
                while len(proxy.connected_at) - before < len(brokers):  # noqa: ASYNC110  (a poll with a deadline)
                    await asyncio.sleep(0.05)
            tries = proxy.connected_at[before : before + len(brokers)]
        assert max(tries) - min(tries) > 0.02, f"all tried again within {max(tries) - min(tries):.3f} s"
        for broker in brokers:
            await publish(broker, unread(event(b"after", "order.other")))


@NETWORK.that("closing while the server is away ends in bounded time", "proxy")
async def _close_down(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy:
        broker = h.broker(proxy.port)
        await broker.open(topology())
        await publish(broker, event(b"1"))
        with proxy.refusing():
            async with asyncio.timeout(ANSWER_S):
                await broker.close()


@NETWORK.that("closing into a black hole ends in bounded time", "proxy")
async def _close_black_hole(h: BrokerHarness) -> None:
    async with tool(h.tools.proxy)() as proxy:
        broker = h.broker(proxy.port)
        await broker.open(topology())
        with proxy.black_hole():
            async with asyncio.timeout(ANSWER_S):
                await broker.close()
