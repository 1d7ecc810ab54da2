"""A NATS cluster of three whose leaders are killed, and that loses its quorum for a while. The ledgers of the participants are the
oracle: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from saga_choreo import SagaHandle, SagaState
from saga_choreo.testing.harness import Cluster
from saga_choreo.testing.nats_cluster import NatsCluster
from tests.scenarios.world import Go, World, chain, run

WHOLE = ["reserve", "charge", "confirm"]


@pytest.fixture
def nats_cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    with NatsCluster(tmp_path / "cluster") as cluster:
        yield cluster


async def _leader(nats_cluster: NatsCluster, stream: str) -> str:
    client = await nats.connect([f"nats://127.0.0.1:{server.port}" for server in nats_cluster.servers.values()])
    try:
        info = await client.jetstream().stream_info(stream)
        assert info.cluster is not None
        assert info.cluster.leader
        return info.cluster.leader
    finally:
        await client.close()


async def _judge(world: World, cluster: Cluster, handles: list[SagaHandle]) -> None:
    for handle in handles:
        assert await handle.wait(60) is SagaState.COMPLETED
    effects = await world.effects(cluster)
    for handle in handles:
        assert [one.step for one in effects if one.saga == str(handle.saga_id)] == WHOLE


@pytest.mark.slow
def test_leaders_that_are_killed_one_after_the_other_cost_time_only(nats_cluster: NatsCluster, tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_cluster.url, f"sqlite:///{tmp_path}/{{service}}.db")
        handles: list[SagaHandle] = []
        stop = asyncio.Event()

        async def load(cluster: Cluster) -> None:
            while not stop.is_set():
                handles.append(await cluster["shop"].start_saga(Go()))
                await asyncio.sleep(0.05)

        async with world.cluster() as cluster, asyncio.TaskGroup() as tasks:
            tasks.create_task(load(cluster))
            for _ in range(3):
                done = len(handles)
                leader = nats_cluster.servers[await _leader(nats_cluster, f"{world.prefix}_events")]
                leader.kill()
                await asyncio.sleep(2.0)
                leader.start()
                async with asyncio.timeout(30):
                    # Only when sagas that began after the kill are through is it the next one's turn.
                    while len(handles) < done + 10:  # noqa: ASYNC110  (a poll with a deadline)
                        await asyncio.sleep(0.05)
                    assert await handles[done + 5].wait(60) is SagaState.COMPLETED
            stop.set()
            await _judge(world, cluster, handles)

    run(scenario(), 240)


@pytest.mark.slow
def test_without_a_quorum_everything_waits_and_with_it_everything_goes_on(nats_cluster: NatsCluster, tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_cluster.url, f"sqlite:///{tmp_path}/{{service}}.db")
        async with world.cluster() as cluster:
            handles = [await cluster["shop"].start_saga(Go()) for _ in range(5)]
            await _judge(world, cluster, handles)
            two = [nats_cluster.servers[name] for name in ("n2", "n3")]
            for server in two:
                server.kill()
            waiting = [await cluster["shop"].start_saga(Go()) for _ in range(5)]
            await asyncio.sleep(3.0)
            assert [await handle.state() for handle in waiting] != [SagaState.COMPLETED] * 5
            for server in two:
                server.start()
            await _judge(world, cluster, handles + waiting)

    run(scenario(), 240)
