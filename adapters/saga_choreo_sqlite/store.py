"""The SQLite store: all the ports in one object, in the user's own database file.

One connection writes, one reads. Statements run in line, since they take microseconds; COMMIT waits for the disk in a
thread. Several processes may share the file: agents, CLI, a web process that starts sagas.
"""

from __future__ import annotations

import os
from typing import Any

import apsw

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Clock, StoreFeatures, Transaction
from saga_choreo_sqlite import schema
from saga_choreo_sqlite.clock import MachineClock
from saga_choreo_sqlite.connect import Guard, open_reader, open_writer, require_safe_library
from saga_choreo_sqlite.faults import WriterHeldTooLong, translated
from saga_choreo_sqlite.joined import JoinedTransaction, joinable
from saga_choreo_sqlite.letters import SqliteLetters
from saga_choreo_sqlite.place import DURABILITIES, place_of
from saga_choreo_sqlite.reader import SqliteReader
from saga_choreo_sqlite.reads import Reads
from saga_choreo_sqlite.scans import SqliteScans
from saga_choreo_sqlite.transaction import SqliteTransaction
from saga_choreo_sqlite.upkeep import SqliteUpkeep, looked_at
from saga_choreo_sqlite.writer import Patience, Writer

__all__ = ["SqliteStore", "WriterHeldTooLong"]

# Longer than any healthy transaction holds the lock (WRITER_HOLD_MAX_S), several processes in a row included.
BUSY_WAIT_S = 10.0
# Only one transaction writes at a time, so a step that waits for something else would stop every other.
WRITER_HOLD_MAX_S = 1.0


class SqliteStore(SqliteScans, SqliteReader, SqliteUpkeep, SqliteLetters):
    """`durability`: 'full' (a commit is on the disk) or 'relaxed' (a power cut may lose the last commits); also as URL option.

    `busy_wait_s` bounds every wait for the write lock (then StoreConflict). A transaction that held the writer longer than
    `writer_hold_max_s` is rolled back at its next use or its commit (WriterHeldTooLong). `inline` runs commits in line too,
    in no thread: for deterministic simulation. A database in memory is private to this object and always runs in line.
    """

    def __init__(
        self,
        url: str,
        *,
        durability: str = "full",
        clock: Clock | None = None,
        inline: bool = False,
        busy_wait_s: float = BUSY_WAIT_S,
        writer_hold_max_s: float = WRITER_HOLD_MAX_S,
    ) -> None:
        place = place_of(url)
        self._durability = place.durability or durability
        if self._durability not in DURABILITIES:
            raise ConfigurationError(f"unknown durability {durability!r} for {url!r}; choose one of {', '.join(DURABILITIES)}")
        self._path = place.path
        self._in_memory = place.in_memory
        self._clock: Clock = clock or MachineClock()
        self._hold_max_s = writer_hold_max_s
        self._busy_wait_s = busy_wait_s
        self._guard = Guard()
        full = self._durability == "full" and not self._in_memory
        self._writer = Writer(
            self._path, self._clock, self._guard, inline=inline or self._in_memory, full=full, busy_wait_s=busy_wait_s
        )
        self._reads = Reads(self._path, self._clock, self._writer, busy_wait_s=busy_wait_s)
        self._features = StoreFeatures(name="sqlite", writers=1, durable=full, shared=not self._in_memory, letters=True)
        self._incarnation = ""

    @property
    def features(self) -> StoreFeatures:
        return self._features

    @property
    def incarnation(self) -> str:
        """A random name this database got when its saga tables were made. Another one means: another database."""
        return self._incarnation

    async def open(self, *, migrate: bool = True) -> None:
        """Raises ConfigurationError (no such file, not a database, SQLite too old), DurabilityRefused, StoreVersionError."""
        if self._incarnation:
            return
        require_safe_library(self._path)
        try:
            await self._connect(create=migrate)
            await self._check(migrate=migrate)
            if not self._in_memory:
                self._reads.start(open_reader(self._path))
            else:
                self._reads.start(None)
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
            await self.close()
            raise ConfigurationError(
                f"cannot open the SQLite file {self._path!r} for writing ({error}); "
                "check that it and its folder exist and may be written"
            ) from error
        except apsw.Error as error:
            await self.close()
            raise translated(error, self._path, "opening the store") from error
        except BaseException:
            await self.close()
            raise

    def transaction(self) -> SqliteTransactionBlock:
        return SqliteTransactionBlock(SqliteTransaction(self._writer, self._clock, self._hold_max_s))

    def join(self, connection: Any) -> Transaction:
        """The caller's own `Connection` on this same file, with an open transaction."""
        return JoinedTransaction(joinable(connection, self._path, self._durability), self._writer, self._clock)

    def crash(self) -> None:
        """For simulations (`inline`): what a killed process leaves. What is not committed vanishes, the locks are free."""
        self._incarnation = ""
        self._writer.crash()
        self._reads.close()

    async def close(self) -> None:
        self._incarnation = ""
        self._reads.close()
        await self._writer.close()

    async def _connect(self, *, create: bool) -> None:
        path, durability, guard = self._path, self._durability, self._guard
        patience = Patience(self._clock, self._busy_wait_s)
        while True:
            try:
                connection = await self._writer.off_loop(lambda: open_writer(path, durability, guard, create=create))
                break
            except (apsw.BusyError, apsw.LockedError) as error:
                # Another process is just putting the file in WAL mode.
                await patience.wait(translated(error, path, "opening the store"))
        again = (lambda: connection) if self._in_memory else (lambda: open_writer(path, durability, guard, create=False))
        self._writer.start(connection, again)

    async def _check(self, *, migrate: bool) -> None:
        async with self._writer.quiet() as connection:
            found, oldest, _ = looked_at(connection)
        schema.check_version(found, self._path, exact=not migrate, oldest=oldest)
        if found < schema.SCHEMA_VERSION:
            new = self._clock.entropy(16).hex()
            await self._writer.run(lambda c: schema.migrate(c, self._path, new))
        async with self._writer.quiet() as connection:
            row = connection.execute("SELECT value FROM saga_meta WHERE name = 'incarnation'").fetchone()
        self._incarnation = str(row[0]) if row else "unnamed"

    def __repr__(self) -> str:
        return f"SqliteStore({os.fspath(self._path)!r}, durability={self._durability!r})"


class SqliteTransactionBlock:
    """`async with store.transaction() as transaction`: rolled back unless committed when the block is left."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: SqliteTransaction) -> None:
        self._transaction = transaction

    async def __aenter__(self) -> SqliteTransaction:
        return self._transaction

    async def __aexit__(self, *left: object) -> None:
        self._transaction.close()
