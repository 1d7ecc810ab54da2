"""A broker that is not there yet, goes away and comes back, or brings messages that nobody can use. Real NATS and SQLite."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

import pytest

from saga_choreo import Agent, SagaState
from saga_choreo.codec.wire import encode
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.ids import saga_id_at
from saga_choreo.ports import Outgoing, Topology
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.plugins import make_broker, make_store
from saga_choreo.testing.harness import Cluster
from saga_choreo.testing.servers import NatsServer
from tests.scenarios.world import Go, World, chain, eventually, run


def test_an_agent_waits_for_a_broker_that_is_not_there_says_so_and_then_works(
    own_nats: NatsServer, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def says_so() -> bool:
        return "cannot be reached" in caplog.text and "trying again" in caplog.text

    async def scenario() -> None:
        world = World(chain(), f"{own_nats.url}?open_timeout=0.5", store)
        stop = asyncio.Event()

        async def is_open() -> bool:
            return all(agent._session is not None for agent in world.agents.values())

        async with asyncio.TaskGroup() as group:
            for agent in world.agents.values():
                group.create_task(agent.run(stop=stop))
            await eventually(says_so)
            own_nats.start()
            await eventually(is_open)
            handle = await world.agents["shop"].start_saga(Go())
            assert await handle.wait(20) is SagaState.COMPLETED
            stop.set()

    with caplog.at_level(logging.WARNING, logger="saga_choreo"):
        run(scenario())


def test_an_agent_that_waits_for_its_broker_stops_when_told_to(store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), "nats://127.0.0.1:1", store)
        stop = asyncio.Event()
        task = asyncio.create_task(world.agents["shop"].run(stop=stop))
        await asyncio.sleep(0.3)
        stop.set()
        await asyncio.wait_for(task, 2)

    run(scenario())


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_goes_away_in_the_middle_and_comes_back_loses_nothing(own_nats: NatsServer, store: str, how: str) -> None:
    async def scenario() -> None:
        own_nats.start()
        world = World(chain(), own_nats.url, store)

        async with world.cluster() as cluster:
            handles = [await cluster["shop"].start_saga(Go(), key=f"a-{number}") for number in range(15)]
            await eventually(lambda: _confirmed(world, 3))
            own_nats.stop() if how == "stop" else own_nats.kill()
            # Started while nobody can be reached: recorded, and published later.
            handles += [await cluster["shop"].start_saga(Go(), key=f"b-{number}") for number in range(5)]
            await asyncio.sleep(0.5)
            own_nats.start()
            for handle in handles:
                assert await handle.wait(30) is SagaState.COMPLETED
            effects = await world.effects(cluster)
            assert len(effects) == 3 * len(handles)
            assert len({(one.saga, one.step) for one in effects}) == len(effects)

    run(scenario(), 60)


async def _confirmed(world: World, times: int) -> bool:
    return world.tried.count(("confirm", "do")) >= times


async def publish_raw(world: World, messages: Sequence[Outgoing]) -> None:
    """As some other program would."""
    broker = make_broker(world.broker, prefix=world.prefix)
    await broker.open(Topology(service="stranger", agent="1", events=(), receives=False))
    try:
        assert await broker.publish(messages) == [None] * len(messages)
    finally:
        await broker.close()


def envelope(world: World, **changes: object) -> Envelope:
    fields: dict[str, object] = {
        "kind": MessageKind.DONE,
        "saga_id": saga_id_at(SystemClock().time_ns() // 1_000_000, b"0123456789"),
        "choreography": world.form.name,
        "definition": world.form.definition,
        "origin": "shop",
        "sender": "inventory",
        "channel": Channel(ChannelKind.EVENT, "stock.reserved"),
        "from_step": "reserve",
        "event": world.form.steps[[one.name for one in world.form.steps].index("reserve")].publishes[0],
        "payload": b"{}",
        "sent_ns": 1,
        **changes,
    }
    return Envelope(**fields)  # type: ignore[arg-type]


def letter(one: Envelope) -> Outgoing:
    headers, body = encode(one)
    return Outgoing(one.channel, str(one.saga_id), headers, body)


async def quarantined(cluster: Cluster, service: str, at_least: int = 1) -> list[str]:
    """The codes of what the service has put aside, once there are so many."""
    store = make_store(cluster.store_url(service))
    await store.open()
    try:

        async def look() -> list[str]:
            codes = [one.code for one in await store.quarantined(service)]
            return codes if len(codes) >= at_least else []

        codes = await eventually(look)
        assert (await store.counters(service))["quarantined"] == len(codes)
        return codes
    finally:
        await store.close()


def test_garbage_is_put_aside_counted_and_copied_once_and_the_agent_goes_on(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        event, control = Channel(ChannelKind.EVENT, "stock.reserved"), Channel(ChannelKind.CONTROL, "payment")
        garbage = [
            Outgoing(event, "k", {}, b"\x00\xff not json"),
            Outgoing(event, "k", {"ce-id": "1", "ce-specversion": "1.0"}, b"{}"),
            Outgoing(control, "k", {"content-type": "text/plain"}, b"hello"),
        ]
        async with world.cluster() as cluster:
            await publish_raw(world, garbage)
            assert len(await quarantined(cluster, "payment", 3)) == 3
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await dead_letters(world) == 3
            store_ = make_store(cluster.store_url("inventory"))
            await store_.open()
            assert not await store_.quarantined("inventory")
            await store_.close()

    run(scenario())


async def dead_letters(world: World) -> int:
    import nats

    client = await nats.connect(world.broker)
    try:
        found = await client.jetstream().stream_info(f"{world.prefix}_dlq")
        return int(found.state.messages)
    finally:
        await client.close()


def test_messages_that_can_never_be_applied_are_put_aside_with_the_reason(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        now_ms = SystemClock().time_ns() // 1_000_000
        day_ms = 86_400_000
        wrong = [
            envelope(world, saga_id=saga_id_at(now_ms + day_ms, b"future0000")),
            envelope(world, saga_id=saga_id_at(now_ms - 30 * day_ms, b"stale00000")),
            envelope(world, from_step="charge"),
        ]
        async with world.cluster() as cluster:
            await publish_raw(world, [letter(one) for one in wrong])
            codes = await quarantined(cluster, "payment", 3)
            assert sorted(codes) == ["from_the_future", "inapplicable", "stale"]
            assert not await cluster["payment"].sagas()

    run(scenario())


def test_a_message_that_disagrees_about_its_saga_changes_nothing(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(charge={"external": True}), nats_url, store)
        gate = asyncio.Event()

        async def wait(ctx: object) -> None:
            await gate.wait()

        world.on[("charge", "do")] = wait
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: _is_running(world))
            abort = envelope(
                world,
                kind=MessageKind.ABORT,
                saga_id=handle.saga_id,
                origin="mallory",
                sender="shop",
                channel=Channel(ChannelKind.CONTROL, "payment"),
                from_step="confirm",
                event=None,
                payload=b"",
            )
            await publish_raw(world, [letter(abort)])
            assert await quarantined(cluster, "payment") == ["inapplicable"]
            gate.set()
            assert await handle.wait(10) is SagaState.COMPLETED

    run(scenario())


async def _is_running(world: World) -> bool:
    return ("charge", "do") in world.tried


async def _waits_for_a_handler(agent: Agent) -> bool:
    return any("no handler" in step.error for view in await agent.sagas() for step in view.steps)


def test_a_step_of_a_definition_without_a_handler_waits_until_an_agent_with_it_starts(nats_url: str, store: str) -> None:
    """A rolling deploy: the old release of payment is still there when the first saga of the new definition arrives."""

    async def scenario() -> None:
        new, old = chain(), chain()
        world = World(new, nats_url, store)
        before = World(old, nats_url, store, prefix=world.prefix)
        cluster = world.cluster()
        await cluster.start()
        await cluster.ready()
        await cluster.stop("payment")
        async with before.agents["payment"].serving():
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: _waits_for_a_handler(before.agents["payment"]))
        await cluster.start("payment")
        assert await handle.wait(10) is SagaState.COMPLETED
        assert await world.did(cluster, handle) == ["reserve", "charge", "confirm"]
        await cluster.stop()

    run(scenario())


def test_a_sagas_messages_delivered_twice_have_one_effect(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            again = envelope(world, saga_id=UUID(str(handle.saga_id)))
            await publish_raw(world, [letter(again)] * 20)
            second = await cluster["shop"].start_saga(Go())
            assert await second.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "charge", "confirm"]

    run(scenario())
