"""Starting sagas: keys, the caller's own transaction, who must be there first, and definitions that disagree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import apsw
import pytest

from saga_choreo import (
    Agent,
    Choreography,
    ConfigurationError,
    DefinitionError,
    KeyConflict,
    NotReady,
    SagaNotFound,
    SagaState,
    StepContext,
    WaitTimeout,
)
from saga_choreo.errors import DefinitionMismatch, StoreVersionError
from saga_choreo.memory.clock import SystemClock
from saga_choreo.ports import Outgoing
from tests.scenarios.world import QUICK, Go, World, chain, eventually, run, step


def test_the_same_key_with_another_payload_is_a_conflict_and_with_the_same_one_the_same_saga(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            shop = cluster["shop"]
            first = await shop.start_saga(Go(note="one"), key="order-1")
            again = await shop.start_saga(Go(note="one"), key="order-1")
            assert (again.saga_id, again.is_new) == (first.saga_id, False)
            with pytest.raises(KeyConflict, match="'order-1'"):
                await shop.start_saga(Go(note="two"), key="order-1")
            assert await first.wait(10) is SagaState.COMPLETED
            assert await again.wait(10) is SagaState.COMPLETED
            assert len(await world.effects(cluster)) == 3
            with pytest.raises(SagaNotFound, match="'order-2'"):
                await shop.saga("order-2").state()

    run(scenario())


class _LaterClock(SystemClock):
    def time_ns(self) -> int:
        return super().time_ns() + 90_000 * 1_000_000_000


def test_a_key_names_the_same_saga_a_day_later(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            first = await cluster["shop"].start_saga(Go(), key="order-1")
            assert await first.wait(10) is SagaState.COMPLETED
            later = Agent(
                "shop",
                saga=world.form,
                broker=world.broker,
                store=cluster.store_url("shop"),
                prefix=world.prefix,
                clock=_LaterClock(),
            )
            later.step("confirm")(_confirm).compensation(_nothing)
            async with later.client() as client:
                again = await client.start_saga(Go(), key="order-1")
                assert again.saga_id == first.saga_id

    run(scenario())


async def _confirm(ctx: StepContext) -> Any:
    return None


async def _nothing(ctx: StepContext) -> Any:
    return None


def begun(cluster: Any) -> apsw.Connection:
    connection = apsw.Connection(cluster.store_url("shop").removeprefix("sqlite:///"))
    connection.pragma("synchronous", 2)
    connection.set_busy_timeout(2000)
    connection.execute("begin immediate")
    return connection


def test_a_start_in_the_callers_transaction_is_there_if_and_only_if_the_caller_commits(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            shop = cluster["shop"]
            connection = begun(cluster)
            handle = await shop.start_saga(Go(), key="tx-1", tx=connection)
            with pytest.raises(SagaNotFound):
                await handle.published()
            connection.execute("rollback")
            with pytest.raises(SagaNotFound):
                await handle.published()
            connection.execute("begin immediate")
            handle = await shop.start_saga(Go(), key="tx-1", tx=connection)
            assert handle.is_new
            connection.execute("commit")
            await handle.published()
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "charge", "confirm"]
            connection.execute("begin immediate")
            again = await shop.start_saga(Go(), key="tx-1", tx=connection)
            assert (again.saga_id, again.is_new) == (handle.saga_id, False)
            with pytest.raises(KeyConflict):
                await shop.start_saga(Go(note="other"), key="tx-1", tx=connection)
            connection.execute("rollback")
            connection.close()

    run(scenario())


def test_a_start_that_nobody_publishes_is_found_by_the_scan_within_a_second_and_a_half(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            connection = begun(cluster)
            handle = await cluster["shop"].start_saga(Go(), tx=connection)
            connection.execute("commit")
            committed = time.monotonic()
            connection.close()
            await eventually(lambda: _tried(world, "reserve"))
            assert time.monotonic() - committed < 1.5
            assert await handle.wait(10) is SagaState.COMPLETED

    run(scenario())


async def _tried(world: World, name: str) -> bool:
    return (name, "do") in world.tried


def test_a_client_publishes_its_start_once_and_forgets_it(nats_url: str, store: str) -> None:
    """A web process that starts sagas for days: it must not keep a note of each, nor have the agent publish each again."""

    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster(), world.agent("shop").client() as client:
            session = client._session
            assert session is not None
            for _ in range(5):
                await client.start_saga(Go())
            await eventually(lambda: _empty(session.relay.announced), 3)
            records = [r for group in await client.sagas() for r in await session.store.records(group.saga_id, "shop")]
            origins = [record for record in records if record.step == -1 and record.version == 1]
            assert all(record.announced == record.version for record in origins)

    run(scenario())


async def _empty(noted: Any) -> bool:
    return not noted


def test_a_saga_is_not_started_before_every_owner_is_there_and_the_missing_one_is_named(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, limits=_impatient())
        cluster = world.cluster()
        await cluster.start("shop", "inventory")
        try:
            with pytest.raises(NotReady, match="no agent of 'payment' has announced"):
                await cluster["shop"].start_saga(Go())
            await cluster.start("payment")
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
        finally:
            await cluster.stop()

    run(scenario())


def _impatient() -> Any:
    from dataclasses import replace

    return replace(QUICK, ready_timeout_s=0.5)


def test_agents_that_hold_different_definitions_refuse_the_start_and_name_the_step(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        mine = Choreography("differing").starts_with(Go).step(step("a", "shop", Go, "a.done"), step("b", "payment", "a.done"))
        theirs = (
            Choreography("differing")
            .starts_with(Go)
            .step(step("a", "shop", Go, "a.done"), step("b", "payment", "a.done", optional=True))
        )
        world = World(mine, nats_url, store, limits=_impatient())
        other = World(theirs, nats_url, store, prefix=world.prefix)
        async with world.agents["shop"].serving() as shop, other.agents["payment"].serving():
            with pytest.raises(DefinitionMismatch, match=r"service 'payment' holds .*steps that differ: b; deploy the same"):
                await shop.start_saga(Go())

    run(scenario())


def test_all_faults_of_a_definition_are_told_at_once_before_anything_is_connected(store: str) -> None:
    form = (
        Choreography("faulty")
        .starts_with(Go)
        .step(
            step("a", "shop", Go, "a.done", undo=False),
            step("b", "shop", "a.done"),
            step("c", "payment", "nobody.publishes"),
        )
    )
    agent = Agent("shop", saga=form, broker="nats://127.0.0.1:1", store=store)

    async def scenario() -> None:
        with pytest.raises(DefinitionError) as caught:
            await agent.run()
        text = str(caught.value)
        assert len(caught.value.findings) >= 4
        for fault in ("nobody.publishes", "step 'a' cannot be undone", "'a' of choreography 'faulty' is ours and has no handler"):
            assert fault in text

    run(scenario())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"broker": "nast://localhost"}, ConfigurationError, "did you mean 'nats'"),
        ({"broker": "localhost:4222"}, ConfigurationError, "begin it with"),
        ({"store": "mysql://u:secret@h/db"}, ConfigurationError, "'mysql' is not known"),
        ({"store": ""}, ConfigurationError, "SAGA_STORE_URL"),
        ({"broker": ""}, ConfigurationError, "SAGA_BROKER_URL"),
    ],
)
def test_a_wrong_address_is_refused_at_once_and_says_what_to_write(
    store: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], error: type[Exception], words: str
) -> None:
    monkeypatch.delenv("SAGA_BROKER_URL", raising=False)
    monkeypatch.delenv("SAGA_STORE_URL", raising=False)
    world = World(chain(), "nats://127.0.0.1:1", store)
    agent = Agent("reporting", saga=world.form, **{"broker": "nats://127.0.0.1:1", "store": "sqlite:///x.db", **change})

    async def scenario() -> None:
        with pytest.raises(error, match=words) as caught:
            await agent.run()
        assert "secret" not in str(caught.value)

    run(scenario())


def test_a_store_file_of_a_newer_version_is_refused(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster():
            pass
        connection = apsw.Connection(str(world.file("shop")))
        connection.execute("update saga_meta set value = '99' where name in ('schema_version', 'oldest_version')")
        connection.close()
        with pytest.raises(StoreVersionError, match=r"version 99.*upgrade saga_choreo here"):
            await world.agents["shop"].run()

    run(scenario())


def test_an_error_inside_the_blocks_of_an_agent_reaches_the_caller_as_it_is(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        for block in (world.agents["shop"].serving, world.agent("shop").client):
            with pytest.raises(LookupError, match="mine"):
                async with block():
                    raise LookupError("mine")

    run(scenario())


def test_an_agent_that_is_not_open_says_so_and_one_that_is_cannot_be_opened_twice(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        shop = World(chain(), nats_url, store).agents["shop"]
        with pytest.raises(ConfigurationError, match="is not open"):
            await shop.start_saga(Go())
        async with shop.serving():
            with pytest.raises(ConfigurationError, match="is open already"):
                await shop.run()
            with pytest.raises(ConfigurationError, match="configure it before"):
                shop.configure(store="sqlite:///other.db")

    run(scenario())


def test_waiting_for_an_end_gives_up_when_asked_to(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, on={("charge", "do"): _never})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), key="k")
            with pytest.raises(WaitTimeout, match=r"has not ended within 0\.3 s"):
                await handle.wait(0.3)
            assert repr(handle) == f"SagaHandle(saga_id='{handle.saga_id}', key='k')"
            with pytest.raises(SagaNotFound, match="not been looked up yet"):
                assert cluster["shop"].saga("k").saga_id

    run(scenario())


async def _never(ctx: StepContext) -> None:
    raise RuntimeError("never")


def test_sagas_are_listed_by_state_newest_first(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            shop = cluster["shop"]
            done = [await shop.start_saga(Go(), key=f"d-{number}") for number in range(3)]
            for handle in done:
                await handle.wait(10)
            world.on[("charge", "do")] = _never
            stuck = await shop.start_saga(Go())
            listed = await shop.sagas(limit=2)
            assert [one.saga_id for one in listed] == [stuck.saga_id, done[2].saga_id]
            completed = await shop.sagas(state="completed", limit=2)
            assert [one.saga_id for one in completed] == [done[2].saga_id, done[1].saga_id]
            assert await shop.saga(str(done[0].saga_id)).state() is SagaState.COMPLETED

    run(scenario())


class LosingBroker:
    """The real broker; while `is_down()` says so, publishing answers that nothing is known."""

    def __init__(self, real: Any, is_down: Callable[[], bool]) -> None:
        self._real = real
        self._is_down = is_down

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def publish(self, messages: list[Outgoing]) -> Any:
        from saga_choreo.errors import BrokerUnavailable

        if self._is_down():
            if len(messages) % 2:
                raise BrokerUnavailable("down")
            return [BrokerUnavailable("no answer") for _ in messages]
        return await self._real.publish(messages)


def test_what_could_not_be_published_after_the_commit_is_published_later(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        from saga_choreo.runtime.plugins import make_broker

        world = World(chain(), nats_url, store)
        down = True
        world.agents["inventory"].configure(broker=LosingBroker(make_broker(nats_url, prefix=world.prefix), lambda: down))
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: _tried(world, "reserve"))
            await asyncio.sleep(0.3)
            assert not await _tried(world, "charge")
            down = False
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "charge", "confirm"]

    run(scenario())
