"""Opening connections as the toolkit needs them, and the guard that keeps a user's statements inside their transaction."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import cast

import apsw

from saga_choreo.errors import ConfigurationError, DurabilityRefused
from saga_choreo_sqlite.driver import Connection

__all__ = ["SAFE_LIBRARY", "Guard", "open_reader", "open_writer", "require_safe_library", "set_durability"]

# The first release without the bug that can damage a WAL file which several connections write and check-point.
SAFE_LIBRARY = (3, 51, 3)
_FULL, _NORMAL = 2, 1
# A WAL that has grown under a long reader is cut back to this when it is next reset.
_WAL_BYTES_MAX = 64 * 1024 * 1024
_STATEMENTS_CACHED = 256
_SETTINGS = frozenset({"journal_mode", "synchronous", "locking_mode", "writable_schema", "query_only"})


class Guard:
    """Refuses what would end, nest or weaken the transaction a step's record is written in, unless this adapter says it.

    SQLite asks when it prepares a statement, so a statement that is used again costs nothing.
    """

    __slots__ = ("_ours",)

    def __init__(self) -> None:
        self._ours = 0

    @contextlib.contextmanager
    def ours(self) -> Generator[None, None, None]:
        self._ours += 1
        try:
            yield
        finally:
            self._ours -= 1

    def __call__(self, action: int, first: str | None, second: str | None, _database: str | None, _source: str | None) -> int:
        if self._ours:
            return apsw.SQLITE_OK
        if action in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT):
            return apsw.SQLITE_DENY
        if action == apsw.SQLITE_PRAGMA and second is not None and (first or "").lower() in _SETTINGS:
            return apsw.SQLITE_DENY
        return apsw.SQLITE_OK


def require_safe_library(path: str) -> None:
    """Raises ConfigurationError when the SQLite linked into apsw may damage a file that several connections write."""
    linked = tuple(int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    if linked < SAFE_LIBRARY:
        wanted = ".".join(map(str, SAFE_LIBRARY))
        raise ConfigurationError(
            f"apsw here uses SQLite {apsw.sqlite_lib_version()}, which can damage the WAL of a file that several connections "
            f"write, as with {path!r}; it was mended in {wanted}: run pip install --upgrade 'apsw>={wanted}'"
        )


def open_writer(path: str, durability: str, guard: Guard, *, create: bool) -> Connection:
    """A connection that writes. Raises apsw.Error, DurabilityRefused."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    connection = cast(Connection, apsw.Connection(path, flags=flags, statementcachesize=_STATEMENTS_CACHED))
    try:
        connection.set_busy_timeout(0)
        if path != ":memory:":
            _use_wal(connection, path)
            set_durability(connection, path, durability)
        connection.authorizer = guard
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: str) -> Connection:
    """A connection that cannot write, so that no read ever waits for, or takes, the write lock."""
    connection = cast(Connection, apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=_STATEMENTS_CACHED))
    connection.set_busy_timeout(0)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _use_wal(connection: Connection, path: str) -> None:
    mode = connection.pragma("journal_mode")
    if mode != "wal":
        mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise DurabilityRefused(
            f"the SQLite file {path!r} stays in journal mode {mode!r} instead of 'wal'; "
            "put it on a local file system that supports shared memory, or remove what forbids WAL"
        )
    connection.pragma("journal_size_limit", _WAL_BYTES_MAX)


def set_durability(connection: Connection, path: str, durability: str) -> None:
    """Full: a commit is on the disk when it returns. Relaxed: a power cut may lose the last commits, never damage the file."""
    wanted = _FULL if durability == "full" else _NORMAL
    connection.pragma("synchronous", wanted)
    if sys.platform == "darwin" and wanted == _FULL:
        connection.pragma("fullfsync", 1)
        connection.pragma("checkpoint_fullfsync", 1)
    found = connection.pragma("synchronous")
    if found != wanted:
        raise DurabilityRefused(
            f"the SQLite file {path!r} runs with synchronous={found!r} although {wanted} was set; "
            "a commit would not be safe there: use another build of SQLite or another file system"
        )
