"""`make bench-scale`: what many sagas cost. Each part runs on servers of its own and prints JSON lines.

many: so many sagas started at once all complete. open: the agent's memory per open saga, and with many more of them in the database its
memory and idle work. cold: an agent finds rows that nobody has announced, while new sagas start beside it. agents: a second and a third
agent of one service. growth: what a saga costs while many others are open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import asyncpg

from saga_choreo import Agent
from tests.benchmarks.choreography import OrderHeld
from tests.benchmarks.cold import cold
from tests.benchmarks.contenders import CONTENDERS, one_run
from tests.benchmarks.copies import copies
from tests.benchmarks.growth import growth
from tests.benchmarks.memory import resident_bytes
from tests.benchmarks.services import agents
from tests.benchmarks.several import several
from tests.benchmarks.stage import NotDurable, Stage, staged
from tests.benchmarks.workload import cpu_s

__all__ = ["main"]

_PARTS = ("many", "open", "cold", "agents", "growth")
_SETTLE_S, _IDLE_S = 3.0, 30.0
# Connections prepare their statements at first use, each on its own; that is no growth.
_WARM_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-scale")
    parser.add_argument("part", choices=_PARTS)
    parser.add_argument(
        "--count",
        type=int,
        default=0,
        help="default: 10,000 sagas, 100,000 open ones, 1,000,000 rows; 600 sagas a run with several agents; up to 100,000 others open",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the parts agents and growth")
    given = parser.parse_args()
    with staged() as stage:
        try:
            stage.settings()
        except NotDurable as error:
            parser.exit(1, f"nothing is measured: {error}\n")
        for said in _part(stage, given.part, given.count, given.rounds):
            print(json.dumps({"part": given.part, **said}), flush=True)


def _part(stage: Stage, part: str, count: int, rounds: int) -> Iterable[dict[str, Any]]:
    match part:
        case "many":
            ours = replace(CONTENDERS[0], at_once=count or 10_000)
            return [one_run(stage, ours, ours.at_once)]
        case "open":
            return [asyncio.run(_open(stage, stage.fresh_database("open_sagas"), count or 100_000))]
        case "cold":
            return [asyncio.run(cold(stage, stage.fresh_database("cold"), count or 1_000_000))]
        case "agents":
            return several(stage, rounds, count or 600)
        case _:
            return growth(stage, rounds, count or 100_000)


async def _open(stage: Stage, url: str, count: int) -> dict[str, Any]:
    """Sagas that wait for somebody outside: some thousand started here, the rest put beside them in the database. Then the worst that
    idling can come to: all of them are due for announcing themselves again."""
    mine = agents(stage.nats.url, url)
    real = min(2_000, count // 4)
    async with mine["inventory"].serving(), mine["order"].serving():
        await _hold(mine["order"], real)  # what grows once is grown now
        before = await _settled_bytes()
        await _hold(mine["order"], real)
        per_saga = (await _settled_bytes() - before) / real
        connection = await asyncpg.connect(url)
        await copies(connection, await connection.fetchval("SELECT saga_id FROM saga_record LIMIT 1"), count - 2 * real)
        open_sagas = await connection.fetchval("SELECT count(DISTINCT saga_id) FROM saga_record WHERE outcome = ''")
        await connection.execute("UPDATE saga_record SET due_ms = $1 WHERE due_ms IS NOT NULL", int(1000 * time.time()))
        await asyncio.sleep(_WARM_S)
        full = resident_bytes()
        cpu, servers, said = time.process_time(), sum(map(cpu_s, stage.servers)), stage.published()
        await asyncio.sleep(_IDLE_S)
        said = stage.published() - said
        cpu, servers = time.process_time() - cpu, sum(map(cpu_s, stage.servers)) - servers
        still_due = await connection.fetchval("SELECT count(*) FROM saga_record WHERE due_ms < $1", int(1000 * time.time()))
        await connection.close()
        return {
            "open_sagas": open_sagas,
            "agent_bytes_per_open_saga": round(per_saga),
            "agents_resident_mib": round(full / 2**20, 1),
            "agents_grew_mib": round((resident_bytes() - full) / 2**20, 2),
            "idle_cpu_percent": round(100 * cpu / _IDLE_S, 1),
            "idle_servers_cpu_percent": round(100 * servers / _IDLE_S, 1),
            "reannounced_per_s": round(said / _IDLE_S, 1),
            "still_due": still_due,
        }


async def _hold(order: Agent, count: int) -> None:
    gate = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        async with gate:
            await order.start_saga(OrderHeld(order=f"held-{number}"))

    await asyncio.gather(*map(one, range(count)))
    await asyncio.sleep(_SETTLE_S)


async def _settled_bytes() -> int:
    await asyncio.sleep(_SETTLE_S)
    return resident_bytes()


if __name__ == "__main__":
    main()
