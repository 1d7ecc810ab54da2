"""What every script of the benchmark has in common: the order saga, how its result is judged, and what a script prints.

Four steps: inventory, payment and shipment can be undone; confirm refuses every `fail_every`-th saga, and the three steps before it
are undone in reverse order. Each step, forward and back, upserts one row in PostgreSQL; the row's counter shows an effect that
happened twice. A script prints one JSON line and exits with 1 when any saga's rows are not exactly the expected ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = [
    "EFFECTS",
    "FORWARD",
    "SELECT",
    "UPSERT",
    "Declined",
    "Meter",
    "Task",
    "all_of_them",
    "cpu_s",
    "must_fail",
    "names",
    "report",
    "run",
    "task_from",
]

FORWARD = ("inventory", "payment", "shipment", "confirm")
UNDO = tuple(f"undo_{name}" for name in reversed(FORWARD[:3]))

EFFECTS = (
    "CREATE TABLE IF NOT EXISTS bench_effect (seq bigserial, saga text NOT NULL, action text NOT NULL, "
    "times int NOT NULL DEFAULT 1, PRIMARY KEY (saga, action))"
)
# Filled in with the driver's own placeholders: $1 and $2, or :s and :a.
UPSERT = "INSERT INTO bench_effect (saga, action) VALUES ({}, {}) ON CONFLICT (saga, action) DO UPDATE SET times = bench_effect.times + 1"
SELECT = "SELECT saga, action, times FROM bench_effect WHERE saga = ANY({}) ORDER BY seq"


class Declined(Exception):
    """The business no of the last step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a script is asked to do. `rate` above zero: open-loop arrivals, so many a second. `hops`: measure them.

    For our own script only: `open` further sagas that wait for somebody meanwhile, so many `agents` of the payment service (each a
    process), whose handler waits for `wait_ms`. `servers`: processes of broker and database, whose CPU time is measured too."""

    database: str
    nats: str
    sagas: int
    at_once: int
    fail_every: int
    mode: str
    rate: float
    hops: bool
    servers: tuple[int, ...]
    open: int
    agents: int
    wait_ms: float

    def driver(self, name: str) -> str:
        """The database's URL for SQLAlchemy."""
        return self.database.replace("postgresql://", f"postgresql+{name}://", 1)


def task_from(argv: Sequence[str] | None = None) -> Task:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--nats", default="")
    parser.add_argument("--sagas", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--fail-every", type=int, default=10)
    parser.add_argument("--mode", default="")
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--hops", action="store_true")
    parser.add_argument("--servers", type=lambda said: tuple(map(int, said.split(","))), default=())
    parser.add_argument("--open", type=int, default=0)
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--wait-ms", type=float, default=0.0)
    given = parser.parse_args(argv)
    return Task(**vars(given))


def run(main: Callable[[Task], Coroutine[Any, Any, None]]) -> None:
    """Run a script's main on uvloop where it is installed: whoever is measured gets the same loop."""
    factory = import_module("uvloop").new_event_loop if find_spec("uvloop") is not None else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(task_from()))


def names(task: Task) -> list[str]:
    stamp = f"{time.time_ns() // 1_000_000:x}"
    return [f"{stamp}-{number:06d}" for number in range(task.sagas)]


def must_fail(saga: str, task: Task) -> bool:
    return bool(task.fail_every) and int(saga.rpartition("-")[2]) % task.fail_every == 0


async def all_of_them(sagas: Sequence[str], task: Task, one: Callable[[str, float], Awaitable[None]]) -> None:
    """Run `one(saga, intended start)` for each: at most `at_once` together, or at the task's rate, however many that makes."""
    loop = asyncio.get_running_loop()
    if not task.rate:
        gate = asyncio.Semaphore(task.at_once)

        async def gated(saga: str) -> None:
            async with gate:
                await one(saga, time.time())

        await asyncio.gather(*map(gated, sagas))
        return
    began, wall = loop.time(), time.time()
    async with asyncio.TaskGroup() as group:
        for number, saga in enumerate(sagas):
            await asyncio.sleep(began + number / task.rate - loop.time())
            group.create_task(one(saga, wall + number / task.rate))


class Meter:
    """Wall and CPU time between two moments; CPU is user and system time of this process, all threads, and of the servers."""

    def __init__(self, task: Task) -> None:
        self._servers = task.servers
        self.seconds = self.cpu_seconds = self.servers_cpu_seconds = 0.0
        self._servers_cpu = sum(map(cpu_s, self._servers))
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu_seconds = time.process_time() - self._cpu
        self.servers_cpu_seconds = sum(map(cpu_s, self._servers)) - self._servers_cpu


def cpu_s(pid: int) -> float:
    """User and system time so far of a process and its children, ended ones included (Linux)."""
    total = 0
    with suppress(OSError):
        total += _ticks(pid)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                total += _ticks(int(child))
    return total / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))


def report(who: str, task: Task, sagas: Sequence[str], rows: Sequence[Sequence[Any]], meter: Meter, **more: object) -> None:
    """Judge the rows (saga, action, times; in the order of writing) and print the line."""
    seen: dict[str, list[str]] = {}
    repeated = 0
    for saga, action, times in rows:
        seen.setdefault(saga, []).append(action)
        repeated += times - 1
    wrong = [saga for saga in sagas if seen.get(saga) != _expected(saga, task)]
    line = {
        "who": who,
        "sagas": len(sagas),
        "wrong": len(wrong),
        "repeated": repeated,
        "seconds": round(meter.seconds, 4),
        "sagas_per_s": round(len(sagas) / meter.seconds, 2),
        "cpu_ms_per_saga": round(1000 * meter.cpu_seconds / len(sagas), 3),
        "servers_cpu_ms_per_saga": round(1000 * meter.servers_cpu_seconds / len(sagas), 3),
        **more,
    }
    print(json.dumps(line), flush=True)
    if wrong or repeated:
        first = f"; the first is {wrong[0]!r}: {seen.get(wrong[0])}" if wrong else ""
        print(f"{who}: {len(wrong)} sagas have wrong rows, {repeated} effects happened twice{first}", file=sys.stderr)
        sys.exit(1)


def _expected(saga: str, task: Task) -> list[str]:
    return [*FORWARD[:3], *UNDO] if must_fail(saga, task) else list(FORWARD)
