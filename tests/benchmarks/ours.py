"""Our order saga over NATS and PostgreSQL. `--mode one`: four services in one process, as the peers are; `--mode four`: a process each,
or several of payment.

A saga is started as a web handler would: in a transaction of the caller's own, published after its commit, and waited for.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import nats

from saga_choreo import Agent
from saga_choreo.codec.values import parse_time
from tests.benchmarks.choreography import OrderHeld, OrderPlaced
from tests.benchmarks.copies import copies
from tests.benchmarks.hops import Hops
from tests.benchmarks.services import agents, prefix_of
from tests.benchmarks.workload import EFFECTS, SELECT, Meter, Task, all_of_them, cpu_s, must_fail, names, report, run

__all__ = ["main"]

_WAIT_S = 280.0
_READY_S = 30.0
# So many further open sagas are really started; the rest are copies of the first.
_STARTED_MAX = 1000


async def main(task: Task) -> None:
    if task.mode.startswith("serve-"):
        await _serve(task)
        return
    pool = await asyncpg.create_pool(task.database, min_size=16, max_size=16)
    await pool.execute(EFFECTS)
    async with AsyncExitStack() as stack:
        mine = agents(task.nats, task.database, fail_every=task.fail_every)
        children: list[asyncio.subprocess.Process] = []
        if task.mode == "four":
            for name in ("inventory", *["payment"] * task.agents, "shipment"):
                children.append(child := await _child(task, name))
                stack.push_async_callback(_end, child)
            await asyncio.gather(*map(_is_serving, children))
        for name in ["order"] if children else mine:
            await stack.enter_async_context(mine[name].serving())
        await mine["order"].ready(_READY_S)
        await _measure(task, mine["order"], pool, [child.pid for child in children])
    await pool.close()


async def _measure(task: Task, order: Agent, pool: asyncpg.Pool, children: list[int]) -> None:
    sagas, hops = names(task), Hops()
    if task.open:
        await _open_others(task.open, order, pool)
    if task.hops:
        await _listen(task, hops)

    async def one(saga: str, intended_s: float) -> None:
        if task.hops and task.rate:
            hops.began(saga, intended_s)
        async with pool.acquire() as connection, connection.transaction():
            handle = await order.start_saga(OrderPlaced(order=saga), key=saga, tx=connection)
        await handle.published()
        state = await handle.wait(_WAIT_S)
        assert state == ("compensated" if must_fail(saga, task) else "completed"), f"saga {saga!r} ended {state}"

    before = sum(map(cpu_s, children))
    meter = Meter(task)
    await all_of_them(sagas, task, one)
    meter.stop()
    meter.cpu_seconds += sum(map(cpu_s, children)) - before
    rows = await pool.fetch(SELECT.format("$1"), sagas)
    report(f"ours-{task.mode or 'one'}", task, sagas, rows, meter, **(hops.figures() if task.hops else {}))


async def _open_others(count: int, order: Agent, pool: asyncpg.Pool) -> None:
    """Sagas that wait for somebody outside. They are open, and at rest, before anything is measured."""
    started = min(count, _STARTED_MAX)
    gate = asyncio.Semaphore(64)

    async def start(number: int) -> Any:
        async with gate:
            return await order.start_saga(OrderHeld(order=f"held-{number}"))

    handles = await asyncio.gather(*map(start, range(started)))
    async with asyncio.timeout(_WAIT_S):
        while await pool.fetchval("SELECT count(*) FROM saga_record WHERE pending") < started:  # noqa: ASYNC110  (in another process)
            await asyncio.sleep(0.2)
    async with pool.acquire() as connection:
        await copies(connection, handles[0].saga_id, count - started)


async def _listen(task: Task, hops: Hops) -> None:
    """To the events, and to the outcome: what the last step's commit says."""
    client = await nats.connect(task.nats)

    async def hear(message: Any) -> None:
        headers = message.headers
        hops.hear(headers["ce-sagakey"], headers["ce-type"], parse_time("ce-time", headers["ce-time"]) / 1e9)

    for channel in ("event.>", "outcome"):
        await client.subscribe(f"{prefix_of(task.database)}.{channel}", cb=hear)


async def _serve(task: Task) -> None:
    name = task.mode.removeprefix("serve-")
    wait_s = task.wait_ms / 1000
    async with agents(task.nats, task.database, fail_every=task.fail_every, wait_s=wait_s)[name].serving():
        print("serving", flush=True)
        await asyncio.Event().wait()


async def _child(task: Task, name: str) -> asyncio.subprocess.Process:
    words = ["--database", task.database, "--nats", task.nats, "--fail-every", str(task.fail_every), "--mode", f"serve-{name}"]
    command = [sys.executable, "-m", "tests.benchmarks.ours", *words, "--wait-ms", str(task.wait_ms)]
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)


async def _is_serving(child: asyncio.subprocess.Process) -> None:
    assert child.stdout is not None
    async with asyncio.timeout(_READY_S):
        said = await child.stdout.readline()
    assert said.strip() == b"serving", f"a service ended before it served: {said!r}"


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
    await child.wait()


if __name__ == "__main__":
    run(main)
