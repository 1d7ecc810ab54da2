"""What an SQLite file tells of itself: version, durability, where its history is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import apsw

from saga_choreo.ports import ORIGIN, BusinessKey, Epoch, SagaLock, StoreState
from saga_choreo_sqlite import schema
from saga_choreo_sqlite.connect import open_reader
from saga_choreo_sqlite.driver import Connection
from saga_choreo_sqlite.faults import translated
from saga_choreo_sqlite.reads import Reads
from saga_choreo_sqlite.writer import Writer

__all__ = ["SqliteUpkeep", "looked_at"]

_KEYS = "SELECT service, choreography, key, saga_id, digest FROM saga_business_key WHERE saga_id < ? ORDER BY saga_id DESC LIMIT ?"
_LOCKS = "SELECT service, name, saga_id FROM saga_lock ORDER BY service, name LIMIT ?"
_META = "SELECT value FROM saga_meta WHERE name = ?"
_PUT_META = "INSERT INTO saga_meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_LOAD = (
    "SELECT (SELECT count(*) FROM (SELECT 1 FROM saga_record WHERE service = ?1 AND due_ms IS NOT NULL "
    "AND step = ?4 LIMIT ?2)), "
    "(SELECT count(*) FROM (SELECT 1 FROM saga_record WHERE service = ?1 AND announced < version LIMIT ?3))"
)
_AFTER_ALL = b"\xff" * 17


class SqliteUpkeep:
    _reads: Reads
    _writer: Writer
    _path: str
    _durability: str

    async def inspect(self) -> StoreState:
        """A file that is not there has version 0."""
        settings = {"synchronous": "full" if self._durability == "full" else "normal", "journal_mode": "wal"}
        unsafe = {} if self._durability == "full" else {"synchronous": "normal"}
        version, oldest, identity = 0, 0, ""
        if self._path != ":memory:" and Path(self._path).exists():  # noqa: ASYNC240  (a look at a local file)
            version, oldest, identity, settings["journal_mode"] = self._look()
        pending = tuple(f"{number:03}" for number in range(version + 1, schema.SCHEMA_VERSION + 1))
        return StoreState(
            name="sqlite",
            version=version,
            wanted=schema.SCHEMA_VERSION,
            oldest=schema.OLDEST_VERSION,
            works=version == schema.SCHEMA_VERSION or (version > schema.SCHEMA_VERSION >= oldest > 0),
            pending=pending,
            settings=settings,
            unsafe=unsafe,
            identity=identity,
        )

    def _look(self) -> tuple[int, int, str, str]:
        try:
            connection = open_reader(self._path)
            try:
                return *looked_at(connection), str(connection.pragma("journal_mode"))
            finally:
                connection.close()
        except apsw.Error as error:
            raise translated(error, self._path, "looking at the store") from error

    async def keys(self, before: UUID | None, limit: int) -> Sequence[BusinessKey]:
        rows = await self._reads.run(lambda c: list(c.execute(_KEYS, (_AFTER_ALL if before is None else before.bytes, limit))))
        return [
            BusinessKey(service=service, choreography=choreography, key=key, saga_id=UUID(bytes=saga_id), digest=digest)
            for service, choreography, key, saga_id, digest in rows
        ]

    async def locks(self, limit: int) -> Sequence[SagaLock]:
        rows = await self._reads.run(lambda c: list(c.execute(_LOCKS, (limit,))))
        return [SagaLock(service=service, name=name, saga_id=UUID(bytes=saga_id)) for service, name, saga_id in rows]

    async def epoch(self, service: str) -> Epoch:
        return await self._reads.run(lambda c: _epoch(c, service))

    async def advance(self, service: str, at_least: int = 0, note: str = "") -> Epoch:
        def work(connection: Connection) -> Epoch:
            position = max(_epoch(connection, service).position, at_least) + 1
            connection.execute(_PUT_META, (f"epoch:{service}", str(position)))
            if note:
                connection.execute(_PUT_META, (f"accepted:{service}", note))
            return _epoch(connection, service)

        return await self._writer.run(work)

    async def load(self, service: str, open_max: int, unannounced_max: int) -> tuple[int, int]:
        ((open_, unannounced),) = await self._reads.run(
            lambda c: list(c.execute(_LOAD, (service, open_max, unannounced_max, ORIGIN)))
        )
        return int(open_), int(unannounced)


def _meta(connection: Connection, name: str) -> str:
    row = connection.execute(_META, (name,)).fetchone()
    return str(row[0]) if row else ""


def _epoch(connection: Connection, service: str) -> Epoch:
    return Epoch(
        _meta(connection, "incarnation"), int(_meta(connection, f"epoch:{service}") or 0), _meta(connection, f"accepted:{service}")
    )


def looked_at(connection: Connection) -> tuple[int, int, str]:
    """The version of the tables, the oldest code that can work with them (0: not known), and the file's own name."""
    version = schema.stored_version(connection)
    if not version:
        return 0, 0, ""
    return version, int(_meta(connection, "oldest_version") or 0), _meta(connection, "incarnation")
