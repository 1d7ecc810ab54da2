"""A step's transaction on a connection of the user's own: a SQLAlchemy session or connection, psycopg, or asyncpg from another pool.

The factory is called when the step first writes; what it gives is the step's alone, and ends with it. The step's record is written
on that very connection, so it commits together with what the handler wrote, by whatever means. Only a transaction that begins with
a handler is such a one: what the toolkit does by itself stays on its own pool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from saga_choreo.errors import ConfigurationError, SagaError, StoreConflict, StoreUnavailable
from saga_choreo.ports import BusinessKey, Completion, Held, Quarantined, Record, SagaLock, UserTx
from saga_choreo_postgres.faults import is_theirs, state_of, translated
from saga_choreo_postgres.joined import JoinedTransaction, speaker_of
from saga_choreo_postgres.pool import Pool
from saga_choreo_postgres.speakers import Speaker
from saga_choreo_postgres.transaction import PostgresTransaction, Savepoint, over

if TYPE_CHECKING:
    from saga_choreo.ports import Transaction

__all__ = ["Factory", "OwnTransaction", "StepTransaction"]

Factory = Callable[[], AbstractAsyncContextManager[Any]]


class OwnTransaction(JoinedTransaction):
    """On a connection that the factory makes: begun, committed and closed here, through the user's own object."""

    __slots__ = ("_driver_transaction", "_factory", "_holder")

    def __init__(self, factory: Factory, pool: Pool, incarnation: str, *, durable: bool) -> None:
        super().__init__(None, self._speaker, pool, incarnation, durable=durable)
        self._factory = factory
        self._holder: AbstractAsyncContextManager[Any] | None = None
        self._driver_transaction: Any = None

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
        self._given, self._holder = given, holder
        if type(given).__module__.partition(".")[0] == "asyncpg":
            self._driver_transaction = given.transaction()
            await self._driver_transaction.start()
        return await speaker_of(given)()

    def savepoint(self, *, hopeful: bool = False) -> Savepoint:  # noqa: ARG002  (the port's own; nobody shares this transaction)
        return _Point(self)

    async def leave(self, point: Savepoint, depth: int, *, failed: bool) -> None:
        """A step that fails has the transaction for itself, so all of it is undone: a session that could not write has rolled back
        already. What a session has not written yet belongs to the handler: if it cannot be written, the step has failed."""
        if self._holder is not None and not failed and depth == 1:
            try:
                await self._written()
            except BaseException:
                await self.leave(point, depth, failed=True)
                raise
        if failed and self._holder is not None:
            self._points.pop()
            await self.end(over)
        else:
            await super().leave(point, depth, failed=failed)

    async def _written(self) -> None:
        if hasattr(self._given, "flush"):
            try:
                await self._given.flush()
            except Exception as error:
                taken = _taken(error, self.where)
                if taken is error:
                    raise
                raise taken from error
        if self.speaker is None or not self.speaker.in_transaction:
            raise ConfigurationError(
                "the handler has committed or rolled back the transaction that its step's record belongs in, so the step is not repeated "
                "by itself; leave that to the toolkit, look at what was written, and resolve the step by hand"
            )

    async def commit(self) -> None:
        """Raises StoreConflict (did not happen, may be tried again) or StoreUnavailable (unknown whether it happened)."""
        self._require_open()
        if self.speaker is None:
            self._over = over
            return
        try:
            await (self._driver_transaction or self._given).commit()
        except Exception as error:
            raise await self._refused(error) from error
        finally:
            await self._close()
        self._over = over

    async def _refused(self, error: Exception) -> SagaError:
        state = state_of(error) or state_of(getattr(error, "orig", None) or error)
        said = f"{type(error).__name__}: {error}"[:500]
        if state.startswith(("23", "40")) and state != "40003":
            return StoreConflict(f"the commit at {self.where!r} was refused and did not happen ({said})")
        return StoreUnavailable(
            f"the commit at {self.where!r} failed ({said}) and it is unknown whether it happened; the messages come again and decide"
        )

    async def end(self, after: Callable[[], SagaError]) -> None:
        """Roll back and give the connection back."""
        self._over = self._over or after
        if self._holder is None:
            return
        try:
            await (self._driver_transaction or self._given).rollback()
        except Exception:  # noqa: BLE001, S110  a connection that cannot roll back is closed, and the server does it
            pass
        finally:
            await self._close()

    async def _close(self) -> None:
        holder, self._holder, self.speaker = self._holder, None, None
        if holder is not None:
            await holder.__aexit__(None, None, None)


class _Point(Savepoint):
    """Reads the errors of the user's own driver: a conflict, or a lost connection, is no failure of the step."""

    __slots__ = ()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await super().__aexit__(kind, error, trace)
        if isinstance(error, Exception) and (taken := _taken(error, self._transaction.where)) is not error:
            raise taken from error


def _taken(error: Exception, where: str) -> Exception:
    """The toolkit's error where the server, not the statement, is at fault; else the very same."""
    inner = getattr(error, "orig", None) or error
    state = state_of(inner)
    if not state or isinstance(error, SagaError) or is_theirs(inner, lost=False):
        return error
    return translated(inner, where, "running a statement of the step")


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
