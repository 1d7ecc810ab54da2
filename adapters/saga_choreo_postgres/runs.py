"""The store's own short reads and writes, each on a connection of the pool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from saga_choreo_postgres.faults import DRIVER_ERRORS, translated
from saga_choreo_postgres.pool import Pool
from saga_choreo_postgres.speakers import AsyncpgSpeaker, Speaker

__all__ = ["Runs"]

T = TypeVar("T")


class Runs:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read(self, statement: str, *parameters: Any) -> list[Any]:
        """One statement sees one state of the database. Raises StoreConflict, StoreUnavailable."""
        return await self._with("reading", lambda speaker: speaker.fetch(statement, *parameters))

    async def asking(self, task: Callable[[Speaker], Awaitable[T]]) -> T:
        """Several statements, each of which sees a state of its own."""
        return await self._with("reading", task)

    async def write(self, task: Callable[[Speaker], Awaitable[T]], *, durable: bool = True) -> T:
        """One short transaction. Not `durable`: a crash of the server may undo it."""

        async def inside(speaker: Speaker) -> T:
            await speaker.say("BEGIN" if durable else "BEGIN; SET LOCAL synchronous_commit = off")
            answer = await task(speaker)
            await speaker.say("COMMIT")
            return answer

        return await self._with("writing", inside)

    async def session(self, doing: str, task: Callable[[Speaker], Awaitable[T]]) -> T:
        """A connection without a transaction, and who fails on it gives nothing back of it: locks of the session go with it."""
        return await self._with(doing, task, alone=True)

    async def _with(self, doing: str, task: Callable[[Speaker], Awaitable[T]], *, alone: bool = False) -> T:
        connection = await self._pool.acquire()
        try:
            return await task(AsyncpgSpeaker(connection))
        except BaseException as error:
            if alone or connection.is_in_transaction():
                connection.terminate()
            if isinstance(error, DRIVER_ERRORS):
                raise translated(error, self._pool.where, doing) from error
            raise
        finally:
            await self._pool.release(connection)
