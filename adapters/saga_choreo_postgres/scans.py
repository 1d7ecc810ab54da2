"""What relay and timers look for: bounded scans over partial indexes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from uuid import UUID

from saga_choreo.ports import AnnouncedMark, Held, Record, RecordKey, from_columns
from saga_choreo_postgres import statements as sql
from saga_choreo_postgres.days import day_of, on_day
from saga_choreo_postgres.runs import Runs
from saga_choreo_postgres.speakers import Speaker
from saga_choreo_postgres.work import held_of

__all__ = ["PostgresScans"]


class PostgresScans:
    _runs: Runs

    async def due(self, service: str, now_ms: int, limit: int, *, newest: bool = False) -> Sequence[RecordKey]:
        rows = await self._runs.read(sql.DUE_NEWEST if newest else sql.DUE, service, now_ms, limit)
        return [RecordKey(UUID(bytes=saga_id.bytes), definition, step) for saga_id, definition, step in rows]

    async def next_due_ms(self, service: str) -> int | None:
        return (await self._runs.read(sql.NEXT_DUE, service))[0][0]  # type: ignore[no-any-return]  # a number or null

    async def unannounced(
        self, service: str, before_ms: int, start_before_ms: int, limit: int, skip: int = 0, *, newest: bool = False
    ) -> Sequence[Record]:
        statement = sql.UNANNOUNCED_NEWEST if newest else sql.UNANNOUNCED
        return [from_columns(row) for row in await self._runs.read(statement, service, before_ms, start_before_ms, limit, skip)]

    async def mark_announced(self, service: str, marks: Sequence[AnnouncedMark]) -> None:
        """Not synced to the disk by itself, and skips a row that is being worked on: a mark that is lost means one more
        announcement, no more."""
        if not marks:
            return
        values = sorted((service, m.key.saga_id, m.key.definition, m.key.step, m.version) for m in marks)

        async def work(speaker: Speaker) -> None:
            for day, some in groupby(values, key=lambda one: day_of(one[1])):
                await speaker.each(on_day(sql.MARK, day), list(some))

        await self._runs.write(work, durable=False)

    async def held(self, service: str, definitions: Sequence[str], limit: int) -> Sequence[Held]:
        asked = [(service, definition, limit) for definition in definitions]
        rows = await self._runs.asking(lambda speaker: speaker.fetch_each(sql.HELD, asked)) if asked else []
        found = map(held_of, rows)
        return sorted(found, key=lambda held: held.number)[:limit]

    async def untold(self, service: str, before_ms: int, limit: int) -> Sequence[Held]:
        return [held_of(row) for row in await self._runs.read(sql.UNTOLD, service, before_ms, limit)]

    async def mark_told(self, service: str, numbers: Sequence[int]) -> None:
        """Not synced to the disk by itself: a mark that a crash loses means one more copy, no more."""
        if numbers:
            await self._runs.write(lambda speaker: speaker.fetch(sql.MARK_TOLD, service, list(numbers)), durable=False)
