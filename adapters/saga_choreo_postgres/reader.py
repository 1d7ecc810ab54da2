"""Reads for people and tools: committed data only, no locks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from saga_choreo.ports import BusinessKey, OpenSagas, Quarantined, Record, SagaFilter, from_columns, oldest_open
from saga_choreo_postgres import statements as sql
from saga_choreo_postgres.days import day_of, on_day
from saga_choreo_postgres.runs import Runs
from saga_choreo_postgres.speakers import Speaker
from saga_choreo_postgres.work import by_day, quarantined_of

__all__ = ["PostgresReader"]

_BEFORE_ALL = UUID(int=0)


class PostgresReader:
    _runs: Runs

    async def records(self, saga_id: UUID, service: str = "") -> Sequence[Record]:
        """By service, then in key order."""
        statement = on_day(sql.RECORDS_OF if service else sql.RECORDS, day_of(saga_id))
        return [from_columns(row) for row in await self._runs.read(statement, service, saga_id)]

    async def origins(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        asked = [(service, saga) for saga in sorted(sagas)]
        rows = await self._runs.asking(lambda speaker: by_day(speaker, sql.ORIGIN_OF, asked)) if asked else []
        return [from_columns(row) for row in rows]

    async def sagas(self, wanted: SagaFilter) -> Sequence[Sequence[Record]]:
        statement = sql.PARKED if wanted.parked else sql.SAGAS
        rows = await self._runs.read(statement, wanted.service, wanted.before, wanted.choreography, wanted.limit)
        return [list(group) for _, group in groupby(map(from_columns, rows), key=lambda record: record.saga_id)]

    async def open_sagas(self, service: str, after: UUID | None, limit: int, *, resting: bool = False) -> OpenSagas:
        """What is saved or ends meanwhile may be in it or not."""
        statement, above = sql.RESTING if resting else sql.OPEN, after or _BEFORE_ALL

        async def look(speaker: Speaker) -> tuple[list[Any], UUID | None]:
            services = [service] if service else [row[0] for row in await speaker.fetch(sql.SERVICES, "")]
            listed = [await speaker.fetch(statement, one, above, limit) for one in services]
            sagas, looked_to = oldest_open([[(UUID(bytes=row[0].bytes), row[1]) for row in some] for some in listed], limit)
            asked = [(service, saga) for saga in sagas]
            return await by_day(speaker, sql.RECORDS_OF if service else sql.RECORDS, asked) if asked else [], looked_to

        rows, looked_to = await self._runs.asking(look)
        groups = groupby(map(from_columns, rows), key=lambda record: record.saga_id)
        return OpenSagas([list(group) for _, group in groups], looked_to)

    async def key(self, service: str, choreography: str, key: str) -> Sequence[BusinessKey]:
        """Newest saga first, at most 1000."""
        return [
            BusinessKey(service=owner, choreography=name, key=found, saga_id=UUID(bytes=saga_id.bytes), digest=digest)
            for owner, name, found, saga_id, digest in await self._runs.read(sql.KEYS, key, choreography, service)
        ]

    async def counters(self, service: str = "") -> Mapping[str, int]:
        return {row[0]: row[1] for row in await self._runs.read(sql.COUNTERS, service)}

    async def quarantined(self, service: str = "", limit: int = 50) -> Sequence[Quarantined]:
        """Newest first."""
        return [quarantined_of(row) for row in await self._runs.read(sql.QUARANTINED, service, limit)]

    async def definitions(self) -> Mapping[str, bytes]:
        return {row[0]: row[1] for row in await self._runs.read(sql.DEFINITIONS)}

    async def remember(self, definition: str, canonical: bytes, holders: Sequence[str]) -> None:
        """What is known already costs a read only. Empty `canonical`: only the holders are kept."""
        new = sorted(set(holders) - set(await self.holders(definition)))
        keep = bool(canonical) and definition not in await self.definitions()
        if not new and not keep:
            return

        async def work(speaker: Speaker) -> None:
            if keep:
                await speaker.fetch(sql.ADD_DEFINITION, definition, canonical)
            if new:
                await speaker.fetch(sql.ADD_HOLDERS, definition, new)

        await self._runs.write(work)

    async def holders(self, definition: str) -> Sequence[str]:
        return [row[0] for row in await self._runs.read(sql.HOLDERS, definition)]
