"""Agents in processes of their own, killed and stopped at bad moments. Real NATS, SQLite files shared by processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from saga_choreo import SagaHandle, SagaState
from saga_choreo.testing.harness import Cluster
from tests.scenarios import apps
from tests.scenarios.world import Go, World, eventually, run

HERE = Path(__file__).parents[2]


@contextmanager
def process(world: World, service: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """`saga-choreo run` for one service of `apps`, with its log beside its store."""
    env = {
        **os.environ,
        "SAGA_BROKER_URL": world.broker,
        "SAGA_STORE_URL": world.store.replace("{service}", service),
        "WORLD_PREFIX": world.prefix,
        **environ,
    }
    log: IO[bytes]
    with world.file(service).with_suffix(".log").open("ab") as log:
        command = [str(Path(sys.executable).parent / "saga-choreo"), "run", f"tests.scenarios.apps:{service}"]
        child = subprocess.Popen(command, env=env, cwd=HERE, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


async def ended(child: subprocess.Popen[bytes], within_s: float = 15.0) -> int:
    async def look() -> bool:
        return child.poll() is not None

    await eventually(look, within_s)
    assert child.returncode is not None
    return child.returncode


def log_of(world: World, service: str) -> str:
    return world.file(service).with_suffix(".log").read_text()


async def both_sides(world: World, handles: list[SagaHandle], cluster: Cluster) -> None:
    """All completed, and every step of every saga has happened once."""
    for handle in handles:
        assert await handle.wait(20) is SagaState.COMPLETED
    effects = await world.effects(cluster)
    expected = sorted((str(h.saga_id), name) for h in handles for name in ("reserve", "charge", "confirm"))
    assert sorted((one.saga, one.step) for one in effects if one.side == "do") == expected
    assert not [one for one in effects if one.side == "undo"]


def test_of_two_agents_on_one_file_one_is_killed_and_all_sagas_go_on(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = apps.world(nats_url, store, "killed")
        cluster = world.cluster()
        with process(world, "payment", WORLD_SLOW="0.05") as first, process(world, "payment", WORLD_SLOW="0.05") as second:
            await cluster.start("inventory", "shop")
            await cluster.ready()
            handles = [await cluster["shop"].start_saga(Go(), key=f"k-{number}") for number in range(20)]
            await eventually(lambda: charged(world, cluster, 4), 20)
            first.send_signal(signal.SIGKILL)
            await ended(first)
            await both_sides(world, handles, cluster)
            assert second.poll() is None
            await cluster.stop()

    run(scenario(), 60)


async def charged(world: World, cluster: Cluster, times: int) -> bool:
    return len([one for one in await world.effects(cluster) if one.step == "charge"]) >= times


def test_a_stop_with_steps_in_flight_ends_with_0_and_loses_nothing(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = apps.world(nats_url, store, "stopped")
        cluster = world.cluster()
        with process(world, "payment", WORLD_SLOW="0.3") as child:
            await cluster.start("inventory", "shop")
            await cluster.ready()
            handles = [await cluster["shop"].start_saga(Go()) for _ in range(6)]
            await eventually(lambda: charged(world, cluster, 1), 20)
            child.send_signal(signal.SIGTERM)
            assert await ended(child) == 0, log_of(world, "payment")
            assert "Traceback" not in log_of(world, "payment")
            assert not await charged(world, cluster, 6)
        with process(world, "payment"):
            await both_sides(world, handles, cluster)
            await cluster.stop()

    run(scenario(), 60)


def test_what_a_process_committed_and_never_published_is_published_by_the_next_one(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = apps.world(nats_url, store, "mute")
        cluster = world.cluster()
        with process(world, "payment") as child:
            await cluster.start("inventory", "shop")
            await cluster.ready()
            child.send_signal(signal.SIGTERM)
            assert await ended(child) == 0, log_of(world, "payment")
        with process(world, "payment", WORLD_MUTE="1") as child:
            handles = [await cluster["shop"].start_saga(Go()) for _ in range(5)]
            await eventually(lambda: charged(world, cluster, 5), 20)
            await asyncio.sleep(0.3)
            assert [await handle.state() for handle in handles] == [SagaState.PENDING] * 5
            child.kill()
            await ended(child)
        with process(world, "payment"):
            await both_sides(world, handles, cluster)
            await cluster.stop()

    run(scenario(), 60)


def test_a_saga_started_in_another_process_under_the_same_key_is_the_same_saga(nats_url: str, store: str) -> None:
    """A web process beside the agent, on the same file: `client()` here, the agent as a process."""

    async def scenario() -> None:
        world = apps.world(nats_url, store, "web")
        cluster = world.cluster()
        await cluster.start("inventory", "payment")
        with process(world, "shop"):
            ids = []
            for _ in range(2):
                async with world.agent("shop").client() as client:
                    await client.ready(20)
                    handle = await client.start_saga(Go(note="same"), key="order-1")
                    ids.append(handle.saga_id)
                    assert handle.is_new is (len(ids) == 1)
                    assert await handle.wait(20) is SagaState.COMPLETED
            assert ids[0] == ids[1]
            assert len(await world.effects(cluster)) == 3
        await cluster.stop()

    run(scenario(), 60)
