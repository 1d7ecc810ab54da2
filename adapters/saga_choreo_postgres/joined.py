"""The caller's own open transaction as a `Transaction`: everything is written in it, nothing is committed here.

Each call of the toolkit runs inside a savepoint of its own, so that a conflict undoes the toolkit's part only; it is released together
with the next one's setting, or by `commit`. The first call on a connection also makes sure, in the same round trip, that it leads to the
store's own database and that its commits are durable. On a connection that was seen before, the start of a saga is one statement without
a savepoint: it checks the same, and meets no conflict that could be undone by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import asyncpg

from saga_choreo.errors import ConfigurationError, DurabilityRefused, SagaError, StoreConflict, StoreUnavailable
from saga_choreo.ports import BusinessKey, Record
from saga_choreo_postgres import work
from saga_choreo_postgres.faults import is_outage, state_of, taken, translated
from saga_choreo_postgres.given import family
from saga_choreo_postgres.pool import Pool
from saga_choreo_postgres.speakers import AsyncpgSpeaker, PsycopgSpeaker, Speaker
from saga_choreo_postgres.transaction import PostgresTransaction

if TYPE_CHECKING:
    from saga_choreo.ports import Transaction

__all__ = ["JoinedTransaction", "joined", "speaker_of"]

T = TypeVar("T")
_CALL, _UNDO, _CALLED = (
    "SAVEPOINT saga_choreo_call",
    "ROLLBACK TO SAVEPOINT saga_choreo_call; RELEASE SAVEPOINT saga_choreo_call",
    "RELEASE SAVEPOINT saga_choreo_call",
)
_BEGIN_FIRST = "begin one first, write in it, and commit it afterwards"
# No such savepoint, and no transaction: who ended ours and went on has begun another one.
_ENDED = ("3B001", "25P01")


def joined(connection: Any, pool: Pool, incarnation: str, *, durable: bool) -> Transaction:
    """Raises ConfigurationError when this is no connection of a known driver with an open transaction, StoreUnavailable when it is lost."""
    if not incarnation:
        raise ConfigurationError(f"the store at {pool.where!r} is not open; await store.open() before joining a transaction")
    return JoinedTransaction(connection, speaker_of(connection), pool, incarnation, durable=durable)


def speaker_of(connection: Any, advice: str = _BEGIN_FIRST) -> Callable[[], Awaitable[Speaker]]:
    """What speaks to the server on this connection, once it is asked. Raises ConfigurationError (one without a transaction, say, with
    this advice), StoreUnavailable; and, once it is asked, what the driver raises."""
    kind = family(connection)
    if isinstance(connection, asyncpg.Connection):
        inner = _asyncpg(connection)
        if inner.lost:
            raise StoreUnavailable("the asyncpg connection was lost, or given back to its pool; begin a transaction on another one")
        if not inner.in_transaction:
            raise ConfigurationError(f"the asyncpg connection has no open transaction; {advice}")
        return _ready(inner)
    if kind == "psycopg" and hasattr(connection, "pipeline") and _is_async(connection.commit):
        speaker = PsycopgSpeaker(connection)
        if connection.autocommit and not speaker.in_transaction:
            raise ConfigurationError(f"the psycopg connection is in autocommit mode and has no open transaction; {advice}")
        return _ready(speaker)
    if kind == "sqlalchemy" and _is_async(getattr(connection, "commit", None)):
        return _through_sqlalchemy(connection, advice)
    raise ConfigurationError(
        f"cannot join {type(connection).__name__!r}; pass an asyncpg connection, a psycopg AsyncConnection, or a SQLAlchemy "
        "AsyncSession or AsyncConnection, with an open transaction"
    )


def _asyncpg(connection: Any) -> Speaker:
    return AsyncpgSpeaker(connection)


def _is_async(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)  # CO_COROUTINE


def _ready(speaker: Speaker) -> Callable[[], Awaitable[Speaker]]:
    async def give() -> Speaker:
        return speaker

    return give


def _through_sqlalchemy(connection: Any, advice: str) -> Callable[[], Awaitable[Speaker]]:
    """A session or a connection of SQLAlchemy: the driver's own connection beneath it, once its transaction has really begun."""

    async def give() -> Speaker:
        inner = await connection.connection() if hasattr(connection, "sync_session") else connection
        if not inner.in_transaction():
            await inner.begin()
        raw = (await inner.get_raw_connection()).driver_connection
        speaker: Speaker
        if isinstance(raw, asyncpg.Connection):
            speaker = _asyncpg(raw)
        elif family(raw) == "psycopg":
            speaker = PsycopgSpeaker(raw)
        else:
            raise ConfigurationError(
                f"cannot join SQLAlchemy over {type(raw).__name__!r}; use postgresql+asyncpg:// or postgresql+psycopg:// (async)"
            )
        if not speaker.in_transaction:
            await inner.exec_driver_sql("SELECT 1")  # SQLAlchemy begins at the first statement that goes through itself
        if not speaker.in_transaction:
            raise ConfigurationError(f"the SQLAlchemy connection is in autocommit mode; {advice}")
        return speaker

    return give


