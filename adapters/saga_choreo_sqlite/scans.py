"""What relay, timers and retention look for: bounded scans over partial indexes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from saga_choreo.ports import AnnouncedMark, Held, Record, RecordKey, from_columns
from saga_choreo_sqlite import statements as sql
from saga_choreo_sqlite.driver import Connection
from saga_choreo_sqlite.reads import Reads
from saga_choreo_sqlite.work import held_of
from saga_choreo_sqlite.writer import Writer

__all__ = ["SqliteScans"]


class SqliteScans:
    _reads: Reads
    _writer: Writer

    async def due(self, service: str, now_ms: int, limit: int, *, newest: bool = False) -> Sequence[RecordKey]:
        rows = await self._reads.run(lambda c: _rows(c, sql.DUE_NEWEST if newest else sql.DUE, service, now_ms, limit))
        return [RecordKey(UUID(bytes=saga_id), definition, step) for saga_id, definition, step in rows]

    async def next_due_ms(self, service: str) -> int | None:
        rows = await self._reads.run(lambda c: _rows(c, sql.NEXT_DUE, service))
        return rows[0][0] if rows else None

    async def unannounced(
        self, service: str, before_ms: int, start_before_ms: int, limit: int, skip: int = 0, *, newest: bool = False
    ) -> Sequence[Record]:
        statement = sql.UNANNOUNCED_NEWEST if newest else sql.UNANNOUNCED
        rows = await self._reads.run(lambda c: _rows(c, statement, service, before_ms, start_before_ms, limit, skip))
        return [from_columns(row) for row in rows]

    async def mark_announced(self, service: str, marks: Sequence[AnnouncedMark]) -> None:
        """Not synced to the disk by itself: a mark that a power cut loses means one more announcement, no more."""
        if not marks:
            return
        values = [(service, m.key.saga_id.bytes, m.key.definition, m.key.step, m.version) for m in marks]
        await self._writer.run(lambda c: _run_many(c, sql.MARK, values), durable=False)

    async def held(self, service: str, definitions: Sequence[str], limit: int) -> Sequence[Held]:
        wanted = orjson.dumps(list(definitions)).decode()
        rows = await self._reads.run(lambda c: _rows(c, sql.HELD, service, wanted, limit))
        return [held_of(row) for row in rows]

    async def untold(self, service: str, before_ms: int, limit: int) -> Sequence[Held]:
        rows = await self._reads.run(lambda c: _rows(c, sql.UNTOLD, service, before_ms, limit))
        return [held_of(row) for row in rows]

    async def mark_told(self, service: str, numbers: Sequence[int]) -> None:
        """Not synced to the disk by itself: a mark that a power cut loses means one more copy, no more."""
        values = [(service, number) for number in numbers]
        if values:
            await self._writer.run(lambda c: _run_many(c, sql.MARK_TOLD, values), durable=False)

    async def forget(self, service: str, before: UUID, limit: int) -> int:
        """Counts every row it deletes, at most `limit`. Quarantined messages, and held ones that were told, go by the time
        they were received; a business key goes once no record of its saga is left."""
        started_ms = before.int >> 80  # a UUIDv7 begins with its Unix time in milliseconds

        def work(connection: Connection) -> int:
            gone = 0
            for statement, bound in (
                (sql.FORGET_RECORDS, before.bytes),
                (sql.FORGET_KEYS, before.bytes),
                (sql.FORGET_QUARANTINED, started_ms),
                (sql.FORGET_HELD, started_ms),
                (sql.FORGET_ITEMS, started_ms),
                (sql.FORGET_JOBS, started_ms),
            ):
                if gone < limit:
                    connection.execute(statement, (service, bound, limit - gone))
                    gone += connection.changes()
            return gone

        return await self._writer.run(work, durable=False)


def _rows(connection: Connection, statement: str, *parameters: Any) -> list[Any]:
    return list(connection.execute(statement, parameters))


def _run_many(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    connection.executemany(statement, rows)
