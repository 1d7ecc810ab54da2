"""`sagas stuck` and `sagas wait` on real sagas: NATS and SQLite, a service that is away."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from saga_choreo import SagaHandle, SagaState
from saga_choreo.ports import Topology
from saga_choreo.runtime.alive import Sign, alive_notice
from saga_choreo.runtime.plugins import make_broker
from saga_choreo.testing.harness import Cluster
from tests.scenarios.parking import parks_local, refuse
from tests.scenarios.world import QUICK, Go, World, chain, eventually, run

QUICKLY_ALIVE = replace(QUICK, alive_every_s=0.2)


async def tool(*words: str, **environ: str) -> tuple[int, str, str]:
    """`saga-choreo` as a process: exit code, data, talk."""
    env = {**{name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}, **environ}
    command = str(Path(sys.executable).parent / "saga-choreo")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(command, *words, stdout=pipe, stderr=pipe, env=env)
    out, talk = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), talk.decode()


async def why(cluster: Cluster, service: str) -> list[str]:
    found = await cluster[service].stuck(longer_than=timedelta(0))
    return [str(wait) for one in found for wait in one.waits]


def test_a_saga_that_waits_for_a_service_without_an_agent_says_so_here_and_on_the_command_line(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, limits=QUICKLY_ALIVE)
        async with world.cluster() as cluster:
            await cluster.stop("payment")
            handle = await cluster["shop"].start_saga(Go(), key="o-1")

            async def says_so() -> bool:
                return any("payment.charged from payment: no live agent" in line for line in await why(cluster, "shop"))

            await eventually(says_so)
            assert await cluster["shop"].stuck() == [], "it has changed within the last minute"
            url = world.store.replace("{service}", "shop")
            asked = ("sagas", "stuck", "--for", "0s", "--store", url)
            code, out, talk = await tool(*asked, "--json", "--broker", nats_url, "--prefix", world.prefix)
            assert (code, talk) == (0, "Some agent was not heard of lately: listening 1 s for its next sign.\n")
            (one,) = json.loads(out)
            assert (one["id"], one["key"], one["schema"]) == (str(handle.saga_id), "o-1", "saga-choreo/v1/stuck")
            (wait,) = one["waits"]
            assert (wait["what"], wait["whom"]) == ("payment.charged", "payment")
            assert wait["why"].startswith("no live agent: the last sign of one is")
            code, out, talk = await tool(*asked)
            assert code == 0
            assert "payment.charged from payment: whether an agent of it runs is not known here" in out
            assert "--broker" in talk
            code, out, talk = await tool(*asked, "--broker", "nats://127.0.0.1:1?open_timeout=0.5")
            assert (code, "payment.charged from payment" in out) == (0, True)
            assert "could not be asked" in talk
            await cluster.start("payment")
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await why(cluster, "shop") == []

    run(scenario(), 60)


@pytest.mark.parametrize("off_ms", [-3_600_000, 3_600_000])
def test_an_agent_whose_clock_is_an_hour_off_is_alive_as_long_as_it_says_so(nats_url: str, store: str, off_ms: int) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, limits=QUICKLY_ALIVE)
        async with world.cluster() as cluster:
            await cluster.stop("payment")
            await cluster["shop"].start_saga(Go())
            broker = make_broker(nats_url, prefix=world.prefix)
            await broker.open(Topology(service="visitor", agent="v", events=(), create=False, receives=False))

            async def beat() -> None:
                while True:
                    sign = Sign(time.time_ns() // 1_000_000 + off_ms, 400)
                    await broker.notify(alive_notice("payment", "off", sign))
                    await asyncio.sleep(0.4)

            async def told() -> list[str]:
                url = world.store.replace("{service}", "shop")
                asked = ("sagas", "stuck", "--for", "0s", "--store", url, "--json", "--broker", nats_url, "--prefix", world.prefix)
                code, out, _ = await tool(*asked)
                assert code == 0
                return [wait["why"] for one in json.loads(out) for wait in one["waits"]]

            async def is_alive() -> bool:
                return await why(cluster, "shop") == ["payment.charged from payment"]

            async def is_dead() -> bool:
                return any("payment.charged from payment: no live agent" in line for line in await why(cluster, "shop"))

            beating = asyncio.create_task(beat())
            await eventually(is_alive)
            assert await told() == [""]
            beating.cancel()  # as kill -9 does
            await eventually(is_dead)
            (dead,) = await told()
            assert dead.startswith("no live agent") if off_ms < 0 else " min ahead of " in dead
            await broker.close()
            await cluster.start("payment")

    run(scenario(), 60)


def test_a_parked_step_and_a_step_that_waits_for_it_are_told_where_they_are(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, down = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            await cluster["shop"].start_saga(Go())

            async def parked() -> bool:
                return any("parked after attempt 2" in line for line in await why(cluster, "payment"))

            await eventually(parked)
            assert await why(cluster, "shop") == ["payment.charged from payment"]
            down.works = True

    run(scenario())


async def waited(world: World, handle: SagaHandle, *more: str) -> tuple[int, Any]:
    url = world.store.replace("{service}", "shop")
    code, out, _ = await tool("sagas", "wait", str(handle.saga_id), "--json", "--timeout", "20s", *more, SAGA_STORE_URL=url)
    return code, json.loads(out)[0]["state"] if out else None


def test_waiting_for_a_saga_says_with_its_exit_code_how_it_ended(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            await cluster.stop("payment")
            handle = await cluster["shop"].start_saga(Go())
            assert await waited(world, handle, "--timeout", "1s") == (10, None)
            waiting = asyncio.create_task(waited(world, handle))
            await cluster.start("payment")
            assert await waiting == (0, "completed")
            world.on[("charge", "do")] = refuse
            handle = await cluster["shop"].start_saga(Go())
            assert await waited(world, handle) == (11, "compensated")
            url = world.store.replace("{service}", "shop")
            assert (await tool("sagas", "wait", "nothing-of-the-kind", "--store", url))[0] == 5
            assert (await tool("sagas", "wait", str(handle.saga_id), "--timeout", "soon", "--store", url))[0] == 2

    run(scenario(), 60)
