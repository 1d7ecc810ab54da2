"""The pool of connections to one database, and how a connection is made and given back.

Not asyncpg's own pool, for three reasons: that one cleans every connection with a round trip when it comes back, hands out proxies that
cost time at each call, and takes a proxy away from who is still in its transaction when the server dies.
"""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import Any

import asyncpg

from saga_choreo.errors import ConfigurationError, StoreUnavailable
from saga_choreo_postgres.faults import DRIVER_ERRORS, translated
from saga_choreo_postgres.place import Place

__all__ = ["Pool", "Session"]

_CONNECT_S = 10.0
_ACQUIRE_S = 15.0
_CLOSE_S = 5.0
# A connection that was idle longer may have been cut by something in between, without a word.
_IDLE_MAX_S = 300.0
# After a step had to be undone without a savepoint, all steps set theirs for so long: at worst one batch a minute is done twice.
_CAREFUL_S = 60.0
# Far more than the connections that a process has; what is forgotten is looked at once more.
_SEEN_MAX = 1000


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


class Pool:
    """At most `pool_max` connections, the one used last first, so that those which are not needed grow old and go."""

    def __init__(self, place: Place) -> None:
        self.where = place.shown
        self._place = place
        self._idle: list[tuple[float, Session]] = []
        self._lent: set[Session] = set()
        self._turns = asyncio.Semaphore(place.pool_max)
        self._is_open = False
        self._careful_until = 0.0
        # Server processes of connections that are not of this pool, and were found to lead to the saga tables.
        self.seen_backends: set[int] = set()

    @property
    def is_careful(self) -> bool:
        """Steps have to be undone now and then: savepoints are worth their price."""
        return monotonic() < self._careful_until

    def be_careful(self) -> None:
        self._careful_until = monotonic() + _CAREFUL_S

    def see_backend(self, backend: int) -> None:
        if len(self.seen_backends) >= _SEEN_MAX:
            self.seen_backends.clear()
        self.seen_backends.add(backend)

    async def open(self) -> None:
        """Raises ConfigurationError (wrong address or password), StoreUnavailable (cannot be reached now)."""
        self._idle.append((monotonic(), await self._connect()))
        self._is_open = True

    async def acquire(self) -> Session:
        """A connection, after a bounded wait. It must be given back, dead or alive."""
        if self._turns.locked():
            await self._wait_for_turn()
        else:
            await self._turns.acquire()
        try:
            session = self._used_before() or await self._connect()
        except BaseException:
            self._turns.release()
            raise
        self._lent.add(session)
        return session

    async def release(self, session: Session) -> None:
        """Whatever state it is in: one that is broken or still in a transaction is thrown away."""
        if session not in self._lent:
            return
        try:
            if session.dirty and not session.is_closed() and not session.is_in_transaction():
                session.dirty = False
                await session.execute(session.get_reset_query())
        except DRIVER_ERRORS:
            session.terminate()
        except BaseException:
            session.terminate()
            raise
        finally:
            self._lent.discard(session)
            self._turns.release()
            if self._is_open and not session.is_closed() and not session.is_in_transaction():
                self._idle.append((monotonic(), session))
            else:
                session.terminate()

    async def close(self) -> None:
        """Wait for open transactions, bounded, then cut what is left."""
        if not self._is_open:
            return
        self._is_open = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                for _ in range(self._place.pool_max):
                    await self._turns.acquire()
        for session in self._lent:
            session.terminate()
        idle, self._idle = self._idle, []
        for _, session in idle:
            try:
                await session.close(timeout=_CLOSE_S)
            except DRIVER_ERRORS:
                session.terminate()
        self._turns = asyncio.Semaphore(self._place.pool_max)

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(_ACQUIRE_S):
                await self._turns.acquire()
        except TimeoutError as error:
            raise StoreUnavailable(
                f"no connection to {self.where!r} was free within {_ACQUIRE_S} s; raise pool_max in the store's URL, or look for "
                "transactions that are left open"
            ) from error

    def _used_before(self) -> Session | None:
        if not self._is_open:
            raise StoreUnavailable(f"the store at {self.where!r} is not open; await store.open() first, and use it before close()")
        while self._idle:
            since, session = self._idle.pop()
            if not session.is_closed():
                if monotonic() - since < _IDLE_MAX_S:
                    return session
                session.terminate()
        return None

    async def _connect(self) -> Session:
        try:
            session = await asyncpg.connect(
                self._place.dsn,
                timeout=_CONNECT_S,
                connection_class=Session,
                statement_cache_size=self._place.statement_cache,
                server_settings=self._place.settings,
            )
        except (asyncpg.exceptions.ClientConfigurationError, ValueError) as error:
            raise ConfigurationError(f"the store URL {self.where!r} is not understood ({error}); check its options") from error
        except DRIVER_ERRORS as error:
            raise translated(error, self.where, "connecting") from error
        assert isinstance(session, Session)
        return session