class JoinedTransaction(PostgresTransaction):
    """`commit` here only says that the toolkit's part is written; the caller commits."""

    __slots__ = ("_durable", "_give", "_given", "_incarnation", "_point")

    def __init__(
        self, connection: Any, give: Callable[[], Awaitable[Speaker]], pool: Pool, incarnation: str, *, durable: bool
    ) -> None:
        super().__init__(pool)
        self._given = connection
        self._give = give
        self._incarnation = incarnation
        self._durable = durable
        self._point: Literal["none", "fresh", "used"] = "none"  # the savepoint of our calls

    @property
    def raw(self) -> Any:
        return self._given

    async def lend(self) -> asyncpg.Connection[Any]:
        raise ConfigurationError("a joined transaction belongs to its caller, who has the connection already")

    def mark_dirty(self) -> None:
        """The session is the caller's."""

    async def register(self, key: BusinessKey, record: Record | None = None) -> BusinessKey:
        self._require_open()
        speaker = await self._reach() if self.speaker is None else self.speaker
        if record is None or self.speaker is not None or speaker.backend not in self._pool.seen_backends:
            return await super().register(key, record)
        try:
            return await work.register(speaker, key, record, incarnation=self._incarnation, durable=self._durable)
        except speaker.errors as error:
            if getattr(error, "sqlstate", "") == "42P01":
                raise self._elsewhere() from error
            raise translated(error, self.where, "starting a saga") from error
        except work.NotHere as error:
            raise await self._diagnosis(speaker, error) from None

    async def commit(self) -> None:
        self._require_open()
        self._require_there()
        if self._point != "none" and self.speaker is not None:
            await self._inside(self.speaker.say(_CALLED), self.speaker, "finishing the toolkit's part")
            self._point = "none"

    def after_commit(self, tell: Callable[[], None]) -> None:
        """Only a SQLAlchemy session says when it has committed; a commit of a savepoint is none."""
        session = getattr(self._given, "sync_session", None)
        if session is not None:
            _listen(session, tell)

    async def writing(self) -> Speaker:
        self._require_there()
        return await super().writing()

    async def user_done(self) -> None:
        self._point = "used" if self._point == "fresh" else self._point  # what the caller wrote is not ours to undo
        self._require_there()

    def _require_there(self) -> None:
        speaker = self.speaker
        if speaker is None or self.is_there(speaker):
            return
        if self.is_lost():
            raise StoreUnavailable(
                f"the connection to PostgreSQL at {self.where!r} was lost in a transaction, which is rolled back; begin another one"
            )
        self._over = self.ended
        raise self.ended()

    def is_there(self, speaker: Speaker) -> bool:
        """Whether the transaction is still the one that was joined, as far as the driver can tell."""
        return speaker.in_transaction

    def is_lost(self) -> bool:
        """Whether its connection broke, and nobody has ended it before."""
        return self.speaker is not None and self.speaker.lost

    def ended(self) -> SagaError:
        """What is raised once its owner has ended it."""
        return SagaError("the joined transaction was committed or rolled back by its owner; join the next one anew")

    async def _reach(self) -> Speaker:
        try:
            return await self._give()
        except Exception as error:
            instead = taken(error, self.where, lost=is_outage(error))
            if instead is error:
                raise
            raise instead from error

    async def _begin_now(self) -> None:
        speaker = await self._reach()
        try:
            await speaker.say(f"{_CALL}; {self._is_ours()}")
        except speaker.errors as error:
            if speaker.lost or state_of(error) == "25P02":
                raise translated(error, self.where, "joining a transaction") from error
            await self._undo_call(speaker)
            raise await self._diagnosis(speaker, error) from error
        self.speaker, self._point = speaker, "fresh"
        self._pool.see_backend(speaker.backend)

    def _is_ours(self) -> str:
        """A statement that fails unless the connection leads to the store's own tables and its commits are as durable."""
        wanted = "AND current_setting('synchronous_commit') <> 'off'" if self._durable else ""
        return (
            "SELECT 1 / count(*) FROM saga_meta WHERE name = 'incarnation' "  # noqa: S608  (a hexadecimal name of ours)
            f"AND value = '{self._incarnation}' {wanted}"
        )

    async def _diagnosis(self, speaker: Speaker, error: Exception) -> SagaError:
        if self._durable and (await speaker.fetch("SELECT current_setting('synchronous_commit')"))[0][0] == "off":
            return DurabilityRefused(
                "the joined connection commits with synchronous_commit = off, so a crash could undo the start of a saga; set it on, "
                "or open the store with ?durability=relaxed"
            )
        if isinstance(error, work.NotHere) or getattr(error, "sqlstate", "") in ("22012", "42P01"):
            return self._elsewhere()
        return translated(error, self.where, "joining a transaction")

    def _elsewhere(self) -> SagaError:
        return ConfigurationError(
            f"the joined connection does not lead to the saga tables of the store at {self.where!r}; use the same database, "
            "and the same search_path"
        )

    async def _ours(self, task: Coroutine[Any, Any, T], doing: str) -> T:
        speaker = self.speaker
        assert speaker is not None
        try:
            self._require_there()
            if self._point != "fresh":
                await self.mark(speaker, doing)
        except BaseException:
            task.close()
            raise
        self._point = "used"
        return await self._inside(task, speaker, doing)

    async def mark(self, speaker: Speaker, doing: str) -> None:
        """Set the savepoint anew; the server refuses that when the transaction is another one than that which it was set in."""
        try:
            await speaker.say(_CALL if self._point == "none" else f"{_CALLED}; {_CALL}")
        except speaker.errors as error:
            raise self._met(error, doing) from error
        self._point = "fresh"

    async def _inside(self, task: Coroutine[Any, Any, T], speaker: Speaker, doing: str) -> T:
        try:
            return await task
        except speaker.errors as error:
            if state_of(error) not in _ENDED:
                await self._undo_call(speaker)
            raise self._met(error, doing) from error
        except work.Outdated as error:
            await self._undo_call(speaker)
            raise StoreConflict(str(error)) from None

    async def _undo_call(self, speaker: Speaker) -> None:
        self._point = "none"
        try:
            if speaker.in_transaction and not speaker.lost:
                await speaker.say(_UNDO)
        except speaker.errors as error:
            raise self._met(error, "undoing the toolkit's part") from error

    def _met(self, error: Exception, doing: str) -> SagaError:
        if state_of(error) not in _ENDED:
            return translated(error, self.where, doing)
        self._over = self.ended
        return self.ended()

    async def end(self, after: Callable[[], SagaError]) -> None:
        """The transaction is the caller's."""
        self.speaker, self._over = None, self._over or after


def _listen(session: Any, tell: Callable[[], None]) -> None:
    """Tell of the commit of what was written just now in this session of SQLAlchemy. A rollback of it is the end of listening, also one to
    a savepoint around it; and so is the end of the whole transaction."""
    from sqlalchemy import event as hooks  # optional client: who passes a session has it

    event = cast("Any", hooks)
    written_in = session.get_nested_transaction() or session.get_transaction()
    soon = asyncio.get_running_loop().call_soon
    listening = True

    def committed(_session: Any) -> None:
        if listening and not session.in_nested_transaction():
            soon(tell)

    def rolled_back(_session: Any, transaction: Any) -> None:
        inner = written_in
        while inner is not None and inner is not transaction:
            inner = inner.parent
        if inner is not None:
            stop()

    def ended(_session: Any, transaction: Any) -> None:
        if transaction.parent is None:
            stop()

    heard = {"after_commit": committed, "after_soft_rollback": rolled_back, "after_transaction_end": ended}

    def stop() -> None:
        nonlocal listening
        if listening:
            listening = False
            for name, listener in heard.items():
                soon(event.remove, session, name, listener)  # not while the session goes through its listeners

    for name, listener in heard.items():
        event.listen(session, name, listener)
