"""What only the RabbitMQ adapter has: its queues, its net beneath our dead letters, its stream. Always against the real server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import aio_pika
import pytest

from saga_choreo.errors import BrokerUnavailable, ConfigurationError, PublishRefused
from saga_choreo.ports import Channel, ChannelKind, Notice, Topology
from saga_choreo.testing.behaviours import bodies, collect, event, publish, topology
from saga_choreo.testing.broker_publishing import first_notices
from saga_choreo_rabbitmq import frames
from saga_choreo_rabbitmq.broker import RabbitMqBroker
from tests.conformance.rabbitmq_tools import Place, channel_of, disconnect, put_aside


async def until(holds: Callable[[], bool], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  (a poll with a deadline)
            await asyncio.sleep(0.02)


def test_a_queue_that_would_lose_messages_is_refused(place: Place) -> None:
    async def scenario() -> None:
        async with channel_of(place.server) as channel:
            await channel.declare_queue(place.queue, durable=True)
        with pytest.raises(ConfigurationError, match=r"service\.payment' exists with settings that would lose messages"):
            await place.broker().open(topology())

    asyncio.run(scenario())


def test_an_exchange_of_another_kind_is_refused(place: Place) -> None:
    async def scenario() -> None:
        async with channel_of(place.server) as channel:
            await channel.declare_exchange(place.prefix, aio_pika.ExchangeType.FANOUT)
        with pytest.raises(ConfigurationError, match="is not a durable topic exchange"):
            await place.broker().open(topology())

    asyncio.run(scenario())


def test_a_queue_with_other_numbers_is_taken_as_it_is_and_that_is_said(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        for options in ("&horizon=1000&delivery_limit=50&queue_max_bytes=1000000", ""):
            broker = place.broker(options)
            await broker.open(topology())
            await publish(broker, event(b"1"))
            assert bodies(await collect(broker, 1)) == [b"1"]
            await broker.close()

    asyncio.run(scenario())
    said = {record.getMessage() for record in caplog.records}
    for text in ("has x-message-ttl 1000000 instead of 604800000", "has x-delivery-limit 50 instead of 100"):
        assert any(text in message for message in said), said


def test_checking_without_creating_reports_everything_that_is_missing(place: Place) -> None:
    async def scenario() -> None:
        for broker, wanted in ((place.broker(), topology(create=False)), (place.broker("&declare=false"), topology())):
            with pytest.raises(ConfigurationError) as nothing_there:
                await broker.open(wanted)
            assert f"exchange '{place.prefix}' is missing" in str(nothing_there.value)
            for name in ("service.payment", "defs", "dlq", "undeliverable"):
                assert f"queue '{place.prefix}.{name}' is missing" in str(nothing_there.value)

    asyncio.run(scenario())


def test_a_delayed_message_keeps_its_channel_headers_and_count(place: Place) -> None:
    async def scenario() -> None:
        broker = place.broker()
        await broker.open(topology())
        await publish(broker, event(b"1", saga="a", note="grün"))
        for attempt in (1, 2, 3):
            (delivery,) = await collect(broker, 1, ack=False)
            assert (delivery.attempt, delivery.redelivered) == (attempt, attempt > 1)
            assert delivery.channel == Channel(ChannelKind.EVENT, "order.created")
            assert delivery.headers == {"saga": "a", "note": "grün"}
            await broker.release([delivery], 0.1 if attempt == 2 else 0.0)
        await broker.close()

    asyncio.run(scenario())


def test_what_is_handed_back_again_and_again_never_reaches_the_servers_limit(place: Place) -> None:
    async def scenario() -> None:
        broker = place.broker("&delivery_limit=20")
        await broker.open(topology())
        await publish(broker, event(b"1"))
        for attempt in range(1, 60):
            (delivery,) = await collect(broker, 1, ack=False)
            assert delivery.attempt == attempt
            await broker.release([delivery])
        assert bodies(await collect(broker, 1)) == [b"1"]
        assert await put_aside(place.server, place.prefix) == []
        await broker.close()

    asyncio.run(scenario())


def test_what_kills_agent_after_agent_is_put_aside_and_told_and_can_be_moved_back(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        watcher = place.broker("&delivery_limit=3&watch_every=0.3")
        await watcher.open(Topology(service="watcher", agent="w", events=()))
        for _ in range(4):
            broker = place.broker("&delivery_limit=3")
            await broker.open(topology())
            await publish(broker, *([event(b"poison")] if _ == 0 else []))
            await collect(broker, 1, ack=False)
            wire = broker._consuming.wire
            assert wire is not None
            wire.abort()  # as the death of its process does
            await broker.close()
        await until(lambda: "has put 1 messages aside" in caplog.text)
        assert await put_aside(place.server, place.prefix) == [b"poison"]
        async with channel_of(place.server) as channel:
            queue = await channel.get_queue(f"{place.prefix}.undeliverable", ensure=False)
            message = await queue.get()
            back = aio_pika.Message(message.body, headers=message.headers)
            await channel.default_exchange.publish(back, routing_key=place.queue)
            await message.ack()
        broker = place.broker("&delivery_limit=3")
        await broker.open(topology())
        (delivery,) = await collect(broker, 1)
        assert (delivery.body, delivery.channel) == (b"poison", Channel(ChannelKind.EVENT, "order.created"))
        await broker.close()
        await watcher.close()

    asyncio.run(scenario())


def test_an_agent_that_asks_for_nothing_gives_back_what_it_has_not_handed_out(place: Place) -> None:
    async def scenario() -> None:
        idle, busy = place.broker("&ack_wait=1"), place.broker("&ack_wait=1")
        await idle.open(topology(agent="idle"))
        await publish(idle, *(event(number) for number in range(50)))
        await busy.open(topology(agent="busy"))
        assert len(await collect(busy, 50)) == 50
        await publish(busy, event(b"more"))
        first = {asyncio.ensure_future(each.receive(1, 0.0)) for each in (idle, busy)}
        done, waiting = await asyncio.wait(first, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert [delivery.body for task in done for delivery in task.result()] == [b"more"]
        for task in waiting:
            task.cancel()
        await idle.close()
        await busy.close()

    asyncio.run(scenario())


def test_a_message_whose_properties_are_no_text_costs_neither_connection_nor_queue(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        broker = place.broker()
        await broker.open(topology())
        channel = broker._publisher._aside
        assert channel is not None
        headers = {"content-type": "@@@@", "x": "y"}
        raw = frames.publish(channel.number, place.prefix, "event.order.created", headers, b"odd", frame_max=100_000)
        channel.wire.write(raw.replace(b"@@@@", b"\xff\xfe\xff\xfe"))
        deliveries = await collect(broker, 1)
        assert [(delivery.body, dict(delivery.headers)) for delivery in deliveries] == [(b"odd", {})]
        await publish(broker, event(b"next"))
        assert bodies(await collect(broker, 1)) == [b"next"]
        await broker.close()

    asyncio.run(scenario())
    assert "lost" not in caplog.text


def test_a_message_that_is_too_large_for_the_server_is_refused_and_the_others_get_through(place: Place) -> None:
    async def scenario() -> None:
        place.server.ctl("eval", "application:set_env(rabbit, max_message_size, 100000).")
        broker = place.broker()
        try:
            await broker.open(topology())
            large = event(b"x" * 200_000)
            async with asyncio.timeout(20):
                answer = None
                while not isinstance(answer, PublishRefused):
                    _, answer = await broker.publish([event(b"small"), large])
                    await asyncio.sleep(0.1)
            assert "the limit is 100000" in str(answer)
            await publish(broker, event(b"small"))
            assert bodies(await collect(broker, 1)) == [b"small"]
        finally:
            place.server.ctl("eval", "application:set_env(rabbit, max_message_size, 134217728).")
            await broker.close()

    asyncio.run(scenario())


def test_headers_that_amqp_cannot_carry_are_refused_and_the_rest_goes_on(place: Place) -> None:
    async def scenario() -> None:
        broker = place.broker()
        await broker.open(topology())
        bad = [event(b"bad", **{"n" * 300: "x"}), event(b"bad", lone="\ud800"), event(b"bad", long="x" * 140_000)]
        answers = await broker.publish([*bad, event(b"good")])
        assert [type(answer) for answer in answers] == [PublishRefused] * 3 + [type(None)]
        assert bodies(await collect(broker, 1)) == [b"good"]
        await broker.close()

    asyncio.run(scenario())


def test_a_binding_that_somebody_removed_comes_back_by_itself(place: Place) -> None:
    async def scenario() -> None:
        broker = place.broker("&watch_every=0.3")
        await broker.open(topology())
        async with channel_of(place.server) as channel:
            queue = await channel.get_queue(place.queue, ensure=False)
            await queue.unbind(place.prefix, "event.order.created")
        await publish(broker, event(b"1"))
        assert bodies(await collect(broker, 1)) == [b"1"]
        await broker.close()

    asyncio.run(scenario())


def test_releases_that_overlap_bind_what_either_needs(place: Place) -> None:
    async def scenario() -> None:
        old, new = place.broker(), place.broker()
        await old.open(topology("payment", "order.created", agent="old"))
        await new.open(topology("payment", "order.changed", agent="new"))
        await publish(new, event(b"1"), event(b"2", "order.changed"))
        await new.close()
        assert bodies(await collect(old, 2)) == [b"1", b"2"]
        await old.close()

    asyncio.run(scenario())


def test_notices_outlive_the_stream_as_long_as_somebody_watches(place: Place) -> None:
    async def scenario() -> None:
        broker, late = place.broker(), place.broker()
        await broker.open(topology())
        for body in (b"1", b"2"):
            await broker.notify(Notice("define.a", body))
        seen: list[Notice] = []

        async def watch() -> None:
            async for notice in broker.notices():
                seen.append(notice)  # noqa: PERF401  (looked at meanwhile)

        watching = asyncio.create_task(watch())
        await until(lambda: bool(seen))
        async with channel_of(place.server) as channel:
            await channel.queue_delete(f"{place.prefix}.defs")
        await until(lambda: len(seen) > 1)  # read again from the new stream
        await late.open(topology("stock"))
        assert await first_notices(late, "define.a") == {"define.a": b"2"}
        watching.cancel()
        await broker.close()
        await late.close()

    asyncio.run(scenario())


def test_a_queue_is_durable_once_its_agent_is_open(place: Place) -> None:
    """Killed right away: the grace that tests otherwise give a server is the adapter's own here."""

    async def scenario() -> None:
        broker = RabbitMqBroker(f"amqp://127.0.0.1:{place.server.port}", prefix=place.prefix)
        await broker.open(topology())
        assert place.server.pid is not None
        os.kill(place.server.pid, signal.SIGKILL)
        place.server.kill()
        place.server.start()
        await publish(broker, event(b"1"))
        assert bodies(await collect(broker, 1)) == [b"1"]
        await broker.close()

    asyncio.run(scenario())


def test_a_paused_server_is_noticed_and_everything_goes_on_after_it(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        broker = place.broker("&heartbeat=1")
        await broker.open(topology())
        place.server.pause()
        try:
            await until(lambda: caplog.text.count("nothing was heard for 2 s") == 2)
            (answer,) = await broker.publish([event(b"1")])
            assert isinstance(answer, BrokerUnavailable)
        finally:
            place.server.resume()
        await publish(broker, event(b"2"))
        assert bodies(await collect(broker, 1)) == [b"2"]
        await broker.close()

    asyncio.run(scenario())


def test_who_has_withdrawn_takes_nothing_over_the_next_connection_either(place: Place) -> None:
    async def scenario() -> None:
        going = place.broker("&ack_wait=60")
        await going.open(topology(agent="going"))
        await going.withdraw()
        lost = going.connection.losses
        await disconnect(place.server)
        await until(lambda: going.connection.losses > lost and going.connection.is_up)
        staying = place.broker()
        await staying.open(topology(agent="staying"))
        await publish(staying, *(event(b"%d" % number) for number in range(40)))
        assert len(await collect(staying, 40)) == 40
        await staying.close()
        await going.close()

    asyncio.run(scenario())
