"""A cold relay: an agent finds a million rows of starts that nobody has announced, and nobody but the scan to find them.

Meanwhile sagas start beside it: some are published by whoever starts them, some are left to the same scan, behind or before the others.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg
import nats
from nats.js.api import StreamConfig

from saga_choreo import Agent
from saga_choreo_postgres.statements import UNANNOUNCED
from tests.benchmarks.choreography import OrderHeld
from tests.benchmarks.copies import copies
from tests.benchmarks.memory import resident_bytes
from tests.benchmarks.services import agents
from tests.benchmarks.stage import Stage

__all__ = ["cold"]

_SETTLE_S, _LOOK_S, _COUNT_EVERY = 3.0, 0.5, 8
_CLAIM, _BARE_PAGES = 256, 12
_FAR_MS = 1 << 50
# Sagas that start meanwhile are among what is counted.
_NEARLY_NONE = 16
_ANNOUNCED = "SELECT saga_id FROM saga_record WHERE service = 'order' AND saga_id = ANY($1::uuid[]) AND announced >= version"


async def cold(stage: Stage, url: str, count: int) -> dict[str, Any]:
    mine = agents(stage.nats.url, url)
    async with mine["inventory"].serving(), mine["order"].serving():
        handle = await mine["order"].start_saga(OrderHeld(order="x" * 1000))
        await asyncio.sleep(_SETTLE_S)
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE saga_record SET announced = 0, due_ms = NULL WHERE step = -1")
    await connection.execute("DELETE FROM saga_record WHERE step <> -1")
    await copies(connection, handle.saga_id, count)
    watch = _Watch(connection, count)
    before = await _bare_messages_per_s(stage.nats.url)
    resident = resident_bytes()
    async with mine["order"].serving():
        await watch.until_empty(mine["order"])
    await connection.close()
    return {
        "rows": count,
        "rows_per_s": round(count / watch.seconds),
        "bare_messages_per_s": {"before": before, "after": await _bare_messages_per_s(stage.nats.url)},
        **_thirds("rows_per_s", watch.rates, 0),
        **_thirds("claim_ms", watch.claims_ms, 2),
        "start_to_published_ms_max": round(max(watch.published_ms), 1),
        "start_to_found_s_p50": round(median(watch.found_s), 2),
        "start_to_found_s_max": round(max(watch.found_s), 2),
        "resident_mib": round(resident / 2**20, 1),
        "resident_mib_max": round(watch.resident / 2**20, 1),
    }


async def _bare_messages_per_s(url: str) -> int:
    """What the server takes from a bare client, in pages of the same size: with every message synced to the disk, the relay's limit."""
    client = await nats.connect(url)
    stream = client.jetstream(publish_async_max_pending=_CLAIM)
    name = f"bare{time.time_ns()}"
    await stream.add_stream(StreamConfig(name=name, subjects=[name]))
    began = time.perf_counter()
    for _ in range(_BARE_PAGES):
        await asyncio.gather(*[await stream.publish_async(name, bytes(1300)) for _ in range(_CLAIM)])
    seconds = time.perf_counter() - began
    await stream.delete_stream(name)
    await client.close()
    return round(_BARE_PAGES * _CLAIM / seconds)


class _Watch:
    """Looks twice a second at how far the relay is, and starts two sagas each time."""

    def __init__(self, connection: Any, count: int) -> None:
        self._connection = connection
        self._left = count
        self._waiting: dict[UUID, float] = {}
        self.seconds = 0.0
        self.resident = 0
        self.rates: list[float] = []
        self.claims_ms: list[float] = []
        self.published_ms: list[float] = []
        self.found_s: list[float] = []

    async def until_empty(self, order: Agent) -> None:
        began = counted = time.perf_counter()
        looks = 0
        while self._left > _NEARLY_NONE:
            await asyncio.sleep(_LOOK_S)
            looks += 1
            self.claims_ms.append(await self._claim_ms())
            await self._start_two(order)
            self.resident = max(self.resident, resident_bytes())
            if looks % _COUNT_EVERY == 0:
                left = await self._connection.fetchval("SELECT count(*) FROM saga_record WHERE announced < version")
                now = time.perf_counter()
                self.rates.append((self._left - left) / (now - counted))
                self._left, counted = left, now
        self.seconds = counted - began
        await asyncio.sleep(_SETTLE_S)
        await self._find()

    async def _claim_ms(self) -> float:
        """What the relay's own statement takes at this moment."""
        asked = time.perf_counter()
        await self._connection.fetch(UNANNOUNCED, "order", _FAR_MS, _FAR_MS, _CLAIM, 0)
        return 1000 * (time.perf_counter() - asked)

    async def _start_two(self, order: Agent) -> None:
        asked = time.perf_counter()
        await (await order.start_saga(OrderHeld(order="published"))).published()
        self.published_ms.append(1000 * (time.perf_counter() - asked))
        async with self._connection.transaction():
            left = await order.start_saga(OrderHeld(order="left to the scan"), tx=self._connection)
        self._waiting[left.saga_id] = time.perf_counter()
        await self._find()

    async def _find(self) -> None:
        now = time.perf_counter()
        for row in await self._connection.fetch(_ANNOUNCED, list(self._waiting)):
            self.found_s.append(now - self._waiting.pop(UUID(bytes=row[0].bytes)))


def _thirds(name: str, values: list[float], digits: int) -> dict[str, float]:
    third = max(1, len(values) // 3)
    return {
        f"{name}_first_third": round(median(values[:third]), digits),
        f"{name}_last_third": round(median(values[-third:]), digits),
    }
