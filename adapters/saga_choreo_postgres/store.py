"""The PostgreSQL store: all the ports in one object, in the user's own database, over asyncpg.

Round trips of a transaction: BEGIN, claim, one savepoint per step that writes, the step's own statements, save, COMMIT. Several agents
of several services may share a database, a schema too: every row names its service.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractAsyncContextManager
from typing import Any

from saga_choreo.errors import ConfigurationError, DurabilityRefused, StoreConflict, StoreUnavailable
from saga_choreo.ports import StoreFeatures, Transaction
from saga_choreo_postgres import schema
from saga_choreo_postgres.joined import joined
from saga_choreo_postgres.letters import PostgresLetters
from saga_choreo_postgres.place import place_of
from saga_choreo_postgres.pool import Pool
from saga_choreo_postgres.reader import PostgresReader
from saga_choreo_postgres.retention import PostgresRetention
from saga_choreo_postgres.runs import Runs
from saga_choreo_postgres.scans import PostgresScans
from saga_choreo_postgres.through import Factory, StepTransaction
from saga_choreo_postgres.transaction import PostgresTransaction
from saga_choreo_postgres.upkeep import PostgresUpkeep, settings_of, unsafe_of, versions

__all__ = ["PostgresStore"]

# Batches that an agent runs beside each other: while one waits for its fsync, others work.
_WRITERS = 4
_SERVER_MIN = 130_000
_MIGRATE_TRIES, _MIGRATE_PAUSE_S = 5, 0.5


class PostgresStore(PostgresScans, PostgresRetention, PostgresReader, PostgresUpkeep, PostgresLetters):
    """`?durability=relaxed` accepts a server whose commits a crash may undo; `?pool_max=` bounds the connections of this object;
    `?search_path=` names the schema of the tables. `tx` makes the connection or session that a step's transaction is on."""

    def __init__(self, url: str, *, tx: Factory | None = None) -> None:
        self._tx = tx
        self._place = place_of(url)
        self._pool = Pool(self._place)
        self._runs = Runs(self._pool)
        full = self._place.durability == "full"
        writers = min(_WRITERS, self._place.pool_max - 1)
        self._features = StoreFeatures(name="postgresql", writers=writers, durable=full, placeholder="$1", letters=True)
        self._incarnation = ""
        self._server: dict[str, str] = {}
        self._needed, self._told = {}, set()

    @property
    def features(self) -> StoreFeatures:
        return self._features

    @property
    def incarnation(self) -> str:
        """A random name this database got when its saga tables were made. Another one means: another database."""
        return self._incarnation

    @property
    def server(self) -> dict[str, str]:
        """`system_identifier` and `timeline` of the server as it was opened, where this user may see them."""
        return dict(self._server)

    async def open(self, *, migrate: bool = True) -> None:
        """Raises ConfigurationError, DurabilityRefused, StoreVersionError, StoreUnavailable."""
        if self._incarnation:
            return
        await self._pool.open()
        try:
            await self._check_server()
            await self._check_schema(migrate=migrate)
        except BaseException:
            await self.close()
            raise

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        if self._tx is not None:
            return StepTransaction(self._tx, self._pool, self._incarnation, durable=self._features.durable)
        return PostgresTransactionBlock(PostgresTransaction(self._pool))

    def join(self, connection: Any) -> Transaction:
        """The caller's own open transaction: of asyncpg, of psycopg 3 (async), or of a SQLAlchemy 2 AsyncSession or AsyncConnection
        over one of these two."""
        return joined(connection, self._pool, self._incarnation, durable=self._features.durable)

    async def close(self) -> None:
        self._incarnation = ""
        await self._pool.close()

    async def _check_server(self) -> None:
        where = self._place.shown
        found = await settings_of(self._runs, "server_version_num", "server_encoding", "transaction_read_only")
        if int(found["server_version_num"]) < _SERVER_MIN:
            raise ConfigurationError(f"PostgreSQL at {where!r} is too old ({found['server_version_num']}); 13 or newer is needed")
        if found["server_encoding"] != "UTF8":
            raise ConfigurationError(f"the database at {where!r} has encoding {found['server_encoding']!r}; make one with UTF8")
        if found["transaction_read_only"] == "on":
            raise StoreUnavailable(f"PostgreSQL at {where!r} takes reads only (a standby, or default_transaction_read_only is on)")
        unsafe = unsafe_of(found)
        if unsafe and self._features.durable:
            raise DurabilityRefused(
                f"PostgreSQL at {where!r} runs with {unsafe}: a crash could undo what it has confirmed; switch these settings on, "
                "or write ?durability=relaxed in the store's URL where that does not matter"
            )

    async def _check_schema(self, *, migrate: bool) -> None:
        found, oldest = await self._runs.write(versions)
        schema.check_version(found, self._place.shown, exact=not migrate, oldest=oldest)
        if found < schema.SCHEMA_VERSION:
            new = os.urandom(16).hex()
            await self._migrate(new)
        if migrate:
            await self.make_days()
        rows = await self._runs.read("SELECT value FROM saga_meta WHERE name = 'incarnation'")
        self._incarnation = str(rows[0][0]) if rows else "unnamed"
        self._server = await self._runs.write(schema.identity)

    async def _migrate(self, incarnation: str) -> None:
        """Agents of the release before may be at work, and a migration does not wait long for them."""
        for left in range(_MIGRATE_TRIES - 1, -1, -1):
            try:
                await self._runs.session("migrating", lambda speaker: schema.migrate(speaker, self._place.shown, incarnation))
            except StoreConflict:
                if not left:
                    raise
                await asyncio.sleep(_MIGRATE_PAUSE_S)
            else:
                return

    def __repr__(self) -> str:
        return f"PostgresStore({self._place.shown!r}, durability={self._place.durability!r})"


class PostgresTransactionBlock:
    """`async with store.transaction() as transaction`: rolled back unless committed when the block is left."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: PostgresTransaction) -> None:
        self._transaction = transaction

    async def __aenter__(self) -> PostgresTransaction:
        return self._transaction

    async def __aexit__(self, *left: object) -> None:
        await self._transaction.close()
