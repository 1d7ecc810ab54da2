"""Broker behaviours where the server says no: full, blocked, unread, too often delivered, set back, refused credentials, bad TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager

from saga_choreo.errors import BrokerUnavailable, ConfigurationError, PublishRefused
from saga_choreo.ports import Broker
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
)
from saga_choreo.testing.broker_harness import BrokerHarness, Certificate
from saga_choreo.testing.broker_servers import ANSWER_S, BACK_S, collect_all, publish_once, until

__all__ = ["LIMITS"]

LIMITS = BrokerSuite()


@LIMITS.that("a full channel refuses what is new and keeps what is old", "refuses_when_full", "cramped")
async def _full(h: BrokerHarness) -> None:
    broker = tool(h.tools.cramped)()
    await broker.open(topology())
    try:
        answers = await broker.publish([event(b"%05d" % number + b"x" * 5000) for number in range(60)])
        refused = [answer for answer in answers if answer is not None]
        assert 60 > len(refused) > 0, f"{len(refused)} of 60 were refused"
        assert all(isinstance(answer, PublishRefused) and "full" in str(answer) for answer in refused), refused[0]
        assert len(await collect(broker, 60 - len(refused))) == 60 - len(refused)
        await publish(broker, event(b"room again"))
        await collect_all(broker, {b"room again"})
    finally:
        await broker.close()


@LIMITS.that(
    "while the server takes no publish, each is answered in bounded time, receiving goes on, and later all is well", "blocked"
)
async def _blocked(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        before, _ = await publish_once(broker, 20)
        async with tool(h.tools.blocked)():
            async with asyncio.timeout(3 * ANSWER_S):
                confirmed, answers = await publish_once(broker, 3, 100)
                assert not confirmed
                assert all(isinstance(answer, BrokerUnavailable | PublishRefused) for answer in answers)
            await collect_all(broker, before)
        await publish(broker, event(b"after"))
        await collect_all(broker, {b"after"})


@LIMITS.that("a message that no service is bound for is refused, and hinders no other", "reports_unread")
async def _unread(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        answers = await broker.publish([event(b"1"), event(b"2", "order.unread"), event(b"3")])
        assert [isinstance(answer, PublishRefused) for answer in answers] == [False, True, False], answers
        assert answers[0] is answers[2] is None, answers
        assert bodies(await collect(broker, 2)) == [b"1", b"3"]


@LIMITS.that("a message that is handed back for ever does not hinder the others")
async def _poison(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"poison"), *(event(number) for number in range(100)))
        found: set[bytes] = set()
        async with asyncio.timeout(BACK_S):
            while len(found) < 100:
                deliveries = await broker.receive(10, 0.0)
                poison = [delivery for delivery in deliveries if delivery.body == b"poison"]
                await broker.ack([delivery for delivery in deliveries if delivery.body != b"poison"])
                await broker.release(poison)
                found |= {delivery.body for delivery in deliveries if delivery.body != b"poison"}
        await collect_all(broker, {b"poison"})


@LIMITS.that("a service that was set back to the start gets the kept messages again, and the new ones", "keeps_read", "rewind")
async def _set_back(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, *(event(number) for number in range(10)))
        await collect(broker, 10)
    await tool(h.tools.rewind)("start")
    async with opened(h, agent="a2") as broker:
        await publish(broker, event(b"after"))
        await collect_all(broker, {b"after"} | {b"%d" % number for number in range(10)})


@LIMITS.that("a service that was set to the end gets what comes from then on", "keeps_read", "rewind")
async def _set_forward(h: BrokerHarness) -> None:
    async with opened(h, "stock", "stock.reserved") as publisher:
        async with opened(h) as broker:
            await publish(broker, event(b"1"))
            await collect(broker, 1)
        await publish(publisher, event(b"skipped"))
        await tool(h.tools.rewind)("end")
        async with opened(h, agent="a2") as broker:
            await publish(publisher, event(b"after"))
            assert bodies(await collect(broker, 1)) == [b"after"]


@LIMITS.that("a service whose place was forgotten starts from what is kept, and misses nothing", "keeps_read", "expire")
async def _expired(h: BrokerHarness) -> None:
    async with opened(h, "stock", "stock.reserved") as publisher:
        async with opened(h) as broker:
            await publish(broker, event(b"1"))
            await collect(broker, 1)
        await publish(publisher, event(b"2"))
        await tool(h.tools.expire)()
        async with opened(h, agent="a2") as broker:
            await publish(publisher, event(b"3"))
            await collect_all(broker, {b"2", b"3"})


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@contextmanager
def _logged() -> Generator[list[str]]:
    """All that is logged meanwhile, at every level."""
    kept, root = _Kept(), logging.getLogger()
    level = root.level
    root.addHandler(kept)
    root.setLevel(logging.DEBUG)
    try:
        yield kept.texts
    finally:
        root.removeHandler(kept)
        root.setLevel(level)


async def _opens(broker: Broker) -> Exception | None:
    try:
        async with asyncio.timeout(BACK_S):
            await broker.open(topology())
    except (BrokerUnavailable, ConfigurationError) as refusal:
        return refusal
    finally:
        await broker.close()
    return None


@LIMITS.that("credentials that are right are taken over TLS, and never shown", "guarded")
async def _accepted(h: BrokerHarness) -> None:
    with _logged() as texts:
        async with tool(h.tools.guarded)() as server:
            broker = server.broker()
            await broker.open(topology())
            await publish(broker, event(b"1"))
            assert bodies(await collect(broker, 1)) == [b"1"]
            await broker.close()
    assert "first-s3cret" not in "\n".join(texts)


@LIMITS.that("credentials that are wrong are refused as a matter of configuration, and not shown", "guarded")
async def _refused(h: BrokerHarness) -> None:
    with _logged() as texts:
        async with tool(h.tools.guarded)() as server:
            refusal = await _opens(server.broker("second"))
            assert isinstance(refusal, ConfigurationError), refusal
            assert "s3cret" not in str(refusal)
    assert "second-s3cret" not in "\n".join(texts)


@LIMITS.that("credentials that change under way cost nothing but time", "guarded")
async def _rotated(h: BrokerHarness) -> None:
    async with tool(h.tools.guarded)() as server:
        broker = server.broker()
        await broker.open(topology())
        try:
            await publish(broker, event(b"1"))
            await server.accept("second")
            async with asyncio.timeout(2 * BACK_S):
                while (await publish_once(broker, 1, 100))[0]:  # noqa: ASYNC110  (a poll with a deadline)
                    await asyncio.sleep(0.1)
            await _stays_out(broker)
            assert await _opens(server.broker("second")) is None
            await server.accept("first")
            await publish(broker, event(b"2"))
            await collect_all(broker, {b"1", b"2"})
        finally:
            await broker.close()


async def _stays_out(broker: Broker) -> None:
    """It says that it is not connected, and tries in peace."""
    await until(lambda: not connection_of(broker).is_up)
    with paced():
        await asyncio.sleep(5.0)
    assert not connection_of(broker).is_up


@LIMITS.that("a certificate that goes bad under way keeps the agent out, and nothing is lost once it is good again", "guarded")
async def _goes_bad(h: BrokerHarness) -> None:
    async with tool(h.tools.guarded)() as server:
        broker = server.broker()
        await broker.open(topology())
        try:
            await publish(broker, event(b"1"))
            await server.present("expired")
            await server.put_out()
            await _stays_out(broker)
            assert not (await publish_once(broker, 1, 100))[0]
            await server.present("good")
            await publish(broker, event(b"2"))
            await collect_all(broker, {b"1", b"2"})
        finally:
            await broker.close()


async def _distrusts(h: BrokerHarness, certificate: Certificate) -> None:
    """Closed at the door while the certificate is bad, open again when it is good: no restart of anything."""
    async with tool(h.tools.guarded)() as server:
        await server.present(certificate)
        refusal = await _opens(server.broker())
        assert refusal is not None, f"opened although the certificate is {certificate!r}"
        assert "certificate" in str(refusal).lower(), refusal
        await server.present("good")
        assert await _opens(server.broker()) is None


@LIMITS.that("a certificate for another host is not trusted", "guarded")
async def _other_host(h: BrokerHarness) -> None:
    await _distrusts(h, "other host")


@LIMITS.that("a certificate that has expired is not trusted", "guarded")
async def _certificate_expired(h: BrokerHarness) -> None:
    await _distrusts(h, "expired")


@LIMITS.that("a certificate of an unknown issuer is not trusted", "guarded")
async def _unknown_issuer(h: BrokerHarness) -> None:
    await _distrusts(h, "unknown issuer")


@LIMITS.that(
    "what the server gives up delivering is put aside, and hinders no other", "bounds_deliveries", "impatient", "put_aside"
)
async def _given_up(h: BrokerHarness) -> None:
    broker = tool(h.tools.impatient)()
    await broker.open(topology())
    try:
        await publish(broker, event(b"poison"))
        async with asyncio.timeout(2 * BACK_S):
            while b"poison" not in await tool(h.tools.put_aside)():
                receiving = asyncio.ensure_future(broker.receive(1, 0.0))
                await asyncio.wait((receiving,), timeout=1.0)
                if receiving.done():
                    await broker.release(receiving.result())
                else:
                    receiving.cancel()
                    await asyncio.gather(receiving, return_exceptions=True)
        await publish(broker, event(b"after"))
        await collect_all(broker, {b"after"})
    finally:
        await broker.close()
