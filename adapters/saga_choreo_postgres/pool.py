"""The pool of connections to one database, and how a connection is made and given back.

asyncpg's own pool does the work; what differs is that a connection which only the toolkit has used is not cleaned with a round trip
when it comes back, and that every error leaves in the toolkit's words.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg

from saga_choreo.errors import ConfigurationError, StoreUnavailable
from saga_choreo_postgres.faults import DRIVER_ERRORS, translated
from saga_choreo_postgres.place import Place

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pooled = PoolConnectionProxy[Any]

__all__ = ["Pool", "Session"]

_CONNECT_S = 10.0
_ACQUIRE_S = 15.0
_CLOSE_S = 5.0
# Waiting for a row that another transaction holds: longer than any healthy one holds it (250 ms, or a step's time-out in the slow lane).
_LOCK_MS = 10_000
# An agent whose machine is frozen must not hold rows for ever; longer than any step may stand still in its transaction.
_IDLE_MS = 600_000


class Session(asyncpg.Connection):
    """A connection that remembers what the server said it did: a COMMIT after an error is answered with ROLLBACK, not refused."""

    __slots__ = ("dirty", "last_status")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.last_status = ""
        self.dirty = False

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109  (asyncpg's own signature)
        self.last_status = await super().execute(query, *args, timeout=timeout)
        return self.last_status


async def _clean(connection: Any) -> None:
    if connection.dirty:
        connection.dirty = False
        await connection.execute(connection.get_reset_query())


class Pool:
    def __init__(self, place: Place) -> None:
        self.where = place.shown
        self._place = place
        self._pool: asyncpg.Pool[Any] | None = None

    async def open(self) -> None:
        """Raises ConfigurationError (wrong address or password), StoreUnavailable (cannot be reached now)."""
        try:
            pool = asyncpg.create_pool(
                self._place.dsn,
                min_size=1,
                max_size=self._place.pool_max,
                max_inactive_connection_lifetime=300.0,
                connection_class=Session,
                reset=_clean,
                timeout=_CONNECT_S,
                statement_cache_size=self._place.statement_cache,
                server_settings={
                    "application_name": "saga_choreo",
                    "lock_timeout": str(_LOCK_MS),
                    "idle_in_transaction_session_timeout": str(_IDLE_MS),
                    "jit": "off",
                },
            )
            self._pool = await pool
        except (asyncpg.exceptions.ClientConfigurationError, ValueError) as error:
            raise ConfigurationError(f"the store URL {self.where!r} is not understood ({error}); check its options") from error
        except DRIVER_ERRORS as error:
            raise translated(error, self.where, "connecting") from error

    async def acquire(self) -> Pooled:
        """A connection of the pool, after a bounded wait."""
        if self._pool is None:
            raise StoreUnavailable(f"the store at {self.where!r} is not open; await store.open() first, and use it before close()")
        try:
            return await self._pool.acquire(timeout=_ACQUIRE_S)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"no connection to {self.where!r} was free within {_ACQUIRE_S} s; raise pool_max in the store's URL, or look for "
                "transactions that are left open"
            ) from error
        except DRIVER_ERRORS as error:
            raise translated(error, self.where, "connecting") from error

    async def release(self, connection: Pooled) -> None:
        pool = self._pool
        if pool is None:
            return
        try:
            await pool.release(connection)
        except DRIVER_ERRORS:
            connection.terminate()

    async def close(self) -> None:
        """Wait for open transactions, bounded, then cut what is left."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                await pool.close()
        except DRIVER_ERRORS:
            pool.terminate()
