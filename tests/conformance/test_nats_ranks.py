"""Agents of one service that are served one before the other, on the real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import ServerVersion
from nats.js.api import AckPolicy, ConsumerConfig

from saga_choreo.ports import Channel, ChannelKind, Delivery, Outgoing
from saga_choreo.testing.behaviours import bodies, collect, event, publish, topology
from saga_choreo.testing.servers import NatsServer
from saga_choreo_nats.broker import NatsBroker
from saga_choreo_nats.topology import knows_ranks

OUTCOME = Channel(ChannelKind.OUTCOME)
PULLS = "$JS.API.CONSUMER.MSG.NEXT.saga_events.>"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as running:
        yield running


@asynccontextmanager
async def agent(server: NatsServer, name: str, service: str, options: str = "") -> AsyncIterator[NatsBroker]:
    broker = NatsBroker(f"{server.url}{options}")
    await broker.open(topology(service, f"{service}.due", agent=name))
    try:
        yield broker
    finally:
        await broker.close()


def numbered(service: str, first: int, count: int) -> list[Outgoing]:
    return [event(number, f"{service}.due") for number in range(first, first + count)]


async def asking(broker: NatsBroker) -> asyncio.Task[Any]:
    """One who waits for messages, and has told the server so."""
    waiting = asyncio.create_task(broker.receive(200, 0.2))
    await asyncio.sleep(0.2)
    return waiting


async def received(waiting: asyncio.Task[Any]) -> list[Delivery]:
    async with asyncio.timeout(10):
        return list(await waiting)


def test_what_waits_goes_to_the_agent_of_the_lowest_rank_and_what_it_does_not_take_to_the_next(server: NatsServer) -> None:
    async def scenario() -> None:
        async with agent(server, "second", "ranked") as second, agent(server, "first", "ranked") as first:
            assert second.prefer(1, 60)
            assert first.prefer(0, 20)
            second_waits, first_waits = await asking(second), await asking(first)
            await publish(first, *numbered("ranked", 0, 15))
            taken = await received(first_waits)
            assert len(taken) == 15
            assert not second_waits.done()

            first_waits = await asking(first)
            await publish(first, *numbered("ranked", 15, 30))
            assert len(await received(first_waits)) == 5, "with these it holds 20"
            assert len(await received(second_waits)) == 25

            await first.ack(taken)
            first_waits, second_waits = await asking(first), await asking(second)
            await publish(first, *numbered("ranked", 45, 15))
            assert len(await received(first_waits)) == 15
            second_waits.cancel()

    asyncio.run(scenario())


def test_an_agent_of_a_lower_rank_that_is_gone_or_stalls_leaves_all_there_is_to_the_next(server: NatsServer) -> None:
    async def scenario() -> None:
        async with agent(server, "second", "left") as second:
            second.prefer(1)
            async with agent(server, "first", "left") as first:
                first.prefer(0, 40)
                stalled = await asking(first)
                await publish(second, *numbered("left", 0, 400))
                loop = asyncio.get_running_loop()
                began = loop.time()
                assert len(await collect(second, 300, batch=100)) >= 300
                assert loop.time() - began < 3
                await received(stalled)
            assert len(await collect(second, 40)) >= 40, "it hands back what it has"
            await publish(second, *numbered("left", 400, 50))
            assert len(await collect(second, 50)) == 50

    asyncio.run(scenario())


def test_what_an_agent_of_the_lowest_rank_does_not_work_on_goes_to_another_when_it_comes_again(server: NatsServer) -> None:
    async def scenario() -> float:
        async with agent(server, "second", "hung", "?ack_wait=2") as second, agent(server, "first", "hung", "?ack_wait=2") as first:
            first.prefer(0, 100)
            second.prefer(1)
            (await asking(first)).cancel()  # it hangs, and what it has asked for stays on the server
            second_waits = asyncio.create_task(second.receive(10, 0.0))
            await publish(second, *numbered("hung", 0, 1))
            began = asyncio.get_running_loop().time()
            async with asyncio.timeout(60):
                await second_waits
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(scenario()) < 8


def test_nothing_that_is_left_by_an_agent_that_withdraws_has_to_wait_for_its_time_to_acknowledge(server: NatsServer) -> None:
    async def scenario() -> None:
        async with (
            agent(server, "going", "left", "?ack_wait=60") as going,
            agent(server, "staying", "left", "?ack_wait=60") as staying,
        ):
            going.prefer(0)
            staying.prefer(1)
            await publish(going, *numbered("left", 0, 40))
            begun = await going.receive(10, 0.2)
            sending = asyncio.create_task(publish(staying, *numbered("left", 40, 400)))
            await asyncio.sleep(0)
            await going.withdraw()
            late = asyncio.create_task(going.receive(10, 0.0))
            await sending
            found = await collect(staying, 430)
            assert {one.body for one in found} == {b"%d" % number for number in range(440)} - {one.body for one in begun}
            await going.ack(begun)
            assert not late.done()
            late.cancel()

    asyncio.run(scenario())


def test_outcomes_that_are_kept_for_a_while_take_no_room_from_what_is_due(server: NatsServer) -> None:
    async def scenario() -> None:
        async with agent(server, "first", "apart", "?ack_wait=60") as first:
            first.prefer(0, 10)
            outcomes = [Outgoing(channel=OUTCOME, key="", headers={}, body=b"end %d" % number) for number in range(30)]
            kept: list[Delivery] = []
            await publish(first, *outcomes)
            async with asyncio.timeout(10):
                while len(kept) < 30:
                    kept += await first.receive(100, 0.1)
            await publish(first, *numbered("apart", 0, 10))
            assert len(await collect(first, 10, ack=False)) == 10

    asyncio.run(scenario())


def test_what_is_settled_makes_room_at_once(server: NatsServer) -> None:
    async def scenario() -> float:
        async with agent(server, "one", "narrow", "?prefetch=4") as one:
            await publish(one, *numbered("narrow", 0, 40))
            loop = asyncio.get_running_loop()
            began = loop.time()
            held = await one.receive(4, 0.2)
            while len(held) < 40:
                waiting = asyncio.create_task(one.receive(4, 0.0))  # beside the batch that is worked on
                await asyncio.sleep(0.01)
                await one.ack(held[-4:])
                held = [*held, *await received(waiting)]
            assert bodies(held) == bodies([Delivery(OUTCOME, {}, b"%d" % number) for number in range(40)])
            return loop.time() - began

    assert asyncio.run(scenario()) < 2.0


async def _durable(client: Any, service: str, **config: object) -> dict[str, Any]:
    """As the server has it, after these settings of it were changed; nats-py drops what it does not know."""
    found = json.loads((await client.request(f"$JS.API.CONSUMER.INFO.saga_events.{service}", b"")).data)["config"]
    if config:
        body = json.dumps({"stream_name": "saga_events", "config": {**found, **config}}).encode()
        answer = json.loads((await client.request(f"$JS.API.CONSUMER.CREATE.saga_events.{service}", body)).data)
        assert "error" not in answer, answer
    return dict(found)


def test_a_durable_from_before_there_were_ranks_gets_them(server: NatsServer) -> None:
    async def scenario() -> None:
        client = await nats.connect(server.url)
        async with agent(server, "one", "older") as broker:
            await publish(broker, *numbered("older", 0, 3))
        async with agent(server, "one", "older"):
            await client.jetstream().delete_consumer("saga_events", "older")
            plain = ConsumerConfig(durable_name="older", ack_policy=AckPolicy.EXPLICIT, filter_subjects=["saga.event.older.due"])
            await client.jetstream().add_consumer("saga_events", plain)
            assert "priority_policy" not in await _durable(client, "older")
        async with agent(server, "one", "older") as broker:
            assert (await _durable(client, "older"))["priority_policy"] == "prioritized"
            assert broker.prefer(0)
            assert bodies(await collect(broker, 3)) == [b"0", b"1", b"2"]
        await client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("version", "knows"), [("2.12.0", True), ("3.0.1-RC.1", True), ("2.11.11", False), ("homemade", False)])
def test_ranks_are_known_to_servers_from_2_12_on(version: str, knows: bool) -> None:
    class Client:
        connected_server_version = ServerVersion(version)

    assert knows_ranks(Client()) is knows


def test_a_request_that_is_refused_is_not_made_again_at_once(server: NatsServer) -> None:
    async def scenario() -> None:
        client = await nats.connect(server.url)
        async with agent(server, "one", "mended"):
            pass
        broker, pulls = NatsBroker(server.url), 0
        await broker.open(topology("mended", "mended.due", create=False))  # so it does not mend it by itself

        async def count(_pull: Any) -> None:
            nonlocal pulls
            pulls += 1

        await client.subscribe(PULLS, cb=count)
        await _durable(client, "mended", priority_groups=["other"])
        await publish(broker, *numbered("mended", 0, 200))
        waiting = await asking(broker)
        await asyncio.sleep(1)
        assert 1 <= pulls < 5
        await _durable(client, "mended", priority_groups=["agents"])
        found = [*await received(waiting), *await collect(broker, 200, ack=False)]
        assert {one.body for one in found} == {b"%d" % number for number in range(200)}
        await broker.close()
        await client.close()

    asyncio.run(scenario())


def test_an_agent_mends_a_durable_that_somebody_gave_another_group(server: NatsServer) -> None:
    async def scenario() -> None:
        client = await nats.connect(server.url)
        async with agent(server, "one", "mended") as broker:
            await _durable(client, "mended", priority_groups=["other"])
            await publish(broker, *numbered("mended", 0, 200))
            assert len(await collect(broker, 200)) == 200
            assert (await _durable(client, "mended"))["priority_groups"] == ["agents"]
        await client.close()

    asyncio.run(scenario())
