"""Broker behaviours when the server is late, restarts, is killed or stalls, or somebody deletes what it holds.

A restart can take a server many seconds, so only these few ask for one. A server that is merely not there is played by a
proxy that refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from saga_choreo.errors import BrokerUnavailable
from saga_choreo.ports import Broker, Notice
from saga_choreo.testing.behaviours import (
    BrokerSuite,
    bodies,
    collect,
    event,
    nothing_comes,
    opened,
    paced,
    publish,
    started,
    tool,
    topology,
)
from saga_choreo.testing.broker_harness import BrokerHarness
from saga_choreo.testing.broker_publishing import first_notices

__all__ = ["ANSWER_S", "BACK_S", "SERVERS", "collect_all", "publish_once", "until"]

SERVERS = BrokerSuite()

# No call may keep its caller longer than this, whatever the network does.
ANSWER_S = 10.0
BACK_S = 20.0


async def publish_once(broker: Broker, count: int, start: int = 0) -> tuple[set[bytes], Sequence[Exception | None]]:
    """Publish, and say which bodies were confirmed."""
    messages = [event(number) for number in range(start, start + count)]
    async with asyncio.timeout(ANSWER_S):
        answers = await broker.publish(messages)
    return {message.body for message, answer in zip(messages, answers, strict=True) if answer is None}, answers


async def collect_all(broker: Broker, wanted: set[bytes]) -> None:
    """Receive until all of these have come, once or more often, whatever else comes too."""
    found: set[bytes] = set()
    async with asyncio.timeout(3 * BACK_S):
        while not found >= wanted:
            deliveries = await broker.receive(256, 0.02)
            found |= {delivery.body for delivery in deliveries}
            await broker.ack(deliveries)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(BACK_S):
        while not holds():  # noqa: ASYNC110  (a poll with a deadline)
            await asyncio.sleep(0.02)


@SERVERS.that("opening while the server is down fails in bounded time, and works once it is up", "proxy")
async def _late_server(h: BrokerHarness) -> None:
    proxy = tool(h.tools.proxy)()
    broker = h.broker(proxy.port)
    try:
        async with asyncio.timeout(30):
            try:
                await broker.open(topology())
            except BrokerUnavailable:
                pass
            else:
                raise AssertionError("opened although nobody listens")
        async with proxy:
            await broker.open(topology())
            await publish(broker, event(b"1"))
            assert bodies(await collect(broker, 1)) == [b"1"]
            await broker.close()
    finally:
        await broker.close()


@SERVERS.that("opening succeeds when the server comes up meanwhile", "proxy")
async def _server_comes_up(h: BrokerHarness) -> None:
    proxy = tool(h.tools.proxy)()
    broker = h.broker(proxy.port)
    opening = asyncio.ensure_future(broker.open(topology()))
    await asyncio.wait((opening,), timeout=0.5)
    assert not opening.done()
    async with proxy:
        await opening
        await broker.close()


@SERVERS.that("a server restart is survived: receive waits, what was confirmed comes", "server", "survives_restart")
async def _restart(h: BrokerHarness) -> None:
    server = tool(h.tools.server)
    async with opened(h) as broker:
        confirmed, _ = await publish_once(broker, 50)
        assert len(confirmed) == 50
        server.stop()
        receiving = asyncio.ensure_future(collect_all(broker, confirmed | {b"after"}))
        await asyncio.wait((receiving,), timeout=0.5)
        await started(server)
        await publish(broker, event(b"after"))
        await receiving


@SERVERS.that("kill -9 of the server under load loses nothing that was confirmed", "server", "survives_restart")
async def _kill_under_load(h: BrokerHarness) -> None:
    server = tool(h.tools.server)
    confirmed: set[bytes] = set()
    stop = asyncio.Event()

    async def load(broker: Broker, part: int) -> None:
        number = part * 1_000_000
        while not stop.is_set():
            done, _ = await publish_once(broker, 20, number)
            confirmed.update(done)
            number += 20
            await asyncio.sleep(0.01)

    async with opened(h) as broker:
        async with asyncio.TaskGroup() as tasks:
            for part in range(3):
                tasks.create_task(load(broker, part))
            await until(_grows(confirmed, 200))
            server.kill()
            await asyncio.sleep(0.2)
            await started(server)
            await until(_grows(confirmed, 100))
            stop.set()
        await collect_all(broker, confirmed)


def _grows(confirmed: set[bytes], by: int) -> Callable[[], bool]:
    goal = len(confirmed) + by
    return lambda: len(confirmed) >= goal


@SERVERS.that("what a killed server had delivered and nobody had acknowledged comes again", "server", "survives_restart")
async def _unacknowledged_survives(h: BrokerHarness) -> None:
    server = tool(h.tools.server)
    async with opened(h) as broker:
        await publish(broker, *(event(number) for number in range(20)))
        held = await collect(broker, 20, ack=False)
        server.kill()
        with contextlib.suppress(BrokerUnavailable):
            await broker.ack(held[:5])
        await started(server)
        await collect_all(broker, {delivery.body for delivery in held[5:]})


@SERVERS.that("a watcher of the notices goes on after the server was killed", "server", "survives_restart")
async def _notices_survive(h: BrokerHarness) -> None:
    server = tool(h.tools.server)
    async with opened(h) as broker:
        await broker.notify(Notice("kept", b"1"))
        watching = asyncio.ensure_future(first_notices(broker, "kept", "new", within_s=3 * BACK_S))
        await asyncio.wait((watching,), timeout=0.3)
        server.kill()
        await started(server)
        async with asyncio.timeout(BACK_S):
            while True:
                try:
                    await broker.notify(Notice("new", b"2"))
                    break
                except BrokerUnavailable:
                    await asyncio.sleep(0.1)
        assert await watching == {"kept": b"1", "new": b"2"}


@SERVERS.that("a server that stalls with its connections open is noticed; all goes on when it does", "server", "survives_restart")
async def _half_open(h: BrokerHarness) -> None:
    server = tool(h.tools.server)
    loop = asyncio.get_running_loop()
    async with opened(h) as broker:
        before, _ = await publish_once(broker, 10)
        server.pause()
        begun = loop.time()
        with paced():
            while loop.time() - begun < 8.0:
                confirmed, answers = await publish_once(broker, 5, 100)
                assert not confirmed
                assert all(isinstance(answer, BrokerUnavailable) for answer in answers)
                await asyncio.sleep(0.2)
        server.resume()
        await publish(broker, event(b"after"))
        await collect_all(broker, before | {b"after"})


@SERVERS.that("a server that ends all connections is connected to again, and nothing confirmed is lost", "disconnect")
async def _disconnected(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        before, _ = await publish_once(broker, 20)
        receiving = asyncio.ensure_future(collect_all(broker, before | {b"after"}))
        await tool(h.tools.disconnect)()
        await publish(broker, event(b"after"))
        await receiving


@SERVERS.that("bindings deleted under way are made again, and later messages arrive", "drop_bindings")
async def _lost_bindings(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        await collect(broker, 1)
        await tool(h.tools.drop_bindings)()
        await _talks_again(broker)


@SERVERS.that("channels deleted under way are made again, and later messages arrive", "drop_channels")
async def _lost_channels(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        await collect(broker, 1)
        await tool(h.tools.drop_channels)()
        await _talks_again(broker)


@SERVERS.that("channels deleted under way that an agent may not make are used again once somebody has made them", "drop_channels")
async def _not_ours_to_make(h: BrokerHarness) -> None:
    async with opened(h):
        pass
    broker = h.broker()
    await broker.open(topology(agent="a2", create=False))
    try:
        await publish(broker, event(b"1"))
        await collect(broker, 1)
        await tool(h.tools.drop_channels)()
        with paced():
            async with asyncio.timeout(ANSWER_S):
                await broker.publish([event(b"lost?")])
            await asyncio.sleep(5.0)
        async with opened(h, agent="a3") as maker:
            await maker.close()
        await _talks_again(broker)
    finally:
        await broker.close()


@SERVERS.that("notices can be given and watched again after the channels were deleted", "drop_channels")
async def _lost_notices(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await broker.notify(Notice("kept", b"1"))
        watching = asyncio.ensure_future(first_notices(broker, "new", within_s=2 * BACK_S))
        await asyncio.wait((watching,), timeout=0.3)
        await tool(h.tools.drop_channels)()
        async with asyncio.timeout(2 * BACK_S):
            while not watching.done():
                with contextlib.suppress(BrokerUnavailable):
                    await broker.notify(Notice("new", b"2"))
                await asyncio.wait((watching,), timeout=0.5)
        assert (await watching)["new"] == b"2"


async def _talks_again(broker: Broker) -> None:
    """Publish a new message now and then, until one comes through: what fell into the gap may be lost, the rest not."""
    async with asyncio.timeout(BACK_S):
        receiving = asyncio.ensure_future(broker.receive(10, 0.0))
        number = 1000
        while not receiving.done():
            await broker.publish([event(number)])
            number += 1
            await asyncio.wait((receiving,), timeout=0.3)
        await broker.ack(receiving.result())


@SERVERS.that("a purge takes what was there and nothing that comes after it", "purge")
async def _purged(h: BrokerHarness) -> None:
    async with opened(h, agent="a1") as broker:
        await publish(broker, event(b"1"))
        await collect(broker, 1)
    async with opened(h, "stock", "stock.reserved") as publisher:
        await publish(publisher, *(event(number) for number in range(100, 150)))
        await tool(h.tools.purge)()
        async with opened(h, agent="a2") as broker:
            await publish(publisher, event(b"after"))
            found: set[bytes] = set()
            while b"after" not in found:
                found |= set(bodies(await collect(broker, 1)))
            assert found <= {b"after"}
            await nothing_comes(broker, 0.3)


@SERVERS.that("a purge under way stops nobody", "purge")
async def _purged_under_way(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, *(event(number) for number in range(200)))
        held = await collect(broker, 10, ack=False, batch=10)
        await tool(h.tools.purge)()
        await broker.ack(held)
        await _talks_again(broker)
