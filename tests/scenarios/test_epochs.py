"""A store that went back in time: the agent notices, stops, says which sagas are suspect, and goes on when a person accepts it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from saga_choreo import Agent, SagaState
from saga_choreo.errors import NotReady
from saga_choreo.testing.harness import Cluster
from saga_choreo.testing.postgres_server import PostgresServer
from saga_choreo.testing.redis_server import RedisServer
from tests.scenarios.world import QUICK, Go, World, chain, eventually, run
from tests.unit.cli.process import in_process

LIMITS = replace(QUICK, epoch_every_s=0.2, ready_timeout_s=5.0)
_EXTERNAL = {"external": True}


def external(nats_url: str, store: str) -> World:
    return World(chain(reserve=_EXTERNAL, charge=_EXTERNAL, confirm=_EXTERNAL), nats_url, store, LIMITS)


async def is_suspicious(agent: Agent) -> bool:
    return bool(agent.health().suspicion)


async def is_working(agent: Agent) -> bool:
    return agent.health().is_consuming and not agent.health().suspicion


async def command(*args: str) -> CompletedProcess[str]:
    return await asyncio.to_thread(in_process, "store", "accept-epoch", *args)


async def accept(url: str, *services: str) -> None:
    for service in services:
        done = await command("--store", url, "--service", service, "--reason", "restored on purpose", "--yes")
        assert done.returncode == 0, done.stderr


async def some_sagas(cluster: Cluster, count: int = 3) -> None:
    handles = [await cluster["shop"].start_saga(Go()) for _ in range(count)]
    assert {await one.wait(15) for one in handles} == {SagaState.COMPLETED}


def test_an_agent_on_a_file_that_was_copied_back_stops_until_that_is_accepted(
    nats_url: str, store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, LIMITS)
        file, backup = world.file("payment"), tmp_path / "backup.db"
        async with world.cluster() as cluster:
            await some_sagas(cluster)
            await cluster.stop("payment")
            shutil.copy(file, backup)
            await cluster.start("payment")
            await some_sagas(cluster)
            await cluster.stop("payment")
            for one in file.parent.glob(file.name + "*"):
                one.unlink()
            shutil.copy(backup, file)
            handle = await cluster["shop"].start_saga(Go(), key="waits")
            await cluster.start("payment")
            await eventually(lambda: is_suspicious(cluster["payment"]))
            assert "commits are missing (a restored backup?)" in cluster["payment"].health().suspicion
            assert not cluster["payment"].health().is_consuming
            assert "saga-choreo store accept-epoch --service payment" in caplog.text
            assert await handle.state() is not SagaState.COMPLETED
            plan = await command("--store", f"sqlite:///{file}", "--service", "payment", "--reason", "r")
            assert plan.returncode == 9, "nobody was there to be asked"
            await accept(f"sqlite:///{file}", "payment")
            assert await handle.wait(15) is SagaState.COMPLETED
            assert await is_working(cluster["payment"])
            await cluster.stop("payment")
            await cluster.start("payment")  # what was accepted once stays so
            await some_sagas(cluster)

    run(scenario(), 90)


def test_an_agent_that_meets_another_database_under_the_same_name_stops_until_that_is_accepted(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, LIMITS)
        file = world.file("shop")
        async with world.cluster() as cluster:
            await some_sagas(cluster)
            await cluster.stop("shop")
            for one in file.parent.glob(file.name + "*"):
                one.unlink()
            await cluster.start("shop")
            await eventually(lambda: is_suspicious(cluster["shop"]))
            with pytest.raises(NotReady, match=r"went back in time.*another database"):
                await cluster["shop"].start_saga(Go())
            mistyped = await command("--store", f"sqlite:///{file}", "--service", "shpo", "--reason", "moved", "--yes")
            assert (mistyped.returncode, "services known here: " in mistyped.stderr) == (5, True)
            await accept(f"sqlite:///{file}", "shop")
            await eventually(lambda: is_working(cluster["shop"]))
            await some_sagas(cluster)

    run(scenario(), 60)


def test_agents_on_a_postgres_restored_from_a_base_backup_stop(nats_url: str, own_postgres: PostgresServer) -> None:
    def restore(backup: Path) -> None:
        shutil.rmtree(own_postgres.cluster)
        _copied(backup, own_postgres.cluster)

    def back_up(backup: Path) -> None:
        _copied(own_postgres.cluster, backup)

    own_postgres.start()
    run(_goes_back(nats_url, own_postgres.url, own_postgres, back_up, restore), 120)


def test_agents_on_a_redis_whose_file_lost_its_end_stop(nats_url: str, own_redis: RedisServer) -> None:
    size = 0

    def remember(_backup: Path) -> None:
        nonlocal size
        size = own_redis.append_only_files[-1].stat().st_size

    def cut(_backup: Path) -> None:
        with own_redis.append_only_files[-1].open("ab") as file:
            file.truncate(size - 3)  # in the middle of a commit, which the server then leaves out

    own_redis.start()
    run(_goes_back(nats_url, own_redis.url, own_redis, remember, cut), 120)


async def _goes_back(
    nats_url: str,
    url: str,
    server: PostgresServer | RedisServer,
    back_up: Callable[[Path], None],
    restore: Callable[[Path], None],
) -> None:
    """All three services keep their records on this server."""
    world, backup = external(nats_url, url), server.data_dir / "backup"
    async with world.cluster() as cluster:
        await some_sagas(cluster)
        await cluster.stop()
        server.stop()
        back_up(backup)
        server.start()
        await cluster.start()
        await some_sagas(cluster)
        await cluster.stop()
        server.kill()
        restore(backup)
        server.start()
        await cluster.start()
        for service in world.agents:
            await eventually(lambda agent=cluster[service]: is_suspicious(agent))
        await accept(url, *world.agents)
        for service in world.agents:
            await eventually(lambda agent=cluster[service]: is_working(agent))
        await some_sagas(cluster)


def _copied(source: Path, target: Path) -> None:
    """With its owner, which is not who runs the tests when these run as root."""
    shutil.copytree(source, target, copy_function=shutil.copy2)
    owner = source.stat() if source.exists() else target.stat()
    for one in (target, *target.rglob("*")):
        shutil.chown(one, owner.st_uid, owner.st_gid)


def test_a_store_that_was_away_and_is_the_same_goes_on_by_itself(nats_url: str, own_redis: RedisServer) -> None:
    async def scenario() -> None:
        own_redis.start()
        world = external(nats_url, own_redis.url)
        async with world.cluster() as cluster:
            await some_sagas(cluster)
            own_redis.kill()
            handle = None
            own_redis.start()
            for service in world.agents:
                await eventually(lambda agent=cluster[service]: is_working(agent))
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(15) is SagaState.COMPLETED

    run(scenario(), 60)
