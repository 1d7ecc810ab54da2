"""Broker behaviours: who gets what, how often, and what acknowledging and handing back mean."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import pairwise

from saga_choreo.ports import Channel, ChannelKind, Outgoing, Topology, Withdraws
from saga_choreo.testing.behaviours import (
    BrokerSuite,
    bodies,
    collect,
    control,
    event,
    nothing_comes,
    opened,
    publish,
    unread,
)
from saga_choreo.testing.broker_harness import BrokerHarness

__all__ = ["DELIVERY"]

DELIVERY = BrokerSuite()

# Long enough for an in-flight message to arrive on a loaded machine, short enough for a suite.
_QUIET_S = 0.5


@DELIVERY.that("an event arrives with its channel, headers and body untouched")
async def _untouched(h: BrokerHarness) -> None:
    body = bytes(range(256)) * 256
    headers = {"ce-id": "0190-ab", "ce-type": "order.created", "note": "Grüße, 注文 ✓", "traceparent": "00-1-2-01"}
    async with opened(h) as broker:
        await publish(broker, event(body, **headers))
        (delivery,) = await collect(broker, 1)
        assert delivery.body == body
        assert {name: delivery.headers.get(name) for name in headers} == headers
        assert delivery.channel == Channel(ChannelKind.EVENT, "order.created")
        assert (delivery.attempt, delivery.redelivered) == (1, False)


@DELIVERY.that("an empty body arrives as an empty body")
async def _empty(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b""))
        (delivery,) = await collect(broker, 1)
        assert delivery.body == b""


@DELIVERY.that("an event reaches every service that reads it, and no other")
async def _fan_out(h: BrokerHarness) -> None:
    async with opened(h, "payment") as one, opened(h, "stock") as two, opened(h, "mail", "order.closed") as other:
        await publish(one, event(b"x"))
        assert bodies(await collect(one, 1)) == bodies(await collect(two, 1)) == [b"x"]
        await nothing_comes(other, _QUIET_S)


@DELIVERY.that("a service that reads no event still gets its control messages")
async def _only_control(h: BrokerHarness) -> None:
    broker = h.broker()
    await broker.open(Topology(service="watcher", agent="a1", events=()))
    try:
        await publish(broker, unread(event(b"not mine")), control("watcher", b"mine"))
        assert bodies(await collect(broker, 1)) == [b"mine"]
        await nothing_comes(broker, _QUIET_S)
    finally:
        await broker.close()


@DELIVERY.that("a control message reaches its own service only")
async def _control(h: BrokerHarness) -> None:
    async with opened(h, "payment") as mine, opened(h, "stock") as other:
        await publish(other, control("payment", b"abort"))
        (delivery,) = await collect(mine, 1)
        assert delivery.channel == Channel(ChannelKind.CONTROL, "payment")
        await nothing_comes(other, _QUIET_S)


@DELIVERY.that("an outcome reaches every service once, however many agents it has")
async def _outcome(h: BrokerHarness) -> None:
    async with opened(h, "payment", agent="a1") as one, opened(h, agent="a2") as two, opened(h, "stock") as other:
        await publish(one, Outgoing(channel=Channel(ChannelKind.OUTCOME), key="s", headers={"a": "b"}, body=b"end"))
        (delivery,) = await collect(other, 1)
        assert delivery.channel == Channel(ChannelKind.OUTCOME)
        shares = {asyncio.ensure_future(broker.receive(10, 0.0)): broker for broker in (one, two)}
        done, waiting = await asyncio.wait(shares, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        (share,) = done
        await shares[share].ack(share.result())
        assert len(share.result()) == 1
        done, waiting = await asyncio.wait(waiting, timeout=_QUIET_S)
        assert not done
        for share in waiting:
            share.cancel()


@DELIVERY.that("agents of one service share its messages, each message going to one of them")
async def _sharing(h: BrokerHarness) -> None:
    async with opened(h, agent="a1") as one, opened(h, agent="a2") as two:
        wanted = {b"%d" % number for number in range(200)}
        seen: list[bytes] = []

        async def share(index: int) -> None:
            broker = (one, two)[index]
            while len(seen) < len(wanted):
                deliveries = await broker.receive(10, 0.01)
                seen.extend(delivery.body for delivery in deliveries)
                await broker.ack(deliveries)

        tasks = [asyncio.ensure_future(share(index)) for index in (0, 1)]
        await publish(one, *(event(body) for body in wanted))
        await asyncio.wait(tasks, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        assert sorted(seen) == sorted(wanted)


@DELIVERY.that("receive waits for a first message, then for no longer than it was told")
async def _bounded_wait(h: BrokerHarness) -> None:
    loop = asyncio.get_running_loop()
    async with opened(h) as broker:
        waiting = asyncio.ensure_future(broker.receive(100, 0.2))
        await asyncio.wait((waiting,), timeout=_QUIET_S)
        assert not waiting.done()
        await publish(broker, event(b"1"))
        started = loop.time()
        assert bodies(await asyncio.wait_for(waiting, 20)) == [b"1"]
        assert loop.time() - started < 2.0


@DELIVERY.that("receive returns at once when it has as many messages as were asked for, and never more")
async def _at_most(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, *(event(number) for number in range(25)))
        found: list[bytes] = []
        while len(found) < 25:
            deliveries = await asyncio.wait_for(broker.receive(10, 0.5), 20)
            assert 1 <= len(deliveries) <= 10
            found += [delivery.body for delivery in deliveries]
            await broker.ack(deliveries)
        assert len(set(found)) == 25


@DELIVERY.that("a cancelled receive loses nothing")
async def _cancelled(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        receiving = asyncio.ensure_future(broker.receive(100, 5.0))
        await publish(broker, *(event(number) for number in range(20)))
        await asyncio.wait((receiving,), timeout=0.1)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        assert len(await collect(broker, 20)) == 20


@DELIVERY.that("what is published while a service is away waits for it")
async def _away(h: BrokerHarness) -> None:
    async with opened(h, "stock", "stock.reserved") as publisher:
        async with opened(h, "payment"):
            pass
        await publish(publisher, *(event(number) for number in range(30)), control("payment", b"c"))
        async with opened(h, "payment") as broker:
            assert len(await collect(broker, 31)) == 31


@DELIVERY.that("a service that binds late gets all that is published from then on")
async def _late(h: BrokerHarness) -> None:
    async with opened(h, "stock") as early:
        await publish(early, event(b"before"))
        async with opened(h, "payment") as late:
            await publish(early, event(b"after"))
            found: set[bytes] = set()
            while b"after" not in found:
                found |= set(bodies(await collect(late, 1)))
            assert found <= {b"before", b"after"}


@DELIVERY.that("a service that opens again with other events reads those")
async def _rebind(h: BrokerHarness) -> None:
    async with opened(h, "payment", "order.created"):
        pass
    async with opened(h, "payment", "order.created", "order.changed") as broker:
        await publish(broker, event(b"old"), event(b"new", "order.changed"))
        assert bodies(await collect(broker, 2)) == [b"new", b"old"]


@DELIVERY.that("an acknowledged message does not come again, not even to the next agent")
async def _acked(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"1"), event(b"2"))
        await collect(broker, 2)
        await nothing_comes(broker, 1.5 * h.ack_wait_s + _QUIET_S)
    async with opened(h, agent="a2") as other:
        await nothing_comes(other, _QUIET_S)


@DELIVERY.that("messages may be acknowledged in any order, each for itself")
async def _any_order(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, *(event(number) for number in range(5)))
        deliveries = await collect(broker, 5, ack=False)
        await broker.ack([deliveries[3], deliveries[1]])
        if not h.features.expires_deliveries:
            await broker.release([deliveries[0], deliveries[2], deliveries[4]])
        again = await collect(broker, 3)
        expected = sorted(delivery.body for index, delivery in enumerate(deliveries) if index not in (1, 3))
        assert bodies(again) == expected


@DELIVERY.that("a message that is not acknowledged in time comes again and says so", "expires_deliveries")
async def _redelivered(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        await collect(broker, 1, ack=False)
        (again,) = await collect(broker, 1)
        assert (again.body, again.redelivered) == (b"1", True)


@DELIVERY.that("what an agent did not acknowledge before it closed comes again, to the next one")
async def _left_behind(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, *(event(number) for number in range(5)))
        deliveries = await collect(broker, 5, ack=False)
        await broker.ack(deliveries[:2])
    async with opened(h, agent="a2") as other:
        again = await collect(other, 3)
        assert {delivery.body for delivery in again} >= {delivery.body for delivery in deliveries[2:]}
        assert all(delivery.redelivered for delivery in again) or not h.features.counts_deliveries


@DELIVERY.that("deliveries are counted from one", "counts_deliveries")
async def _counted(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        for attempt in (1, 2, 3, 4):
            (delivery,) = await collect(broker, 1, ack=False)
            assert (delivery.attempt, delivery.redelivered) == (attempt, attempt > 1)
            await broker.release([delivery])


@DELIVERY.that("a message is delivered without end as long as nobody acknowledges it")
async def _no_limit(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        for _ in range(30):
            await broker.release(await collect(broker, 1, ack=False))
        assert len(await collect(broker, 1)) == 1


@DELIVERY.that("a released message comes again at once")
async def _released(h: BrokerHarness) -> None:
    loop = asyncio.get_running_loop()
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        first = await collect(broker, 1, ack=False)
        started = loop.time()
        await broker.release(first)
        (again,) = await collect(broker, 1)
        assert again.redelivered
        assert loop.time() - started < h.ack_wait_s


@DELIVERY.that("a message released with a delay does not come before it", "delays_release")
async def _delayed(h: BrokerHarness) -> None:
    loop = asyncio.get_running_loop()
    delay_s = 2 * h.ack_wait_s
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        first = await collect(broker, 1, ack=False)
        started = loop.time()
        await broker.release(first, delay_s)
        await collect(broker, 1)
        # The server's clock and ours are read at different moments.
        assert loop.time() - started > delay_s - 0.05


@DELIVERY.that("a delayed message does not hold up the others", "delays_release")
async def _no_blocking(h: BrokerHarness) -> None:
    async with opened(h) as broker:
        await publish(broker, event(b"1"))
        await broker.release(await collect(broker, 1, ack=False), 5.0)
        await publish(broker, event(b"2"))
        assert bodies(await collect(broker, 1)) == [b"2"]


@DELIVERY.that("closing hands back at once what was not acknowledged")
async def _handed_back(h: BrokerHarness) -> None:
    async with AsyncExitStack() as open_brokers:
        async with opened(h, agent="a1") as broker:
            await publish(broker, *(event(number) for number in range(40)))
            assert await asyncio.wait_for(broker.receive(5, 0.0), 20)
            other = await open_brokers.enter_async_context(opened(h, agent="a2"))
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert len(await collect(other, 40)) == 40
        assert loop.time() - started < 10


@DELIVERY.that("an agent that stalls leaves the backlog to the others", "balances_backlog")
async def _backpressure(h: BrokerHarness) -> None:
    async with opened(h, agent="stalled") as stalled, opened(h, agent="busy") as busy:
        await publish(stalled, *(event(number) for number in range(1500)))
        kept = await stalled.receive(10, 0.0)
        assert 1 <= len(kept) <= 10
        # What the stalled agent had asked for comes back only after ack_wait; all the rest must not wait for that.
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert len(await collect(busy, 900, batch=256)) >= 900
        assert loop.time() - started < 5.0
        assert len(await collect(busy, 100, batch=50)) >= 100


@DELIVERY.that("an agent that withdraws leaves at once what it has not begun", "withdraws")
async def _withdraws(h: BrokerHarness) -> None:
    async with opened(h, agent="going") as going, opened(h, agent="staying") as staying:
        assert isinstance(going, Withdraws)
        await publish(staying, *(event(number) for number in range(300)))
        begun = await going.receive(10, 0.0)
        sending = asyncio.create_task(publish(staying, *(event(number) for number in range(300, 600))))
        await asyncio.sleep(0)
        await going.withdraw()
        late = asyncio.create_task(going.receive(10, 0.0))
        await going.ack(begun)
        await sending
        left = await collect(staying, 600 - len(begun))
        assert {one.body for one in left}.isdisjoint({one.body for one in begun})
        await nothing_comes(staying, _QUIET_S)
        assert not late.done(), "who has withdrawn takes no more"
        late.cancel()


@DELIVERY.that("messages of many events and of control come through one receive")
async def _merged(h: BrokerHarness) -> None:
    names = [f"order.e{number}" for number in range(20)]
    async with opened(h, "payment", *names) as broker:
        await publish(broker, *(event(name.encode(), name) for name in names), control("payment", b"c"))
        deliveries = await collect(broker, 21)
        assert {delivery.channel.name for delivery in deliveries} == {*names, "payment"}
        assert all(earlier.body != later.body for earlier, later in pairwise(deliveries))
