"""One transaction on the write connection, and the same on a connection the caller brought (`join`).

It begins at the first call that needs it, so one that has not begun holds nothing. A savepoint is set at the first write
inside it. A conflict rolls the whole transaction back at once: afterwards every call, and `commit`, says so again.

When the process dies anywhere before `commit`, nothing of it remains; SQLite rolls back at the next opening.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TypeVar
from uuid import UUID

import apsw

from saga_choreo.errors import SagaError, StoreConflict
from saga_choreo.ports import BusinessKey, Clock, Completion, Held, Quarantined, Record, SagaLock, UserTx, completed_among
from saga_choreo_sqlite import work
from saga_choreo_sqlite.driver import Connection
from saga_choreo_sqlite.faults import WriterHeldTooLong, is_outage, translated
from saga_choreo_sqlite.statements import release, rollback_to, savepoint
from saga_choreo_sqlite.user import SqliteUser
from saga_choreo_sqlite.writer import Writer

__all__ = ["Savepoint", "SqliteTransaction"]

T = TypeVar("T")

_OVER = (
    "this SQLite transaction is over (committed or rolled back), so nothing more can be written in it; "
    "use ctx.tx only while the handler runs, and a store's transaction only inside its block"
)


class SqliteTransaction:
    """What `SqliteStore.transaction()` gives. `held_s` is how long it has held the writer."""

    __slots__ = ("_begun_at", "_clock", "_connection", "_gate", "_hold_max_s", "_over", "_savepoints", "_set", "_user", "_writer")

    def __init__(self, writer: Writer, clock: Clock, hold_max_s: float) -> None:
        self._writer = writer
        self._clock = clock
        self._hold_max_s = hold_max_s
        self._connection: Connection | None = None
        self._begun_at = 0.0
        self._gate = asyncio.Lock()
        self._over: Callable[[], SagaError] | None = None
        self._savepoints: list[Savepoint] = []
        self._set = 0
        self._user = SqliteUser(self)

    @property
    def path(self) -> str:
        return self._writer.path

    @property
    def user(self) -> UserTx:
        return self._user

    @property
    def raw(self) -> Connection:
        """The apsw connection. When nothing has been done in the transaction yet it begins here, without waiting: then
        StoreConflict is raised if the write lock is not free (call something on `user` first, which waits)."""
        if self._connection is None:
            self._require_open()
            self._begun(self._writer.begin_now())
        return self._ready_to_write()

    @property
    def held_s(self) -> float:
        return 0.0 if self._connection is None else self._clock.monotonic() - self._begun_at

    async def claim(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        connection = await self._begin()
        return self._ours(lambda: work.claim(connection, service, sagas), "claiming records")

    async def save(self, records: Sequence[Record]) -> None:
        if records:
            connection = await self.writing()
            self._ours(lambda: work.save(connection, records), "saving records")

    async def complete(self, service: str, ends: Sequence[Completion], now_ms: int) -> Collection[UUID]:
        changed, ended = completed_among(await self.claim(service, [end.key.saga_id for end in ends]), ends, now_ms)
        await self.save(changed)
        return ended

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
            connection = await self.writing()
            self._ours(lambda: work.append(connection, quarantined, held, counters or {}, unhold, unlock), "appending")

    async def lock(self, wanted: SagaLock) -> SagaLock:
        connection = await self.writing()
        return self._ours(lambda: work.lock(connection, wanted), "taking a lock")

    async def register(self, key: BusinessKey, record: Record | None = None) -> BusinessKey:
        connection = await self.writing()
        there = self._ours(lambda: work.register(connection, key), "registering a business key")
        if there is key and record is not None:
            await self.save([record])
        return there

    def savepoint(self, *, hopeful: bool = False) -> Savepoint:  # noqa: ARG002  (the port's own)
        """One costs next to nothing here, so there is no hoping."""
        return Savepoint(self)

    async def commit(self) -> None:
        """A transaction that never began has nothing to commit. Raises WriterHeldTooLong instead of committing late."""
        self._require_open()
        if self._connection is None:
            self._over = _is_over
            return
        self._require_short()
        self._connection, self._over = None, _is_over
        await self._writer.commit()

    def close(self) -> None:
        """Roll back what is not committed."""
        self._end(_is_over)

    async def writing(self) -> Connection:
        """The connection, in the transaction, with every open savepoint really set."""
        await self._begin()
        return self._ready_to_write()

    def user_failed(self, error: apsw.Error) -> SagaError | None:
        """What to raise instead of the error of a user's statement; None when it is theirs and the transaction goes on."""
        connection = self._connection
        lost = connection is None or not connection.in_transaction
        if not lost and not is_outage(error):
            return None
        return self._broken(error, "running a statement of the step")

    def user_done(self) -> None:
        """After each statement of a user: the guard has kept it inside the transaction, and this makes sure of it."""
        if self._connection is None or not self._connection.in_transaction:
            self._end(_is_over)
            raise _is_over()

    def enter(self, point: Savepoint) -> int:
        self._savepoints.append(point)
        return len(self._savepoints)

    def leave(self, point: Savepoint, depth: int, *, failed: bool) -> None:
        if not self._savepoints or self._savepoints[-1] is not point:
            raise SagaError(
                "savepoints of one transaction must be left in reverse order; do not use one transaction from several tasks"
            )
        self._savepoints.pop()
        if self._set < depth:
            return
        self._set = depth - 1
        connection = self._connection
        if connection is None:
            return
        if failed:
            self._say(connection, rollback_to(depth))
        self._say(connection, release(depth))

    async def _begin(self) -> Connection:
        if self._connection is None:
            async with self._gate:
                if self._connection is None:
                    self._require_open()
                    self._begun(await self._writer.begin())
        self._require_short()
        assert self._connection is not None
        return self._connection

    def _begun(self, connection: Connection) -> None:
        self._connection, self._begun_at = connection, self._clock.monotonic()

    def _ready_to_write(self) -> Connection:
        connection = self._connection
        self._require_open()
        assert connection is not None
        while self._set < len(self._savepoints):
            self._say(connection, savepoint(self._set + 1))
            self._set += 1
        return connection

    def _say(self, connection: Connection, statement: str) -> None:
        try:
            self._writer.say(connection, statement)
        except apsw.Error as error:
            raise self._broken(error, f"running {statement!r}") from error

    def _require_open(self) -> None:
        if self._over is not None:
            raise self._over()

    def _require_short(self) -> None:
        self._require_open()
        if self.held_s > self._hold_max_s:
            text = (
                f"a transaction held the write lock of {self.path!r} for {self.held_s:.2f} s, the limit is {self._hold_max_s} s, "
                "and was rolled back; declare the step external=True if it waits for anything but this database"
            )
            self._end(lambda: WriterHeldTooLong(text))
            self._require_open()

    def _ours(self, task: Callable[[], T], doing: str) -> T:
        try:
            return task()
        except apsw.Error as error:
            raise self._broken(error, doing) from error
        except work.Outdated as error:
            text = str(error)
            self._end(lambda: StoreConflict(text))
            raise StoreConflict(text) from None

    def _broken(self, error: apsw.Error, doing: str) -> SagaError:
        kind = translated(error, self.path, doing)
        self._end(lambda: type(kind)(*kind.args))
        return kind

    def _end(self, over: Callable[[], SagaError]) -> None:
        began, self._connection = self._connection is not None, None
        self._over = self._over or over
        if began:
            self._roll_back()

    def _roll_back(self) -> None:
        self._writer.rollback()


def _is_over() -> SagaError:
    return SagaError(_OVER)


class Savepoint:
    """Undoes what was written inside when it is left by an exception, which passes through."""

    __slots__ = ("_depth", "_transaction")

    def __init__(self, transaction: SqliteTransaction) -> None:
        self._transaction = transaction
        self._depth = 0

    async def __aenter__(self) -> None:
        self._depth = self._transaction.enter(self)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._transaction.leave(self, self._depth, failed=kind is not None)
