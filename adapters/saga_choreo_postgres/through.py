"""A step's transaction on a connection of the user's own: a SQLAlchemy session or connection, psycopg, or asyncpg from another pool.

The factory is called when the step first writes; what it gives is the step's alone, and ends with it. The step's record is written
on that very connection, so it commits together with what the handler wrote, by whatever means. Only a transaction that begins with
a handler is such a one: what the toolkit does by itself stays on its own pool.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from saga_choreo.errors import ConfigurationError, SagaError, StoreConflict, StoreUnavailable
from saga_choreo.ports import BusinessKey, Completion, Held, Quarantined, Record, SagaLock, UserTx
from saga_choreo_postgres.faults import state_of, taken
from saga_choreo_postgres.given import cut, is_open, refuse_begun, transaction_of
from saga_choreo_postgres.joined import JoinedTransaction, speaker_of
from saga_choreo_postgres.pool import Pool
from saga_choreo_postgres.speakers import Speaker
from saga_choreo_postgres.transaction import PostgresTransaction, Savepoint, over

if TYPE_CHECKING:
    from saga_choreo.ports import Transaction

__all__ = ["Factory", "OwnTransaction", "StepTransaction"]

Factory = Callable[[], AbstractAsyncContextManager[Any]]
_log = logging.getLogger("saga_choreo.postgres")
_NO_AUTOCOMMIT = "let tx=... make it without autocommit: the toolkit begins and ends the transaction"


class OwnTransaction(JoinedTransaction):
    """On a connection that the factory makes: begun, committed and closed here, through the user's own object.

    The factory is left as if all were well only after a commit that was seen to succeed. Else it is left with an error, once the
    transaction is rolled back, or else its connection closed: a factory that commits when it is left commits nothing of a failed step.
    """

    __slots__ = ("_begun", "_driver_transaction", "_factory", "_holder", "why")

    def __init__(self, factory: Factory, pool: Pool, incarnation: str, *, durable: bool) -> None:
        super().__init__(None, self._speaker, pool, incarnation, durable=durable)
        self._factory = factory
        self._holder: AbstractAsyncContextManager[Any] | None = None
        self._driver_transaction: Any = None
        self._begun: object = None  # SQLAlchemy's transaction
        self.why: BaseException | None = None  # what the handler has failed with

    async def theirs(self) -> Any:
        """What the factory gave, in the transaction, every open savepoint set."""
        await self.writing()
        return self._given

    async def _speaker(self) -> Speaker:
        holder = self._factory()
        if not hasattr(holder, "__aenter__"):
            raise ConfigurationError(
                f"tx=... gives {type(holder).__name__!r}, which `async with` cannot enter; pass an async_sessionmaker, engine.connect, "
                "or a pool's connection or acquire"
            )
        given: Any = await holder.__aenter__()
        self._given, self._holder, self._driver_transaction = given, holder, None
        try:
            refuse_begun(given)
        except ConfigurationError as error:
            await self._leave(error)
            raise
        if isinstance(given, asyncpg.Connection):
            transaction = given.transaction()
            await transaction.start()
            self._driver_transaction = transaction
        speaker = await speaker_of(given, _NO_AUTOCOMMIT)()
        self._begun = transaction_of(given)
        return speaker

    async def _begin_now(self) -> None:
        try:
            await super()._begin_now()
        except BaseException as error:
            await self._undo_all(error)
            raise

    def savepoint(self, *, hopeful: bool = False) -> Savepoint:  # noqa: ARG002  (the port's own; nobody shares this transaction)
        return _Point(self)

    async def leave(self, point: Savepoint, depth: int, *, failed: bool) -> None:
        """A step that fails has the transaction for itself, so all of it is undone: a session that could not write has rolled back
        already. What a session has not written yet belongs to the handler: if it cannot be written, the step has failed."""
        if self._holder is not None and not failed and depth == 1:
            try:
                await self._written()
            except BaseException as error:
                self.why = error
                await self.leave(point, depth, failed=True)
                raise
        if failed and self._holder is not None:
            self._points.pop()
            await self.end(over)
        else:
            await super().leave(point, depth, failed=failed)

    async def _written(self) -> None:
        """Makes sure that what the handler wrote is in the transaction that the record will be in."""
        if hasattr(self._given, "flush"):
            try:
                await self._given.flush()
            except Exception as error:
                instead = self.met(error)
                if instead is error:
                    raise
                raise instead from error
        self._require_there()
        if self.speaker is not None:
            await self.mark(self.speaker, "looking at what the handler has left")

    def is_there(self, speaker: Speaker) -> bool:
        return speaker.in_transaction and self._is_the_same()

    def is_lost(self) -> bool:
        return super().is_lost() and self._is_the_same()  # SQLAlchemy may close the connection once the handler has committed

    def _is_the_same(self) -> bool:
        return transaction_of(self._given) is self._begun

    def met(self, error: Exception) -> Exception:
        """The error of a handler, or what it really is: a conflict, or a lost connection, is no failure of the step."""
        lost = self.is_lost() or (super().is_lost() and getattr(error, "connection_invalidated", False))
        return taken(error, self.where, lost=lost)

    def ended(self) -> SagaError:
        return ConfigurationError(
            "the handler has committed or rolled back the transaction that its step's record belongs in, so the step is not repeated "
            "by itself; leave that to the toolkit, look at what was written, and resolve the step by hand"
        )

    async def commit(self) -> None:
        """Raises StoreConflict (did not happen, may be tried again) or StoreUnavailable (unknown whether it happened)."""
        self._require_open()
        speaker = self.speaker
        if speaker is None:
            self._over = over
            return
        self._require_there()
        if speaker.failed:
            await self.end(over)
            raise StoreConflict(f"a statement failed in the transaction at {self.where!r} before its commit; it may be tried again")
        try:
            await (self._driver_transaction or self._given).commit()
            if is_open(self._given) or (speaker.in_transaction and not speaker.lost):
                raise ConfigurationError(
                    f"what tx=... gave ({type(self._given).__name__!r}) has a transaction open after its commit, so it was none, and "
                    "nothing of the step stays; let the toolkit begin the transaction"
                )
        except BaseException as error:
            self._over = over
            instead = await self._unseen(error)
            if instead is error:
                raise
            raise instead from error
        self._over = over
        await self._leave(None)

    async def _unseen(self, error: BaseException) -> BaseException:
        """A commit that was not seen to succeed: what to raise for it, once nobody can complete it any more."""
        inner = getattr(error, "orig", None) or error
        state, said = state_of(inner), f"{type(error).__name__}: {error}"[:500]
        # A driver that refuses to commit says so without having asked the server.
        refused = not state and not isinstance(inner, OSError) and not self.is_lost() and is_open(self._given)
        if state.startswith(("23", "40")) and state != "40003":
            await self._undo_all(error)
            return StoreConflict(f"the commit at {self.where!r} was refused and did not happen ({said})")
        await self._cut_and_leave(error)
        if isinstance(error, SagaError) or not isinstance(error, Exception):
            return error
        if refused:
            return ConfigurationError(
                f"the driver does not commit what tx=... gave ({said}), so nothing of the step stays; leave no transaction() block open, "
                "and let the toolkit begin and end the transaction"
            )
        return StoreUnavailable(
            f"the commit at {self.where!r} failed ({said}) and it is unknown whether it happened; the messages come again and decide"
        )

    async def end(self, after: Callable[[], SagaError]) -> None:
        """Roll back and give the connection back."""
        self._over = self._over or after
        await self._undo_all(self.why or after())

    async def _undo_all(self, why: BaseException) -> None:
        if self._holder is None:
            return
        undone = False
        try:
            await (self._driver_transaction or self._given).rollback()
            undone = not is_open(self._given)
        except Exception as error:  # noqa: BLE001  whatever the user's driver raises
            _log.debug("a connection at %s that tx=... gave does not roll back (%s) and is closed", self.where, error)
        finally:
            await (self._leave(why) if undone else self._cut_and_leave(why))

    async def _cut_and_leave(self, why: BaseException) -> None:
        try:
            await cut(self._given)
        except Exception as error:  # noqa: BLE001  whatever the user's driver raises
            _log.warning("a connection at %s that tx=... gave could not be closed: %s", self.where, error)
        finally:
            await self._leave(why)

    async def _leave(self, why: BaseException | None) -> None:
        """What the factory raises meanwhile changes nothing: its transaction is over."""
        holder, self._holder, self.speaker = self._holder, None, None
        if holder is None:
            return
        try:
            await holder.__aexit__(None if why is None else type(why), why, None if why is None else why.__traceback__)
        except BaseException as error:
            if error is not why and not isinstance(error, Exception):
                raise
            if error is not why:
                _log.warning("tx=... failed when it was left (%s: %s), after the transaction's end", type(error).__name__, error)


class _Point(Savepoint):
    """Reads the errors of the user's own driver: a conflict, or a lost connection, is no failure of the step."""

    __slots__ = ("_own",)

    def __init__(self, transaction: OwnTransaction) -> None:
        super().__init__(transaction)
        self._own = transaction

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        instead = self._own.met(error) if isinstance(error, Exception) else error
        self._own.why = error
        await super().__aexit__(kind, error, trace)
        if instead is not error and instead is not None:
            raise instead from error


