"""The user's side of a transaction: `ctx.tx`. Statements and rows are the driver's own; only the transaction is ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from saga_choreo.errors import SagaError
from saga_choreo_postgres.faults import state_of
from saga_choreo_postgres.speakers import Speaker
from saga_choreo_postgres.words import SESSION_WORDS, control_refused, first_word, refuse_control

if TYPE_CHECKING:
    import asyncpg

__all__ = ["PostgresUser", "UserSide"]

T = TypeVar("T")
# A step's statement is bounded by the step's own time-out; this only keeps a silent server from holding it for ever.
_LIMIT_S = 3600.0


class UserSide(Protocol):
    """What a transaction offers its user's side."""

    async def writing(self) -> Speaker: ...
    async def user_failed(self, error: Exception) -> SagaError | None: ...
    async def user_done(self) -> None: ...
    async def lend(self) -> asyncpg.Connection[Any]: ...
    def mark_dirty(self) -> None: ...


class PostgresUser:
    """Parameters are written `$1`. Errors of a statement itself are the driver's own; after one, only a savepoint makes the
    transaction usable again, and each step runs in one. One statement at a time, none that begins, ends or nests a transaction."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: UserSide) -> None:
        self._transaction = transaction

    @property
    def beneath(self) -> UserSide:
        """The transaction whose user's side this is."""
        return self._transaction

    async def execute(self, statement: str, *parameters: Any) -> None:
        await self._run(statement, lambda speaker: speaker.fetch(statement, *parameters, timeout_s=_LIMIT_S))

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._run(statement, lambda speaker: speaker.each(statement, rows, timeout_s=_LIMIT_S))

    async def fetch(self, statement: str, *parameters: Any) -> list[Any]:
        return await self._run(statement, lambda speaker: speaker.fetch(statement, *parameters, timeout_s=_LIMIT_S))

    async def fetchrow(self, statement: str, *parameters: Any) -> Any | None:
        rows = await self.fetch(statement, *parameters)
        return rows[0] if rows else None

    async def fetchval(self, statement: str, *parameters: Any) -> Any | None:
        rows = await self.fetch(statement, *parameters)
        return rows[0][0] if rows else None

    async def connection(self) -> asyncpg.Connection[Any]:
        """See `saga_choreo_postgres.connection`."""
        return await self._transaction.lend()

    async def _run(self, statement: str, task: Callable[[Speaker], Awaitable[T]]) -> T:
        refuse_control(statement)
        speaker = await self._transaction.writing()
        if first_word(statement) in SESSION_WORDS:
            self._transaction.mark_dirty()
        try:
            answer = await task(speaker)
        except speaker.errors as error:
            instead = await self._transaction.user_failed(error)
            if state_of(error) == "42601" and "multiple commands" in str(error):
                raise control_refused(statement) from error
            if instead is None:
                raise
            raise instead from error
        await self._transaction.user_done()
        return answer
