"""The user's side of a transaction: `ctx.tx`. Statements and rows are SQLite's own; only the transaction is ours."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import apsw

from saga_choreo.errors import ConfigurationError, SagaError
from saga_choreo_sqlite.driver import Connection

__all__ = ["SqliteUser", "UserSide"]

T = TypeVar("T")

_SHOWN = 60


class UserSide(Protocol):
    """What a transaction offers its user's side."""

    async def writing(self) -> Connection: ...
    def user_failed(self, error: apsw.Error) -> SagaError | None: ...
    def user_done(self) -> None: ...


class SqliteUser:
    """Rows are tuples. Errors of a statement itself are apsw's own and leave the transaction usable; a statement that would
    begin, end or nest a transaction raises ConfigurationError."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: UserSide) -> None:
        self._transaction = transaction

    async def execute(self, statement: str, *parameters: Any) -> None:
        await self._run(statement, lambda connection: deque(connection.execute(statement, parameters), maxlen=0))

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._run(statement, lambda connection: deque(connection.executemany(statement, rows), maxlen=0))

    async def fetch(self, statement: str, *parameters: Any) -> list[Any]:
        return await self._run(statement, lambda connection: list(connection.execute(statement, parameters)))

    async def fetchrow(self, statement: str, *parameters: Any) -> Any | None:
        rows = await self.fetch(statement, *parameters)
        return rows[0] if rows else None

    async def fetchval(self, statement: str, *parameters: Any) -> Any | None:
        rows = await self.fetch(statement, *parameters)
        return rows[0][0] if rows else None

    async def _run(self, statement: str, task: Callable[[Connection], T]) -> T:
        connection = await self._transaction.writing()
        try:
            answer = task(connection)
        except apsw.AuthError as error:
            raise ConfigurationError(
                f"the statement {statement.strip()[:_SHOWN]!r} would begin, end, nest or weaken the transaction that the step's "
                "record is written in; leave that to the toolkit: return to commit, raise to roll back"
            ) from error
        except apsw.Error as error:
            instead = self._transaction.user_failed(error)
            if instead is None:
                raise
            raise instead from error
        self._transaction.user_done()
        return answer
