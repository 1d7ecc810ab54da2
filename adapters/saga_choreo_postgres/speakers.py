"""What the adapter says to a connection, whatever driver it belongs to: three verbs, parameters written `$1`.

The hot path speaks asyncpg. A caller's own connection may be asyncpg's or psycopg's; a SQLAlchemy session is one of these two below.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from asyncpg import InterfaceError

from saga_choreo_postgres.faults import DRIVER_ERRORS

if TYPE_CHECKING:
    import asyncpg
    import psycopg

__all__ = ["AsyncpgSpeaker", "PsycopgSpeaker", "Speaker"]

# Longer than any statement of the toolkit takes, lock time-out included: a server that went silent is noticed.
OWN_TIMEOUT_S = 60.0


class Speaker(Protocol):
    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the driver raises."""
        ...

    @property
    def lost(self) -> bool:
        """The connection is gone."""
        ...

    @property
    def in_transaction(self) -> bool: ...
    @property
    def failed(self) -> bool:
        """A statement has failed in the transaction, so that COMMIT would roll it back without an error; asyncpg does not say so."""
        ...

    @property
    def backend(self) -> int:
        """The server's process of this connection."""
        ...

    def fetch(self, statement: str, *parameters: Any, timeout_s: float | None = OWN_TIMEOUT_S) -> Coroutine[Any, Any, list[Any]]:
        """Run one prepared statement; rows can be indexed."""
        ...

    def fetch_each(self, statement: str, rows: Sequence[Sequence[Any]]) -> Coroutine[Any, Any, list[Any]]:
        """Run it once for each of the rows, in one round trip; all answers together."""
        ...

    async def each(self, statement: str, rows: Sequence[Sequence[Any]], *, timeout_s: float | None = OWN_TIMEOUT_S) -> None:
        """The same, for statements that answer nothing."""
        ...

    async def say(self, script: str) -> None:
        """Run one or more statements without parameters, in one round trip."""
        ...


class AsyncpgSpeaker:
    __slots__ = ("_connection",)
    errors = DRIVER_ERRORS
    failed = False

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    @property
    def lost(self) -> bool:
        try:
            return self._connection.is_closed()
        except InterfaceError:  # asyncpg's pool has taken it back, as it does once it is broken
            return True

    @property
    def in_transaction(self) -> bool:
        try:
            return self._connection.is_in_transaction()
        except InterfaceError:
            return False

    @property
    def backend(self) -> int:
        return self._connection.get_server_pid()

    # Not a coroutine around the driver's: with each one more a statement of a step has to go through one more when it waits.
    def fetch(self, statement: str, *parameters: Any, timeout_s: float | None = OWN_TIMEOUT_S) -> Coroutine[Any, Any, list[Any]]:
        return self._connection.fetch(statement, *parameters, timeout=timeout_s)

    def fetch_each(self, statement: str, rows: Sequence[Sequence[Any]]) -> Coroutine[Any, Any, list[Any]]:
        return self._connection.fetchmany(statement, rows, timeout=OWN_TIMEOUT_S)

    async def each(self, statement: str, rows: Sequence[Sequence[Any]], *, timeout_s: float | None = OWN_TIMEOUT_S) -> None:
        await self._connection.executemany(statement, rows, timeout=timeout_s)

    async def say(self, script: str) -> None:
        await self._connection.execute(script, timeout=OWN_TIMEOUT_S)


class PsycopgSpeaker:
    """psycopg's raw cursors take the server's own `$1`, so the statements are the same ones."""

    __slots__ = ("_connection", "_cursor", "_failed", "_idle", "errors")

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        import psycopg  # optional client: only who passes such a connection has it
        from psycopg.rows import tuple_row

        self._connection = connection
        self._cursor = psycopg.AsyncRawCursor(connection, row_factory=tuple_row)
        self._idle, self._failed = psycopg.pq.TransactionStatus.IDLE, psycopg.pq.TransactionStatus.INERROR
        self.errors: tuple[type[Exception], ...] = (psycopg.Error, OSError)

    @property
    def lost(self) -> bool:
        return self._connection.closed

    @property
    def in_transaction(self) -> bool:
        return self._connection.info.transaction_status != self._idle

    @property
    def failed(self) -> bool:
        return self._connection.info.transaction_status == self._failed

    @property
    def backend(self) -> int:
        return self._connection.info.backend_pid

    async def fetch(self, statement: str, *parameters: Any, timeout_s: float | None = OWN_TIMEOUT_S) -> list[Any]:
        _ = timeout_s  # the caller's connection has the caller's own limits
        cursor = await self._cursor.execute(statement.encode(), parameters)
        return await cursor.fetchall() if cursor.description is not None else []

    async def fetch_each(self, statement: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
        return [answer for row in rows for answer in await self.fetch(statement, *row)]

    async def each(self, statement: str, rows: Sequence[Sequence[Any]], *, timeout_s: float | None = OWN_TIMEOUT_S) -> None:
        _ = timeout_s
        await self._cursor.executemany(statement.encode(), rows)

    async def say(self, script: str) -> None:
        await self._cursor.execute(script.encode())
