"""Reads for people and tools. None of them takes the write lock, except `remember` when there is something new to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from saga_choreo.ports import ORIGIN, BusinessKey, OpenSagas, Quarantined, Record, SagaFilter, from_columns, oldest_open
from saga_choreo_sqlite import statements as sql
from saga_choreo_sqlite.driver import Connection
from saga_choreo_sqlite.reads import Reads
from saga_choreo_sqlite.work import quarantined_of
from saga_choreo_sqlite.writer import Writer

__all__ = ["SqliteReader"]

_AFTER_ALL = b"\xff" * 17


class SqliteReader:
    _reads: Reads
    _writer: Writer

    async def records(self, saga_id: UUID, service: str = "") -> Sequence[Record]:
        """By service, then in key order."""
        return await self._reads.run(lambda c: _records(c, saga_id.bytes, _services(c, service)))

    async def origins(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        found = await self._reads.run(lambda c: [record for saga in sagas for record in _records(c, saga.bytes, [service])])
        return [record for record in found if record.step == ORIGIN]

    async def sagas(self, wanted: SagaFilter) -> Sequence[Sequence[Record]]:
        return await self._reads.run(lambda c: _sagas(c, wanted))

    async def open_sagas(self, service: str, after: UUID | None, limit: int, *, resting: bool = False) -> OpenSagas:
        statement, above = sql.RESTING if resting else sql.OPEN, b"" if after is None else after.bytes
        return await self._reads.run(lambda c: _open(c, statement, service, above, limit))

    async def key(self, service: str, choreography: str, key: str) -> Sequence[BusinessKey]:
        """Newest saga first, at most 1000."""
        rows = await self._reads.run(lambda c: _rows(c, sql.KEYS, key, choreography, service))
        return [
            BusinessKey(service=owner, choreography=name, key=found, saga_id=UUID(bytes=saga_id), digest=digest)
            for owner, name, found, saga_id, digest in rows
        ]

    async def counters(self, service: str = "") -> Mapping[str, int]:
        return dict(await self._reads.run(lambda c: _rows(c, sql.COUNTERS, service)))

    async def quarantined(self, service: str = "", limit: int = 50) -> Sequence[Quarantined]:
        """Newest first."""
        return [quarantined_of(row) for row in await self._reads.run(lambda c: _rows(c, sql.QUARANTINED, service, limit))]

    async def definitions(self) -> Mapping[str, bytes]:
        return dict(await self._reads.run(lambda c: _rows(c, sql.DEFINITIONS)))

    async def remember(self, definition: str, canonical: bytes, holders: Sequence[str]) -> None:
        """What is known already costs a read only. Empty `canonical`: only the holders are kept."""
        known, held_by = await self._reads.run(lambda c: _known(c, definition))
        new = sorted(set(holders) - held_by)
        keep = bool(canonical) and not known
        if not new and not keep:
            return

        def work(connection: Connection) -> None:
            if keep:
                connection.execute(sql.ADD_DEFINITION, (definition, canonical))
            connection.executemany(sql.ADD_HOLDER, [(definition, holder) for holder in new])

        await self._writer.run(work)

    async def holders(self, definition: str) -> Sequence[str]:
        return [row[0] for row in await self._reads.run(lambda c: _rows(c, sql.HOLDERS, definition))]


def _rows(connection: Connection, statement: str, *parameters: Any) -> list[Any]:
    return list(connection.execute(statement, parameters))


def _services(connection: Connection, service: str) -> list[str]:
    return [service] if service else [row[0] for row in _rows(connection, sql.SERVICES)]


def _records(connection: Connection, saga_id: bytes, services: Sequence[str]) -> list[Record]:
    return [from_columns(row) for service in services for row in _rows(connection, sql.CLAIM, service, saga_id)]


def _sagas(connection: Connection, wanted: SagaFilter) -> list[list[Record]]:
    services = _services(connection, wanted.service)
    before = wanted.before.bytes if wanted.before is not None else _AFTER_ALL
    statement = sql.PARKED if wanted.parked else sql.SAGAS
    found: set[bytes] = set()
    for service in services:
        found.update(row[0] for row in _rows(connection, statement, service, before, wanted.choreography, wanted.limit))
    newest = sorted(found, reverse=True)[: wanted.limit]
    groups = [_records(connection, saga_id, services) for saga_id in newest]
    if not wanted.choreography:
        return groups
    return [[record for record in group if record.choreography == wanted.choreography] for group in groups]


def _open(connection: Connection, statement: str, service: str, above: bytes, limit: int) -> OpenSagas:
    services = _services(connection, service)
    listed = [
        [(UUID(bytes=saga_id), bool(wanted)) for saga_id, wanted in _rows(connection, statement, one, above, limit)]
        for one in services
    ]
    sagas, looked_to = oldest_open(listed, limit)
    return OpenSagas([_records(connection, saga_id.bytes, services) for saga_id in sagas], looked_to)


def _known(connection: Connection, definition: str) -> tuple[bool, set[str]]:
    known = connection.execute("SELECT 1 FROM saga_definition WHERE hash = ?", (definition,)).fetchone() is not None
    return known, {row[0] for row in _rows(connection, sql.HOLDERS, definition)}
