"""What every script of the benchmark has in common: the order saga, how its result is judged, and what a script prints.

Four steps: inventory, payment and shipment can be undone; confirm refuses every `fail_every`-th saga, and the three steps before it
are undone in reverse order. Each step, forward and back, upserts one row in PostgreSQL; the row's counter shows an effect that
happened twice. A script prints one JSON line and exits with 1 when any saga's rows are not exactly the expected ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
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
    """What a script is asked to do. `rate` above zero: open-loop arrivals, so many a second. `hops`: measure them."""

    database: str
    nats: str
    sagas: int
    at_once: int
    fail_every: int
    mode: str
    rate: float
    hops: bool

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
    """Wall and CPU time between two moments; CPU is user and system time of this process, all threads."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self.seconds = self.cpu_seconds = 0.0

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu_seconds = time.process_time() - self._cpu


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
        **more,
    }
    print(json.dumps(line), flush=True)
    if wrong or repeated:
        first = f"; the first is {wrong[0]!r}: {seen.get(wrong[0])}" if wrong else ""
        print(f"{who}: {len(wrong)} sagas have wrong rows, {repeated} effects happened twice{first}", file=sys.stderr)
        sys.exit(1)


def _expected(saga: str, task: Task) -> list[str]:
    return [*FORWARD[:3], *UNDO] if must_fail(saga, task) else list(FORWARD)
