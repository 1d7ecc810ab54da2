"""What relay, timers and retention look for: bounded scans over partial indexes."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from saga_choreo.ports import AnnouncedMark, Held, Record, RecordKey, from_columns
from saga_choreo_postgres import statements as sql
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
        await self._runs.write(lambda speaker: speaker.each(sql.MARK, values), durable=False)

    async def held(self, service: str, definitions: Sequence[str], limit: int) -> Sequence[Held]:
        asked = [(service, definition, limit) for definition in definitions]
        found = [held_of(row) for row in await self._runs.read_each(sql.HELD, asked)] if asked else []
        return sorted(found, key=lambda held: held.number)[:limit]

    async def untold(self, service: str, before_ms: int, limit: int) -> Sequence[Held]:
        return [held_of(row) for row in await self._runs.read(sql.UNTOLD, service, before_ms, limit)]

    async def mark_told(self, service: str, numbers: Sequence[int]) -> None:
        """Not synced to the disk by itself: a mark that a crash loses means one more copy, no more."""
        if numbers:
            await self._runs.write(lambda speaker: speaker.fetch(sql.MARK_TOLD, service, list(numbers)), durable=False)

    async def forget(self, service: str, before: UUID, limit: int) -> int:
        """Counts every row it deletes, at most `limit`. Quarantined messages, and held ones that were told, go by the time
        they were received; a business key goes once no record of its saga is left."""
        started_ms = before.int >> 80  # a UUIDv7 begins with its Unix time in milliseconds

        async def work(speaker: Speaker) -> int:
            gone = 0
            by_saga = ((sql.FORGET_RECORDS, before), (sql.FORGET_KEYS, before))
            by_time = (sql.FORGET_QUARANTINED, sql.FORGET_HELD, sql.FORGET_ITEMS, sql.FORGET_JOBS)
            for statement, bound in (*by_saga, *((statement, started_ms) for statement in by_time)):
                if gone < limit:
                    gone += len(await speaker.fetch(statement, service, bound, limit - gone))
            return gone

        return await self._runs.write(work, durable=False)
