"""Broker behaviours: what a publish answers, notices, and what opening and closing promise."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast

from saga_choreo.errors import ConfigurationError, PublishRefused
from saga_choreo.ports import Broker, Channel, ChannelKind, Notice, Outgoing, Topology
from saga_choreo.testing.behaviours import (
    BrokerSuite,
    bodies,
    collect,
    control,
    event,
    nothing_comes,
    opened,
    publish,
    topology,
    unread,
)
from saga_choreo.testing.broker_harness import BrokerHarness

__all__ = ["PUBLISHING", "first_notices"]

PUBLISHING = BrokerSuite()


async def first_notices(broker: Broker, *subjects: str, within_s: float = 20.0) -> dict[str, bytes]:
    """Watch until all these subjects were seen; the last body of each."""
    seen: dict[str, bytes] = {}
    async with asyncio.timeout(within_s), aclosing(cast("Any", broker.notices())) as notices:
        async for notice in notices:
            seen[notice.subject] = notice.body
            if seen.keys() >= set(subjects):
                break
    return seen


@PUBLISHING.that("each message gets its own answer, in order, and a message that is too large hinders no other")
async def _answers(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        large = event(b"x" * (h.features.body_bytes_max + 100_000))
        answers = await broker.publish([event(b"1"), large, event(b"2"), large, event(b"3")])
        assert [type(answer) for answer in answers] == [type(None), PublishRefused, type(None), PublishRefused, type(None)]
        assert bodies(await collect(broker, 3)) == [b"1", b"2", b"3"]


@PUBLISHING.that("nothing to publish is answered with nothing")
async def _nothing(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        assert list(await broker.publish([])) == []


@PUBLISHING.that("a body of 64 KiB, the most an envelope carries, passes")
async def _inline_limit(h: BrokerHarness) -> None:
    body = bytes(range(256)) * 256
    async with opened(h) as broker:
        assert list(await broker.publish([event(body)])) == [None]
        (delivery,) = await collect(broker, 1)
        assert delivery.body == body


@PUBLISHING.that("several publishes at once are all confirmed and all arrive")
async def _concurrent(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await asyncio.gather(*(publish(broker, *(event(100 * part + n) for n in range(100))) for part in range(10)))
        assert len(await collect(broker, 1000, batch=256)) == 1000


@PUBLISHING.that("a batch larger than what may be in flight is confirmed in full")
async def _large_batch(h: BrokerHarness) -> None:
    async with opened(h, "payment", "order.other") as broker:
        assert not any(await broker.publish([unread(event(number)) for number in range(6000)]))


@PUBLISHING.that("an event that nobody reads may be published")
async def _unread(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        assert list(await broker.publish([unread(event(b"x", "order.unread"))])) == [None]


@PUBLISHING.that("dead letters are confirmed, observations are taken without waiting")
async def _side_channels(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        kinds = (ChannelKind.DLQ, ChannelKind.OBSERVE)
        messages = [Outgoing(channel=Channel(kind), key="s", headers={"ce-type": "x.y"}, body=b"{}") for kind in kinds]
        assert list(await broker.publish(messages)) == [None, None]


@PUBLISHING.that("whoever watches the notices late sees the last one of each subject")
async def _late_watcher(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        for body in (b"1", b"2"):
            await broker.notify(Notice("define.abc", body))
            await broker.notify(Notice("announce.payment", body))
    async with opened(h, "stock") as late:
        assert await first_notices(late, "define.abc", "announce.payment") == {"define.abc": b"2", "announce.payment": b"2"}


@PUBLISHING.that("the kept notices come in the order in which each was given last: whoever hears his own has heard all before it")
async def _kept_in_order(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        for subject, body in (("asked", b"long ago"), ("told", b"1"), ("define.x", b"x"), ("told", b"2"), ("asked", b"now")):
            await broker.notify(Notice(subject, body))
        seen = list((await first_notices(broker, "asked", "told", "define.x")).items())
        assert [one for one in seen if one[0] != "define.x"] == [("told", b"2"), ("asked", b"now")]


@PUBLISHING.that("a new notice reaches every watcher, the one who sent it too")
async def _live(h: BrokerHarness) -> None:
    async with opened(h) as one, opened(h, "stock") as two:
        watching = [asyncio.ensure_future(first_notices(broker, "live")) for broker in (one, two)]
        await asyncio.wait(watching, timeout=0.3)
        await one.notify(Notice("live", b"now"))
        assert await asyncio.gather(*watching) == [{"live": b"now"}] * 2


@PUBLISHING.that("a notice's subject and body arrive as they were, whatever characters are in them")
async def _odd_subjects(h: BrokerHarness) -> None:
    subjects = ("a b", "x.*.>", "grün=ja", "..", "define.0a1b", "a/b\\c", "=2E")
    async with opened(h) as broker:
        for subject in subjects:
            await broker.notify(Notice(subject, subject.encode()))
        assert await first_notices(broker, *subjects) == {subject: subject.encode() for subject in subjects}


@PUBLISHING.that("services may have names with dots, spaces and capitals")
async def _odd_services(h: BrokerHarness) -> None:
    names = ("Pay.Ment", "pay ment", "pay=ment")
    for name in names:
        async with opened(h, name):
            pass
    async with opened(h, "stock") as publisher:
        await publish(publisher, *(control(name, name.encode()) for name in names))
    for name in names:
        async with opened(h, name) as broker:
            (delivery,) = await collect(broker, 1)
            assert (delivery.channel.name, delivery.body) == (name, name.encode())


@PUBLISHING.that("without leave to create, opening fails and creates nothing")
async def _check_only(h: BrokerHarness) -> None:
    for _ in range(2):
        broker = h.broker()
        try:
            await broker.open(topology("payment", "order.created", create=False))
        except ConfigurationError:
            pass
        else:
            raise AssertionError("opened although nothing is declared")
        finally:
            await broker.close()


@PUBLISHING.that("without leave to create, opening works where all is declared")
async def _check_passes(h: BrokerHarness) -> None:
    async with opened(h):
        pass
    broker = h.broker()
    await broker.open(topology(agent="a2", create=False))
    try:
        await publish(broker, event(b"1"))
        assert bodies(await collect(broker, 1)) == [b"1"]
    finally:
        await broker.close()


@PUBLISHING.that("who opens only to publish and watch takes nothing from the service and leaves nothing behind")
async def _publish_only(h: BrokerHarness) -> None:
    async with opened(h) as service:
        visitor = h.broker()
        await visitor.open(Topology(service="payment", agent="cli", events=(), receives=False))
        await publish(visitor, event(b"1"), control("payment", b"2"))
        await visitor.notify(Notice("seen", b"3"))
        assert await first_notices(visitor, "seen") == {"seen": b"3"}
        await nothing_comes(visitor, 0.3)
        await visitor.close()
        assert bodies(await collect(service, 2)) == [b"1", b"2"]


@PUBLISHING.that("closing twice, or without having been opened, is no error")
async def _close_twice(h: BrokerHarness) -> None:
    broker = h.broker()
    await broker.close()
    await broker.open(topology())
    assert list(await broker.publish([event(b"1")])) == [None]
    await broker.close()
    await broker.close()


@PUBLISHING.that("a broker that was closed can be opened again")
async def _reopen(h: BrokerHarness) -> None:
    broker = h.broker()
    for body in (b"1", b"2"):
        await broker.open(topology())
        await publish(broker, event(body))
        assert bodies(await collect(broker, 1)) == [body]
        await broker.close()


@PUBLISHING.that("a watcher that stops leaves nothing behind that hinders closing")
async def _stopped_watcher(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        watching = asyncio.ensure_future(first_notices(broker, "never"))
        await asyncio.wait((watching,), timeout=0.2)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await publish(broker, event(b"1"))
        assert bodies(await collect(broker, 1)) == [b"1"]
