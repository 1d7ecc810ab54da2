"""`make bench-scale`: what many sagas cost. Each part runs on servers of its own and prints one JSON line.

many: so many sagas started at once all complete. open: the agent's memory per open saga, and with many more of them in the database its
memory and idle work. cold: an agent finds rows that nobody has announced, while new sagas start beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import asyncpg

from saga_choreo import Agent
from tests.benchmarks.choreography import OrderHeld
from tests.benchmarks.contenders import CONTENDERS, one_run
from tests.benchmarks.services import agents
from tests.benchmarks.stage import Stage, staged

__all__ = ["main"]

# Copies of one open saga's rows with ids of their own, a millisecond apart, so that their age can still be read from the id.
_COPY = """
INSERT INTO saga_record ({columns}) SELECT {values} FROM saga_record AS r CROSS JOIN generate_series($2::bigint, $3::bigint) AS n
WHERE r.saga_id = $1
"""
_NEW_ID = "(lpad(to_hex({started_ms} - 1 - n / 10), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid"
_PAGE = 20_000
_SETTLE_S, _IDLE_S = 3.0, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-scale")
    parser.add_argument("part", choices=("many", "open", "cold"))
    parser.add_argument("--count", type=int, default=0, help="default: 10,000 sagas, 100,000 open ones, 1,000,000 rows")
    given = parser.parse_args()
    with staged() as stage:
        stage.settings()
        match given.part:
            case "many":
                ours = replace(CONTENDERS[0], at_once=given.count or 10_000)
                said: dict[str, Any] = one_run(stage, ours, ours.at_once)
            case "open":
                said = asyncio.run(_open(stage, stage.fresh_database("open_sagas"), given.count or 100_000))
            case _:
                said = asyncio.run(_cold(stage, stage.fresh_database("cold"), given.count or 1_000_000))
    print(json.dumps({"part": given.part, **said}))


async def _open(stage: Stage, url: str, count: int) -> dict[str, Any]:
    """Sagas that wait for somebody outside: a thousand started here, the rest put beside them in the database."""
    mine = agents(stage.nats.url, url)
    real = min(2_000, count // 4)
    async with mine["inventory"].serving(), mine["order"].serving():
        await _hold(mine["order"], real)  # what grows once is grown now
        before = await _settled_bytes()
        await _hold(mine["order"], real)
        per_saga = (await _settled_bytes() - before) / real
        connection = await asyncpg.connect(url)
        await _copies(connection, await connection.fetchval("SELECT saga_id FROM saga_record LIMIT 1"), count - 2 * real)
        open_rows = await connection.fetchval("SELECT count(*) FROM saga_record WHERE outcome = ''")
        await connection.close()
        full = await _settled_bytes()
        cpu, messages = time.process_time(), stage.varz()["in_msgs"]
        await asyncio.sleep(_IDLE_S)
        return {
            "open_rows": open_rows,
            "agent_bytes_per_open_saga": round(per_saga),
            "agents_grew_mib": round((await _settled_bytes() - full) / 2**20, 2),
            "idle_cpu_percent": round(100 * (time.process_time() - cpu) / _IDLE_S, 1),
            "idle_messages_per_s": round((stage.varz()["in_msgs"] - messages) / _IDLE_S, 1),
        }


async def _cold(stage: Stage, url: str, count: int) -> dict[str, Any]:
    """Rows of starts that were committed and never published, and nobody but the scan to find them."""
    mine = agents(stage.nats.url, url)
    async with mine["inventory"].serving(), mine["order"].serving():
        handle = await mine["order"].start_saga(OrderHeld(order="x" * 1000))
        await asyncio.sleep(_SETTLE_S)
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE saga_record SET announced = 0, due_ms = NULL WHERE step = -1")
    await connection.execute("DELETE FROM saga_record WHERE step <> -1")
    await _copies(connection, handle.saga_id, count)
    await connection.execute("ANALYZE saga_record")
    rates: list[float] = []
    starts: list[float] = []
    peak = 0
    async with mine["order"].serving():
        began, last, left = time.perf_counter(), time.perf_counter(), await _unannounced(connection)
        while left:
            asked = time.perf_counter()
            fresh = await mine["order"].start_saga(OrderHeld(order="new"))
            await fresh.published()
            starts.append(1000 * (time.perf_counter() - asked))
            await asyncio.sleep(1.0)
            now, rest = time.perf_counter(), await _unannounced(connection)
            rates.append((left - rest) / (now - last))
            last, left = now, 0 if rest < 10 else rest
            peak = max(peak, _resident())
        seconds = time.perf_counter() - began
    await connection.close()
    third = max(1, len(rates) // 3)
    return {
        "rows": count,
        "rows_per_s": round(count / seconds),
        "rows_per_s_first_third": round(sum(rates[:third]) / third),
        "rows_per_s_last_third": round(sum(rates[-third:]) / third),
        "start_to_published_ms_max": round(max(starts), 1),
        "peak_resident_mib": round(peak / 2**20, 1),
        "resident_at_end_mib": round(_resident() / 2**20, 1),
    }


async def _hold(order: Agent, count: int) -> None:
    gate = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        async with gate:
            await order.start_saga(OrderHeld(order=f"held-{number}"))

    await asyncio.gather(*map(one, range(count)))
    await asyncio.sleep(_SETTLE_S)


async def _copies(connection: Any, saga_id: Any, count: int) -> None:
    started_ms = saga_id.int >> 80
    columns = [row[0] for row in await connection.fetch(_COLUMNS)]
    values = [_NEW_ID.format(started_ms=started_ms) if name == "saga_id" else f"r.{name}" for name in columns]
    statement = _COPY.format(columns=", ".join(columns), values=", ".join(values))
    for first in range(1, count + 1, _PAGE):
        await connection.execute(statement, saga_id, first, min(first + _PAGE - 1, count), timeout=300)


_COLUMNS = "SELECT attname FROM pg_attribute WHERE attrelid = 'saga_record'::regclass AND attnum > 0 AND NOT attisdropped"


async def _unannounced(connection: Any) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM saga_record WHERE announced < version"))


async def _settled_bytes() -> int:
    await asyncio.sleep(_SETTLE_S)
    gc.collect()
    return _resident()


def _resident() -> int:
    with suppress(OSError), open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
