"""Our order saga over NATS and PostgreSQL. `--mode one`: four services in one process, as the peers are; `--mode four`: a process each.

A saga is started as a web handler would: in a transaction of the caller's own, published after its commit, and waited for.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import nats

from saga_choreo import Agent
from saga_choreo.codec.values import parse_time
from tests.benchmarks.choreography import OrderHeld, OrderPlaced
from tests.benchmarks.hops import Hops
from tests.benchmarks.services import agents, prefix_of
from tests.benchmarks.workload import EFFECTS, SELECT, Meter, Task, all_of_them, must_fail, names, report, run

__all__ = ["main"]

_WAIT_S = 280.0
# Further sagas that are open while hops are measured under load.
_OPEN = 1000


async def main(task: Task) -> None:
    if task.mode.startswith("serve-"):
        await _serve(task)
        return
    pool = await asyncpg.create_pool(task.database, min_size=16, max_size=16)
    await pool.execute(EFFECTS)
    async with AsyncExitStack() as stack:
        mine = agents(task.nats, task.database, fail_every=task.fail_every)
        others = list(mine) if task.mode != "four" else ["order"]
        children = [] if task.mode != "four" else [await _child(task, name) for name in mine if name != "order"]
        for child in children:
            stack.push_async_callback(_end, child)
        for name in others:
            await stack.enter_async_context(mine[name].serving())
        await mine["order"].ready(30)
        await _measure(task, mine["order"], pool, [child.pid for child in children])
    await pool.close()


async def _measure(task: Task, order: Agent, pool: asyncpg.Pool, children: list[int]) -> None:
    sagas, hops = names(task), Hops()
    if task.hops:
        await _listen(task, hops)
    if task.rate:
        await _open_others(order)

    async def one(saga: str, intended_s: float) -> None:
        if task.hops and task.rate:
            hops.began(saga, intended_s)
        async with pool.acquire() as connection, connection.transaction():
            handle = await order.start_saga(OrderPlaced(order=saga), key=saga, tx=connection)
        await handle.published()
        state = await handle.wait(_WAIT_S)
        assert state == ("compensated" if must_fail(saga, task) else "completed"), f"saga {saga!r} ended {state}"

    before = sum(map(_cpu_s, children))
    meter = Meter()
    await all_of_them(sagas, task, one)
    meter.stop()
    meter.cpu_seconds += sum(map(_cpu_s, children)) - before
    rows = await pool.fetch(SELECT.format("$1"), sagas)
    report(f"ours-{task.mode or 'one'}", task, sagas, rows, meter, **(hops.figures() if task.hops else {}))


async def _open_others(order: Agent) -> None:
    for number in range(_OPEN):
        await order.start_saga(OrderHeld(order=f"held-{time.time_ns()}-{number}"))


async def _listen(task: Task, hops: Hops) -> None:
    client = await nats.connect(task.nats)

    async def hear(message: Any) -> None:
        headers = message.headers
        hops.hear(headers["ce-sagakey"], parse_time("ce-time", headers["ce-time"]) / 1e9)

    await client.subscribe(f"{prefix_of(task.database)}.event.>", cb=hear)


async def _serve(task: Task) -> None:
    name = task.mode.removeprefix("serve-")
    await agents(task.nats, task.database, fail_every=task.fail_every)[name].run()


async def _child(task: Task, name: str) -> asyncio.subprocess.Process:
    words = ["--database", task.database, "--nats", task.nats, "--fail-every", str(task.fail_every), "--mode", f"serve-{name}"]
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.benchmarks.ours", *words)


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
    await child.wait()


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    run(main)
