"""Replays survive whoever dies: the tool that asked for one, and the agent that carries it out. Thousands of old messages do no harm."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from saga_choreo import SagaHandle, SagaState
from saga_choreo.ports import JobState
from saga_choreo.runtime.deadletters.door import DeadLetters
from saga_choreo.runtime.deadletters.find import WantedLetters
from saga_choreo.runtime.deadletters.replay import JobView
from saga_choreo.runtime.plugins import make_store
from saga_choreo.testing.harness import Cluster
from tests.scenarios import apps
from tests.scenarios.letters import ASK, all_of_them, ended, old_messages, stored_messages
from tests.scenarios.parking import parks_local
from tests.scenarios.test_processes import both_sides, process
from tests.scenarios.world import Go, World, chain, eventually, run

DAY_MS = 86_400_000
_numbers = itertools.count()


@contextmanager
def tool(*args: str, store: str) -> Iterator[subprocess.Popen[bytes]]:
    """`saga-choreo dlq` as somebody runs it in a terminal of theirs."""
    command = [str(Path(sys.executable).parent / "saga-choreo"), "dlq", *args, "--store", store]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}
    child = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


async def _parked_by_a_faulty_release(world: World, cluster: Cluster, letters: DeadLetters, count: int) -> list[SagaHandle]:
    with process(world, "payment", WORLD_FAULTY="1"):
        await cluster.start("inventory", "shop")
        await cluster.ready()
        handles = [await cluster["shop"].start_saga(Go(), key=f"k-{number}") for number in range(count)]

        async def all_parked() -> bool:
            return len(await all_of_them(letters, WantedLetters(kind="step"))) == count

        await eventually(all_parked, 60)
    return handles


def test_tool_and_agent_are_killed_in_the_middle_of_a_replay_and_a_mended_release_ends_every_saga(
    nats_url: str, store: str
) -> None:
    count = 24

    async def scenario() -> None:
        world = apps.world(nats_url, store, "replayed")
        cluster = world.cluster()
        url = store.replace("{service}", "payment")
        opened = make_store(url)
        await opened.open()
        letters = DeadLetters(opened)
        handles = await _parked_by_a_faulty_release(world, cluster, letters, count)
        (group,) = await letters.groups()
        assert (group.count, group.newest.code) == (count, "RuntimeError")
        forward, act = "tests.scenarios.world:World._declare.<locals>.forward", "tests.scenarios.world:World._act"
        assert group.newest.stack.splitlines() == [forward, act, "tests.scenarios.apps:fail"]

        async def resolved(at_least: int) -> JobView | None:
            views = await letters.jobs()
            return views[0] if views and views[0].counts.get("resolved", 0) >= at_least else None

        with process(world, "payment", WORLD_SLOW="0.2") as first:
            asked = ("replay", "--group", group.group, "--reason", "mended", "--max-in-flight", "3", "--wait", "--yes")
            with tool(*asked, store=url) as asker:
                begun = await eventually(lambda: resolved(2), 60)
                assert asker.poll() is None
                asker.send_signal(signal.SIGKILL)
            assert begun is not None
            assert begun.job.owner
            with process(world, "payment", WORLD_SLOW="0.2"):
                first.send_signal(signal.SIGKILL)
                first.wait()
                view = await letters.job(begun.job.id)
                assert view.counts.get("resolved", 0) < count, "it was killed in the middle"
                over = await ended(letters, view.job.id, 90)
                assert (over.job.state, dict(over.counts)) == (JobState.DONE, {"resolved": count})
                assert over.job.version > view.job.version
                await both_sides(world, handles, cluster)
        assert await all_of_them(letters) == []
        await opened.close()
        await cluster.stop()

    run(scenario(), 240)


async def _old_messages_do_nothing(broker: str, store: str, count: int) -> None:
    """A fifth are of sagas that have ended, the rest of sagas that are forgotten."""
    world = World(chain(), broker, store)
    async with world.cluster() as cluster:
        handles = [await cluster["shop"].start_saga(Go()) for _ in range(20)]
        assert {await handle.wait(20) for handle in handles} == {SagaState.COMPLETED}
        travelled = [one for handle in handles for one in await stored_messages(cluster, "inventory", handle, "payment")]
        now_ms = time.time_ns() // 1_000_000
        finished = [replace(travelled[n % len(travelled)], received_ms=now_ms - 60_000 + n) for n in range(count // 5)]
        forgotten = old_messages(travelled, count - len(finished), now_ms - 30 * DAY_MS)
        letters = cluster["payment"].dead_letters
        assert await letters.bring_in([*finished, *forgotten]) == count
        before = await world.effects(cluster)
        planned = await letters.preflight(letters.find())
        verdicts = {one.judged.verdict.value for one in planned}
        assert (len(planned), verdicts) == (count, {"ended", "stale"})
        (job,) = await letters.replay(planned, replace(ASK, force=True))
        view = await ended(letters, job.id, 400)
        assert dict(view.counts) == {"resolved": len(finished), "failed": len(forgotten)}
        assert await world.effects(cluster) == before, "nothing is done twice, nothing is undone"
        assert {await handle.state() for handle in handles} == {SagaState.COMPLETED}
        failed = await letters.groups()
        assert [(group.newest.code, group.count) for group in failed] == [("stale", len(forgotten))]
        known = {one.saga_id for one in await cluster["payment"].sagas(limit=1000)}
        assert known == {handle.saga_id for handle in handles}, "no record was made of a forgotten saga"


SIZES = pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])


@SIZES
def test_old_messages_of_ended_and_forgotten_sagas_are_replayed_without_any_effect(nats_url: str, store: str, count: int) -> None:
    run(_old_messages_do_nothing(nats_url, store, count), 500)


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[str]:
    """A schema for each service, since every service has a database of its own."""
    prefix = f"replays_{os.getpid()}_{next(_numbers)}"
    schemas = [f"{prefix}_{service}" for service in ("inventory", "payment", "shop")]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for schema in schemas:
            connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
        yield f"{postgres_url}{'&' if '?' in postgres_url else '?'}search_path={prefix}_{{service}}"
        for schema in schemas:
            connection.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())


@SIZES
def test_old_messages_are_replayed_without_any_effect_on_postgresql(nats_url: str, postgres_store: str, count: int) -> None:
    run(_old_messages_do_nothing(nats_url, postgres_store, count), 500)


def test_a_parked_step_is_replayed_on_postgresql(nats_url: str, postgres_store: str) -> None:
    async def scenario() -> None:
        world, down = parks_local(nats_url, postgres_store)
        async with world.cluster() as cluster:
            handles = [await cluster["shop"].start_saga(Go()) for _ in range(5)]
            letters = cluster["payment"].dead_letters

            async def all_parked() -> bool:
                return len(await all_of_them(letters)) == len(handles)

            await eventually(all_parked, 60)
            (group,) = await letters.groups()
            assert (group.newest.code, group.newest.step) == ("RuntimeError", "charge")
            down.works = True
            (job,) = await letters.replay(await letters.preflight(letters.find()), ASK)
            assert {await handle.wait(30) for handle in handles} == {SagaState.COMPLETED}
            assert dict((await ended(letters, job.id)).counts) == {"resolved": len(handles)}
            assert [effect.step for effect in await world.effects(cluster)].count("charge") == len(handles)

    run(scenario(), 120)


def test_a_job_waits_for_an_agent_and_begins_with_the_next_one(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(30) is SagaState.COMPLETED
            like = await stored_messages(cluster, "inventory", handle, "payment")
            await cluster.stop("payment")
            opened = make_store(store.replace("{service}", "payment"))
            await opened.open()
            letters = DeadLetters(opened, "payment")
            await letters.bring_in(like)
            (job,) = await letters.replay(await letters.preflight(letters.find()), ASK)
            assert dict((await letters.job(job.id)).counts) == {"staged": len(like)}
            await cluster.start("payment")
            assert dict((await ended(letters, job.id)).counts) == {"resolved": len(like)}
            assert cluster["payment"].health().replays in (0, 1)
            await opened.close()

    run(scenario(), 120)
