"""The caller's own open apsw transaction as a `Transaction`: everything is written in it, nothing is committed here.

Python's own `sqlite3` is refused on purpose. It is a second copy of the SQLite library in the process, and two copies
drop each other's file locks (POSIX locks belong to the process, not to the library), which can damage the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar, cast

import apsw

from saga_choreo.errors import ConfigurationError, DurabilityRefused, SagaError
from saga_choreo.ports import Clock
from saga_choreo_sqlite.driver import Connection
from saga_choreo_sqlite.transaction import SqliteTransaction
from saga_choreo_sqlite.writer import Writer

__all__ = ["JoinedTransaction", "joinable"]

T = TypeVar("T")
_FULL = 2
_CALL, _UNDO, _CALLED = "SAVEPOINT saga_choreo_call", "ROLLBACK TO saga_choreo_call", "RELEASE saga_choreo_call"


def joinable(connection: Any, path: str, durability: str) -> Connection:
    """The connection, if sagas can be written in its open transaction. Raises ConfigurationError, DurabilityRefused."""
    if isinstance(connection, sqlite3.Connection):
        raise ConfigurationError(
            "a connection of Python's sqlite3 module cannot be joined: it is a second copy of SQLite in this process, and two "
            "copies can damage a file they share; open the file with apsw.Connection(path) instead, in the whole process"
        )
    if not isinstance(connection, apsw.Connection):
        raise ConfigurationError(f"cannot join {type(connection).__name__!r}; pass an apsw.Connection with an open transaction")
    found = cast(Connection, connection)
    if not found.in_transaction:
        raise ConfigurationError(
            "the apsw connection has no open transaction; run 'BEGIN IMMEDIATE' on it first and commit it afterwards"
        )
    if path == ":memory:" or not found.filename or not os.path.samefile(found.filename, path):
        raise ConfigurationError(
            f"the apsw connection is open on {found.filename!r}, the store on {path!r}; both must be the same database file"
        )
    if durability == "full" and found.pragma("synchronous") < _FULL:
        raise DurabilityRefused(
            f"the apsw connection on {path!r} commits without waiting for the disk; run 'PRAGMA synchronous = FULL' on it, "
            "or open the store with durability='relaxed'"
        )
    return found


class JoinedTransaction(SqliteTransaction):
    """`commit` here only says that the toolkit's part is written; the caller commits. A conflict undoes the toolkit's own
    call, never the caller's work: roll back, and do it all again."""

    __slots__ = ("_joined",)

    def __init__(self, connection: Connection, writer: Writer, clock: Clock) -> None:
        super().__init__(writer, clock, hold_max_s=float("inf"))
        self._joined = connection
        self._begun(connection)

    async def commit(self) -> None:
        self._require_open()
        self.user_done()

    def user_done(self) -> None:
        if not self._joined.in_transaction:
            self._end(_ended_outside)
            raise _ended_outside()

    def _ours(self, task: Callable[[], T], doing: str) -> T:
        self.user_done()
        trace = self._joined.row_trace
        self._joined.row_trace = None  # the caller's rows may be anything, ours are tuples
        try:
            self._joined.execute(_CALL)
            try:
                answer = super()._ours(task, doing)
            except BaseException:
                if self._joined.in_transaction:
                    self._joined.execute(_UNDO)
                    self._joined.execute(_CALLED)
                raise
            self._joined.execute(_CALLED)
            return answer
        finally:
            self._joined.row_trace = trace

    def _roll_back(self) -> None:
        """The transaction is the caller's."""


def _ended_outside() -> SagaError:
    return SagaError("the joined apsw transaction was committed or rolled back by its owner; join the next one anew")
