"""Broker behaviours under faults: a server that is late, restarts or is killed, a network that cuts or swallows, lost channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from saga_choreo.errors import BrokerUnavailable
from saga_choreo.ports import Broker, Notice
from saga_choreo.testing.behaviours import (
    BrokerHarness,
    BrokerSuite,
    ServerControl,
    bodies,
    collect,
    event,
    opened,
    publish,
    topology,
)
from saga_choreo.testing.broker_publishing import first_notices
from saga_choreo.testing.proxy import FaultProxy

__all__ = ["FAULTS"]

FAULTS = BrokerSuite()

# No call may keep its caller longer than this, whatever the network does.
_ANSWER_S = 10.0
_BACK_S = 15.0


def _server(h: BrokerHarness) -> ServerControl:
    assert h.server is not None, "a broker that claims features.real needs a harness with a server"
    return h.server


async def _publish_once(broker: Broker, count: int, start: int = 0) -> tuple[set[bytes], Sequence[Exception | None]]:
    """Publish, and say which bodies were confirmed."""
    messages = [event(number) for number in range(start, start + count)]
    async with asyncio.timeout(_ANSWER_S):
        answers = await broker.publish(messages)
    return {message.body for message, answer in zip(messages, answers, strict=True) if answer is None}, answers


@FAULTS.that("opening while the server is down fails in bounded time, and works once it is up", "real")
async def _late_server(h: BrokerHarness) -> None:
    _server(h).stop()
    broker = h.broker()
    try:
        async with asyncio.timeout(30):
            try:
                await broker.open(topology())
            except BrokerUnavailable:
                pass
            else:
                raise AssertionError("opened although the server is down")
        _server(h).start()
        await broker.open(topology())
        await publish(broker, event(b"1"))
        assert bodies(await collect(broker, 1)) == [b"1"]
    finally:
        await broker.close()


@FAULTS.that("opening succeeds when the server comes up meanwhile", "real")
async def _server_comes_up(h: BrokerHarness) -> None:
    _server(h).stop()
    broker = h.broker()
    opening = asyncio.ensure_future(broker.open(topology()))
    await asyncio.wait((opening,), timeout=0.5)
    assert not opening.done()
    _server(h).start()
    await opening
    await broker.close()


@FAULTS.that("a server restart is survived: receive waits, what was confirmed comes", "real", "survives_restart")
async def _restart(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        confirmed, _ = await _publish_once(broker, 50)
        assert len(confirmed) == 50
        _server(h).stop()
        receiving = asyncio.ensure_future(collect(broker, 51))
        await asyncio.wait((receiving,), timeout=0.5)
        _server(h).start()
        await publish(broker, event(b"after"))
        assert set(bodies(await receiving)) >= confirmed | {b"after"}


@FAULTS.that("a publish while the server is down is answered in bounded time, as unknown", "real")
async def _publish_down(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        _server(h).kill()
        for _ in range(3):
            confirmed, answers = await _publish_once(broker, 5)
            assert not confirmed
            assert all(isinstance(answer, BrokerUnavailable) for answer in answers)
        _server(h).start()


@FAULTS.that("kill -9 of the server under load loses nothing that was confirmed", "real", "survives_restart")
async def _kill_under_load(h: BrokerHarness) -> None:
    confirmed: set[bytes] = set()
    stop = asyncio.Event()

    async def load(broker: Broker, part: int) -> None:
        number = part * 1_000_000
        while not stop.is_set():
            done, _ = await _publish_once(broker, 20, number)
            confirmed.update(done)
            number += 20
            await asyncio.sleep(0.01)

    async with opened(h) as broker:
        async with asyncio.TaskGroup() as tasks:
            for part in range(3):
                tasks.create_task(load(broker, part))
            for _ in range(2):
                await _until(_grows(confirmed, 200))
                _server(h).kill()
                await asyncio.sleep(0.2)
                _server(h).start()
                await _until(_grows(confirmed, 1))
            stop.set()
        found: set[bytes] = set()
        while not found >= confirmed:
            found |= set(bodies(await collect(broker, 1, batch=256)))


def _grows(confirmed: set[bytes], by: int) -> Callable[[], bool]:
    goal = len(confirmed) + by
    return lambda: len(confirmed) >= goal


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_BACK_S):
        while not holds():  # noqa: ASYNC110  (a poll with a deadline)
            await asyncio.sleep(0.02)


@FAULTS.that("bindings deleted under way are made again, and later messages arrive", "real")
async def _lost_bindings(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        await collect(broker, 1)
        await h.destroy("bindings")
        await _talks_again(broker)


@FAULTS.that("channels deleted under way are made again, and later messages arrive", "real")
async def _lost_channels(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        await collect(broker, 1)
        await h.destroy("channels")
        await _talks_again(broker)


async def _talks_again(broker: Broker) -> None:
    """Publish a new message now and then, until one comes through: what fell into the gap may be lost, the rest not."""
    async with asyncio.timeout(_BACK_S):
        receiving = asyncio.ensure_future(broker.receive(10, 0.0))
        number = 1000
        while not receiving.done():
            await broker.publish([event(number)])
            number += 1
            await asyncio.wait((receiving,), timeout=0.3)
        await broker.ack(receiving.result())


@FAULTS.that("a cut connection is made again, and nothing confirmed is lost", "real")
async def _cut(h: BrokerHarness) -> None:
    async with FaultProxy(_server(h).port) as proxy, opened(h, port=proxy.port) as broker:
        everything: set[bytes] = set()
        for turn in range(3):
            confirmed, _ = await _publish_once(broker, 50, 1000 * turn)
            everything |= confirmed
            proxy.cut()
            await publish(broker, event(10_000 + turn))
            everything.add(b"%d" % (10_000 + turn))
        found: set[bytes] = set()
        while not found >= everything:
            found |= set(bodies(await collect(broker, 1)))


@FAULTS.that("a network that swallows everything is noticed, and outlived", "real")
async def _black_hole(h: BrokerHarness) -> None:
    async with FaultProxy(_server(h).port) as proxy, opened(h, port=proxy.port) as broker:
        with proxy.black_hole():
            for _ in range(2):
                confirmed, _ = await _publish_once(broker, 10)
                assert not confirmed
        await publish(broker, event(b"after"))
        found: set[bytes] = set()
        while b"after" not in found:
            found |= set(bodies(await collect(broker, 1)))


@FAULTS.that("a network that swallows what the server says leads to repeats, never to a loss", "real")
async def _one_way(h: BrokerHarness) -> None:
    async with FaultProxy(_server(h).port) as proxy, opened(h, port=proxy.port) as broker:
        with proxy.black_hole("down"):
            confirmed, _ = await _publish_once(broker, 10)
            assert not confirmed
        await publish(broker, *(event(number) for number in range(10)))
        assert len(await collect(broker, 10)) == 10


@FAULTS.that("a slow network only makes things slower", "real")
async def _slow(h: BrokerHarness) -> None:
    async with FaultProxy(_server(h).port, seed=7) as proxy:
        proxy.delay(0.02, jitter_s=0.06)
        async with opened(h, port=proxy.port) as broker:
            await publish(broker, *(event(number) for number in range(100)))
            assert len(await collect(broker, 100)) == 100


@FAULTS.that("a server that stays away is tried less than once a second", "real")
async def _no_spin(h: BrokerHarness) -> None:
    async with FaultProxy(_server(h).port) as proxy, opened(h, port=proxy.port) as broker:
        receiving = asyncio.ensure_future(broker.receive(1, 0.0))
        _server(h).kill()
        before = proxy.connections
        watched_s = 6.0
        await asyncio.wait((receiving,), timeout=watched_s)
        assert not receiving.done()
        # One for the quick first attempt.
        assert proxy.connections - before <= watched_s + 1
        _server(h).start()
        await publish(broker, event(b"1"))
        assert bodies(await asyncio.wait_for(receiving, _BACK_S)) == [b"1"]


@FAULTS.that("a watcher of the notices goes on after the server was killed", "real", "survives_restart")
async def _notices_survive(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await broker.notify(Notice("kept", b"1"))
        watching = asyncio.ensure_future(first_notices(broker, "kept", "new"))
        await asyncio.wait((watching,), timeout=0.3)
        _server(h).kill()
        _server(h).start()
        async with asyncio.timeout(_BACK_S):
            while True:
                try:
                    await broker.notify(Notice("new", b"2"))
                    break
                except BrokerUnavailable:
                    await asyncio.sleep(0.1)
        assert await watching == {"kept": b"1", "new": b"2"}


@FAULTS.that("closing while the server is down ends in bounded time", "real")
async def _close_down(h: BrokerHarness) -> None:
    broker = h.broker()
    await broker.open(topology())
    await publish(broker, event(b"1"))
    _server(h).kill()
    async with asyncio.timeout(_ANSWER_S):
        await broker.close()
    _server(h).start()


@FAULTS.that("closing into a black hole ends in bounded time", "real")
async def _close_black_hole(h: BrokerHarness) -> None:
    async with FaultProxy(_server(h).port) as proxy:
        broker = h.broker(proxy.port)
        await broker.open(topology())
        with proxy.black_hole():
            async with asyncio.timeout(_ANSWER_S):
                await broker.close()
