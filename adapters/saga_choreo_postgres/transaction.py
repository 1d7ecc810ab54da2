"""One transaction on a connection of the pool.

It begins at the first call that needs it, so one that has not begun holds nothing. A savepoint is set at the first write inside it,
and released together with whatever comes next: by the next savepoint in the same round trip, or by the commit for nothing. A
hopeful one is not set at all: it would cost as much as the statement it guards. When it has to be undone, the whole transaction is,
and for a while the pool sets every savepoint.
A conflict rolls the whole transaction back at once: afterwards every call, and `commit`, says so again.

When the process dies before COMMIT was sent, nothing remains; the server rolls back when the connection breaks. When connection or
server dies while COMMIT is under way, nobody knows (StoreUnavailable): it is never guessed, the messages come again and decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from saga_choreo.errors import SagaError, StoreConflict, StoreUnavailable
from saga_choreo.ports import BusinessKey, Completion, Held, Quarantined, Record, SagaLock, UserTx
from saga_choreo_postgres import work
from saga_choreo_postgres.faults import DRIVER_ERRORS, is_theirs, state_of, swallowed_error, translated
from saga_choreo_postgres.pool import Pool, Session
from saga_choreo_postgres.speakers import AsyncpgSpeaker, Speaker
from saga_choreo_postgres.user import PostgresUser

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.transaction import Transaction as DriverTransaction

__all__ = ["PostgresTransaction", "Savepoint", "over"]

T = TypeVar("T")
_MARK, _UNMARK = "SAVEPOINT saga_choreo_lent", "RELEASE SAVEPOINT saga_choreo_lent"


def over() -> SagaError:
    return SagaError(
        "this PostgreSQL transaction is over (committed or rolled back), so nothing more can be written in it; "
        "use ctx.tx only while the handler runs, and a store's transaction only inside its block"
    )


class PostgresTransaction:
    """What `PostgresStore.transaction()` gives."""

    __slots__ = (
        "_connection",
        "_driver",
        "_failed",
        "_gate",
        "_lent",
        "_live",
        "_marked",
        "_over",
        "_points",
        "_pool",
        "_there",
        "_user",
        "speaker",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Session | None = None
        self._driver: DriverTransaction | None = None
        self.speaker: Speaker | None = None
        self._gate = asyncio.Lock()
        self._over: Callable[[], SagaError] | None = None
        self._points: list[Savepoint] = []
        self._live = 0  # savepoints that are set and still wanted
        self._there = 0  # savepoints that are set
        self._failed = False  # a user's statement failed since the last savepoint: the server refuses everything until it is undone
        self._lent = False  # the raw connection was handed out: what was done with it was not seen
        self._marked = False  # and a savepoint marks where
        self._user = PostgresUser(self)

    @property
    def where(self) -> str:
        return self._pool.where

    @property
    def user(self) -> UserTx:
        return self._user

    @property
    def raw(self) -> Any:
        """The asyncpg connection, once something was awaited on `user` in this transaction and savepoint. `await
        saga_choreo_postgres.connection(ctx)` needs no such thing."""
        self._require_open()
        if self._connection is None or (self._live < len(self._points) and not self._points[-1].trusted):
            raise SagaError("the transaction has not begun here yet; use: connection = await saga_choreo_postgres.connection(ctx)")
        return self._lend()

    async def lend(self) -> asyncpg.Connection[Any]:
        """The asyncpg connection, in the transaction, every open savepoint set. Inside a trusted one a savepoint marks the
        transaction as it was lent: one that was ended and begun anew meanwhile has it no more."""
        await self.writing()
        if self._points and self._points[-1].trusted and not self._lent:
            await self._say(_MARK)
            self._marked = True
        return self._lend()

    def _lend(self) -> asyncpg.Connection[Any]:
        self._lent = True
        self.mark_dirty()
        return cast("asyncpg.Connection[Any]", self._connection)

    def mark_dirty(self) -> None:
        """The session may be changed beyond this transaction: it is cleaned before somebody else gets it."""
        if self._connection is not None:
            self._connection.dirty = True

    async def claim(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        speaker = await self._begin()
        return await self._ours(work.claim(speaker, service, sagas), "claiming records")

    async def save(self, records: Sequence[Record]) -> None:
        if records:
            speaker = await self.writing()
            await self._ours(work.save(speaker, records), "saving records")

    async def complete(self, service: str, ends: Sequence[Completion], now_ms: int) -> Collection[UUID]:
        speaker = await self.writing()
        return await self._ours(work.complete(speaker, service, ends, now_ms), "recording the ends of sagas")

    async def append(
        self,
        *,
        quarantined: Sequence[Quarantined] = (),
        held: Sequence[Held] = (),
        counters: Mapping[tuple[str, str], int] | None = None,
        unhold: Sequence[int] = (),
        unlock: Sequence[SagaLock] = (),
    ) -> None:
        if quarantined or held or counters or unhold or unlock:
            speaker = await self.writing()
            await self._ours(work.append(speaker, quarantined, held, counters or {}, unhold, unlock), "appending")

    async def lock(self, wanted: SagaLock) -> SagaLock:
        speaker = await self.writing()
        return await self._ours(work.lock(speaker, wanted), "taking a lock")

    async def register(self, key: BusinessKey, record: Record | None = None) -> BusinessKey:
        speaker = await self.writing()
        return await self._ours(work.register(speaker, key, record), "registering a business key")

    def savepoint(self, *, hopeful: bool = False) -> Savepoint:
        return Savepoint(self, hopeful=hopeful)

    async def commit(self) -> None:
        """A transaction that never began has nothing to commit."""
        self._require_open()
        if self._failed:
            await self.end(over)
            raise SagaError(
                f"a statement failed in this transaction at {self.where!r} and its error was swallowed: nothing was committed; "
                "let the error pass, or run the statement inside a savepoint"
            )
        if self._connection is None:
            self._over = over
            return
        connection, driver = self._connection, self._driver
        assert driver is not None
        try:
            await driver.commit()
        except DRIVER_ERRORS as error:
            await self._lost_commit(error)
        except BaseException:  # cancelled: COMMIT may have happened; the connection is of no use any more
            connection.terminate()
            await self.end(over)
            raise
        said = connection.last_status
        self._connection = self._driver = self.speaker = None
        self._over = over
        await self._pool.release(connection)
        if said != "COMMIT":
            raise StoreConflict(
                f"PostgreSQL at {self.where!r} answered COMMIT with {said!r}: it did not happen, and may be tried again"
            )

    async def _lost_commit(self, error: Exception) -> None:
        """Raises StoreConflict: it did not happen. StoreUnavailable: nobody knows."""
        state, where = state_of(error), self.where
        refused = state.startswith(("23", "40")) and state != "40003"
        if not refused and self._connection is not None:
            self._connection.terminate()
        await self.end(over)
        said = f"{type(error).__name__}: {error}"[:500]
        if refused:
            raise StoreConflict(f"the commit at {where!r} was refused and did not happen ({said})") from error
        raise StoreUnavailable(
            f"the commit at {where!r} failed ({said}) and it is unknown whether it happened; the messages come again and decide"
        ) from error

    async def close(self) -> None:
        """Roll back what is not committed."""
        await self.end(over)

    async def writing(self) -> Speaker:
        """The speaker, in the transaction, with every open savepoint really set, but for one that is trusted."""
        speaker = self.speaker
        if speaker is None or self._over is not None:
            speaker = await self._begin()
        wanted = len(self._points)
        if wanted == 1 and self._points[0].is_trusted(careful=self._live > 0 or self._pool.is_careful):
            pass
        elif self._live < wanted:
            words = [f"RELEASE SAVEPOINT saga_choreo_{self._live + 1}"] if self._there > self._live else []
            words += [f"SAVEPOINT saga_choreo_{depth}" for depth in range(self._live + 1, wanted + 1)]
            await self._say("; ".join(words))
            self._live = self._there = wanted
        return speaker

    async def user_failed(self, error: Exception) -> SagaError | None:
        """What to raise instead of the error of a user's statement; None when it is theirs and the transaction goes on."""
        speaker = self.speaker
        if speaker is not None and is_theirs(error, lost=speaker.lost):
            self._failed = speaker.in_transaction
            return None
        return await self._broken(error, "running a statement of the step")

    async def user_done(self) -> None:
        """After each statement of a user: the words were looked at, and this makes sure that the transaction goes on."""
        if self.speaker is None or not self.speaker.in_transaction:
            await self.end(over)
            raise over()

    def enter(self, point: Savepoint) -> int:
        self._points.append(point)
        return len(self._points)

    async def leave(self, point: Savepoint, depth: int, *, failed: bool) -> None:
        if not self._points or self._points[-1] is not point:
            raise SagaError(
                "savepoints of one transaction must be left in reverse order; do not use one transaction from several tasks"
            )
        self._points.pop()
        if point.trusted and self.speaker is not None:
            await self._leave_trusted(failed=failed)
            return
        if self._live < depth or self.speaker is None:
            return
        if self._lent and not failed:
            await self._release_now(depth)
        elif failed or self._failed:
            swallowed = not failed
            await self._undo(depth)
            if swallowed:
                raise swallowed_error(self.where)
        else:
            self._live = depth - 1

    async def _leave_trusted(self, *, failed: bool) -> None:
        """Nothing was set that could be rolled back to: then all is, and later calls raise StoreConflict."""
        if not failed and self._lent:
            failed = await self._is_failed()
        self._lent = self._marked = False
        if failed or self._failed:
            self._pool.be_careful()
            await self.end(_hoped)
            raise _hoped()
        self._live = 0

    async def _is_failed(self) -> bool:
        """The connection was lent: only the server knows whether a statement has failed on it."""
        assert self.speaker is not None
        try:
            await self.speaker.say(_UNMARK if self._marked else "SELECT 1")
        except DRIVER_ERRORS as error:
            if state_of(error) != "25P02":
                raise await self._broken(error, "taking back a lent connection") from error
            return True
        await self.user_done()
        return False

    async def _undo(self, depth: int) -> None:
        self._failed = False
        await self._say(f"ROLLBACK TO SAVEPOINT saga_choreo_{depth}; RELEASE SAVEPOINT saga_choreo_{depth}")
        self._live = self._there = depth - 1

    async def _release_now(self, depth: int) -> None:
        """The connection was lent: only the server knows whether a statement has failed on it."""
        assert self.speaker is not None
        try:
            await self.speaker.say(f"RELEASE SAVEPOINT saga_choreo_{depth}")
        except DRIVER_ERRORS as error:
            if state_of(error) != "25P02":
                raise await self._broken(error, "releasing a savepoint") from error
            await self._undo(depth)
            raise swallowed_error(self.where) from error
        self._live = self._there = depth - 1
        self._lent = self._live > 0

    async def _begin(self) -> Speaker:
        if self.speaker is None:
            async with self._gate:
                if self.speaker is None:
                    self._require_open()
                    await self._begin_now()
        self._require_open()
        assert self.speaker is not None
        return self.speaker

    async def _begin_now(self) -> None:
        connection = await self._pool.acquire()
        driver = connection.transaction()
        try:
            await driver.start()
        except BaseException as error:
            connection.terminate()
            await self._pool.release(connection)
            if isinstance(error, DRIVER_ERRORS):
                raise translated(error, self.where, "beginning a transaction") from error
            raise
        self._connection, self._driver = connection, driver
        self.speaker = AsyncpgSpeaker(connection)

    async def _say(self, script: str) -> None:
        assert self.speaker is not None
        try:
            await self.speaker.say(script)
        except self.speaker.errors as error:
            raise await self._broken(error, f"running {script!r}") from error

    def _require_open(self) -> None:
        if self._over is not None:
            raise self._over()

    async def _ours(self, task: Coroutine[Any, Any, T], doing: str) -> T:
        assert self.speaker is not None
        try:
            return await task
        except self.speaker.errors as error:
            raise await self._broken(error, doing) from error
        except work.Outdated as error:
            text = str(error)
            await self.end(lambda: StoreConflict(text))
            raise StoreConflict(text) from None

    async def _broken(self, error: Exception, doing: str) -> SagaError:
        kind = translated(error, self.where, doing)
        await self.end(lambda: type(kind)(*kind.args))
        return kind

    async def end(self, after: Callable[[], SagaError]) -> None:
        """Roll back and give the connection back, whatever happens meanwhile. `after` is what later calls raise."""
        connection, driver = self._connection, self._driver
        self._connection = self._driver = self.speaker = None
        self._over = self._over or after
        if connection is None:
            return
        try:
            if driver is not None and not connection.is_closed():
                await driver.rollback()
        except DRIVER_ERRORS:
            connection.terminate()
        except BaseException:
            connection.terminate()
            raise
        finally:
            await self._pool.release(connection)


def _hoped() -> SagaError:
    return StoreConflict(
        "a step's writes had to be undone without a savepoint: nothing was committed, try again (it sets one then)"
    )


class Savepoint:
    """Undoes what was written inside when it is left by an exception, which passes through."""

    __slots__ = ("_depth", "_transaction", "hopeful", "trusted")

    def __init__(self, transaction: PostgresTransaction, *, hopeful: bool = False) -> None:
        self._transaction = transaction
        self._depth = 0
        self.hopeful = hopeful
        self.trusted = False  # something was written inside it, and it was not set

    def is_trusted(self, *, careful: bool) -> bool:
        """Asked at each write inside it; decided at the first one."""
        self.trusted = self.trusted or (self.hopeful and not careful)
        return self.trusted

    async def __aenter__(self) -> None:
        self._depth = self._transaction.enter(self)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._transaction.leave(self, self._depth, failed=kind is not None)
        except StoreConflict:
            if kind is None or issubclass(kind, Exception):
                raise
            # A cancellation passes; whoever goes on with the transaction hears of the conflict.