class StepTransaction:
    """What a store with a factory gives for a transaction. What is asked of it first decides: a savepoint or the user's side belongs
    to a handler, and goes on the user's connection; anything else is the toolkit's own."""

    __slots__ = ("_durable", "_factory", "_incarnation", "_inner", "_pool")

    def __init__(self, factory: Factory, pool: Pool, incarnation: str, *, durable: bool) -> None:
        self._factory = factory
        self._pool = pool
        self._incarnation = incarnation
        self._durable = durable
        self._inner: PostgresTransaction | None = None

    def _handlers(self) -> PostgresTransaction:
        if self._inner is None:
            self._inner = OwnTransaction(self._factory, self._pool, self._incarnation, durable=self._durable)
        return self._inner

    def _toolkits(self) -> PostgresTransaction:
        if self._inner is None:
            self._inner = PostgresTransaction(self._pool)
        return self._inner

    @property
    def user(self) -> UserTx:
        return self._handlers().user

    @property
    def raw(self) -> Any:
        return self._handlers().raw

    def savepoint(self, *, hopeful: bool = False) -> AbstractAsyncContextManager[None]:
        return self._handlers().savepoint(hopeful=hopeful)

    async def claim(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        return await self._toolkits().claim(service, sagas)

    async def save(self, records: Sequence[Record]) -> None:
        await self._toolkits().save(records)

    async def complete(self, service: str, ends: Sequence[Completion], now_ms: int) -> Collection[UUID]:
        return await self._toolkits().complete(service, ends, now_ms)

    async def append(
        self,
        *,
        quarantined: Sequence[Quarantined] = (),
        held: Sequence[Held] = (),
        counters: Mapping[tuple[str, str], int] | None = None,
        unhold: Sequence[int] = (),
        unlock: Sequence[SagaLock] = (),
    ) -> None:
        inner = self._toolkits()
        await inner.append(quarantined=quarantined, held=held, counters=counters, unhold=unhold, unlock=unlock)

    async def lock(self, wanted: SagaLock) -> SagaLock:
        return await self._toolkits().lock(wanted)

    async def register(self, key: BusinessKey, record: Record | None = None) -> BusinessKey:
        return await self._toolkits().register(key, record)

    async def commit(self) -> None:
        await self._toolkits().commit()

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._inner is not None:
            await self._inner.close()
