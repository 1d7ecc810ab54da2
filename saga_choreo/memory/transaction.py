"""A transaction of the memory store, with the same promises as one of a database: see `tables` for how."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any
from uuid import UUID

from saga_choreo.errors import ConfigurationError, SagaError, StoreConflict
from saga_choreo.memory.tables import Draft, KeyName, LockName, Locks, Place, Tables
from saga_choreo.ports import BusinessKey, Completion, Held, Quarantined, Record, SagaLock, UserTx, completed_among

__all__ = ["JoinedMemoryTransaction", "MemoryTransaction", "MemoryTransactionBlock"]


class MemoryTransaction:
    """Locks are taken saga by saga, in order, at `claim` and at `save`, and held to the end."""

    def __init__(self, tables: Tables, locks: Locks, ended: Callable[[object], None]) -> None:
        self._tables = tables
        self._locks = locks
        self._ended = ended
        self.token = object()  # who holds the locks: this transaction and any view of it
        self._held: set[Hashable] = set()
        self._over: SagaError | None = None
        self._points: list[_Savepoint] = []
        self.draft = Draft()

    @property
    def user(self) -> UserTx:
        return _MemoryUser(self)

    @property
    def raw(self) -> MemoryTransaction:
        """There is no driver below: the transaction itself."""
        return self

    async def claim(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        wanted = sorted(set(sagas))
        for saga_id in wanted:
            await self._lock((service, saga_id))
        return [record for saga_id in wanted for record in self._of_saga(service, saga_id)]

    async def save(self, records: Sequence[Record]) -> None:
        for service, saga_id in sorted({(record.service, record.saga_id) for record in records}):
            await self._lock((service, saga_id))
        for record in records:
            self._save_one(record)

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
        for one in unlock:
            await self._unlock(one)
        draft = self.writing()
        draft.quarantined.extend(quarantined)
        draft.held.extend(held)
        draft.unhold.extend(unhold)
        for name, more in (counters or {}).items():
            draft.counters[name] = draft.counters.get(name, 0) + more

    async def register(self, key: BusinessKey, record: Record | None = None) -> BusinessKey:
        name: KeyName = (key.service, key.choreography, key.key)
        await self._lock(("key", *name))
        known = self.draft.keys.get(name) or self._tables.keys.get(name)
        if known is not None:
            return known
        self.writing().keys[name] = key
        if record is not None:
            await self.save([record])
        return key

    async def lock(self, wanted: SagaLock) -> SagaLock:
        name: LockName = (wanted.service, wanted.name)
        await self._lock(("lock", *name))
        holder = self._holder(name)
        if holder is not None and holder != wanted.saga_id:
            return replace(wanted, saga_id=holder)
        self.writing().saga_locks[name] = wanted.saga_id
        return wanted

    async def _unlock(self, one: SagaLock) -> None:
        name: LockName = (one.service, one.name)
        await self._lock(("lock", *name))
        if self._holder(name) == one.saga_id:
            self.writing().saga_locks[name] = None

    def _holder(self, name: LockName) -> UUID | None:
        return self.draft.saga_locks[name] if name in self.draft.saga_locks else self._tables.saga_locks.get(name)

    def savepoint(self, *, hopeful: bool = False) -> _Savepoint:  # noqa: ARG002  (the port's own)
        """One costs next to nothing here, so there is no hoping."""
        return _Savepoint(self)

    async def commit(self) -> None:
        self.require_open()
        _apply(self._tables, self.draft)
        self.end()

    def end(self) -> None:
        """Forget what is not committed and free the locks."""
        if self._over is None:
            self._finish(
                SagaError(
                    "this transaction is over (committed or rolled back), so nothing more can be written in it; "
                    "use ctx.tx only while the handler runs, and a store's transaction only inside its block"
                )
            )

    def is_open_on(self, tables: Tables) -> bool:
        return self._over is None and self._tables is tables

    def require_open(self) -> None:
        if self._over is not None:
            raise type(self._over)(*self._over.args)

    def writing(self) -> Draft:
        """The draft, with every open savepoint really set."""
        self.require_open()
        for point in self._points:
            point.set(self.draft)
        return self.draft

    def listed(self, name: str) -> list[tuple[Any, ...]]:
        self.require_open()
        return [*self._tables.lists.get(name, ()), *(values for table, values in self.draft.lists if table == name)]

    def enter(self, point: _Savepoint) -> None:
        self._points.append(point)

    def leave(self, point: _Savepoint, before: Draft | None) -> None:
        if not self._points or self._points[-1] is not point:
            raise SagaError(
                "savepoints of one transaction must be left in reverse order; do not use one transaction from several tasks"
            )
        self._points.pop()
        if before is not None and self._over is None:
            self.draft = before

    def _of_saga(self, service: str, saga_id: UUID) -> list[Record]:
        found = dict(self._tables.records.get((service, saga_id), {}))
        found.update((r.record_key, r) for p, r in self.draft.records.items() if p[0] == service and p[1] == saga_id)
        return [found[key] for key in sorted(found)]

    def _save_one(self, record: Record) -> None:
        place: Place = (record.service, record.saga_id, record.definition, record.step)
        known = self.draft.records.get(place) or self._tables.records.get((record.service, record.saga_id), {}).get(
            record.record_key
        )
        if record.version != (known.version if known else 0) + 1:
            conflict = StoreConflict(
                f"step {record.step!r} of saga {str(record.saga_id)!r} in service {record.service!r} is at version "
                f"{known.version if known else 0}, not {record.version - 1}; nothing was saved: claim again and decide anew"
            )
            self._refuse(conflict)
            raise conflict
        self.writing().records[place] = record

    async def _lock(self, name: Hashable) -> None:
        self.require_open()
        try:
            await self._locks.take(self.token, name)
        except StoreConflict as conflict:
            self._refuse(conflict)
            raise
        self._held.add(name)
        if self._over is not None:
            self._locks.free(self.token, {name})
            self.require_open()

    def _refuse(self, conflict: StoreConflict) -> None:
        """A conflict ends the whole transaction."""
        self._finish(conflict)

    def _finish(self, over: SagaError) -> None:
        self._over = over
        self.draft = Draft()
        self._locks.free(self.token, self._held)
        self._held = set()
        self._ended(self.token)


def _apply(tables: Tables, draft: Draft) -> None:
    for place, record in draft.records.items():
        known = tables.records.get(place[:2], {}).get(record.record_key)
        # A mark may have come since the record was read: it is no change of version, and is never taken back.
        tables.put(replace(record, announced=known.announced) if known and known.announced > record.announced else record)
    tables.keys.update(draft.keys)
    for message in draft.quarantined:
        number = tables.next_number()
        tables.quarantined[number] = replace(message, number=number)
    for waiting in draft.held:
        number = tables.next_number()
        tables.held[number] = replace(waiting, number=number)
    for number in draft.unhold:
        tables.held.pop(number, None)
    for counter, more in draft.counters.items():
        tables.counters[counter] = tables.counters.get(counter, 0) + more
    for lock, saga_id in draft.saga_locks.items():
        if saga_id is None:
            tables.saga_locks.pop(lock, None)
        else:
            tables.saga_locks[lock] = saga_id
    for name, values in draft.lists:
        tables.lists.setdefault(name, []).append(values)


class JoinedMemoryTransaction(MemoryTransaction):
    """Another view of the caller's open transaction: it commits nothing, and a conflict undoes its own call only."""

    def __init__(self, owner: MemoryTransaction) -> None:
        self.__dict__ = owner.__dict__

    async def save(self, records: Sequence[Record]) -> None:
        before = self.draft.copy()
        try:
            await super().save(records)
        except StoreConflict:
            self.draft = before
            raise

    async def commit(self) -> None:
        self.require_open()

    def _refuse(self, conflict: StoreConflict) -> None:
        """The caller decides."""


class MemoryTransactionBlock:
    __slots__ = ("_begin", "_transaction")

    def __init__(self, begin: Callable[[], MemoryTransaction]) -> None:
        self._begin = begin
        self._transaction: MemoryTransaction | None = None

    async def __aenter__(self) -> MemoryTransaction:
        self._transaction = self._begin()
        return self._transaction

    async def __aexit__(self, *left: object) -> None:
        if self._transaction is not None:
            self._transaction.end()


class _Savepoint:
    """A copy of the draft, made at the first write inside."""

    __slots__ = ("_before", "_transaction")

    def __init__(self, transaction: MemoryTransaction) -> None:
        self._transaction = transaction
        self._before: Draft | None = None

    def set(self, draft: Draft) -> None:
        if self._before is None:
            self._before = draft.copy()

    async def __aenter__(self) -> None:
        self._transaction.enter(self)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._transaction.leave(self, self._before if kind is not None else None)


class _MemoryUser:
    """`execute("append", table, *values)` adds a tuple to a list, `fetch("read", table)` returns the list. No SQL."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: MemoryTransaction) -> None:
        self._transaction = transaction

    async def execute(self, statement: str, *parameters: Any) -> None:
        table = _table(statement, "append", parameters)
        self._transaction.writing().lists.append((table, tuple(parameters[1:])))

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            await self.execute(statement, *row)

    async def fetch(self, statement: str, *parameters: Any) -> list[Any]:
        return self._transaction.listed(_table(statement, "read", parameters))

    async def fetchrow(self, statement: str, *parameters: Any) -> Any | None:
        rows = await self.fetch(statement, *parameters)
        return rows[0] if rows else None

    async def fetchval(self, statement: str, *parameters: Any) -> Any | None:
        row = await self.fetchrow(statement, *parameters)
        return row[0] if row else None


def _table(statement: str, word: str, parameters: Sequence[Any]) -> str:
    if statement != word or not parameters or not isinstance(parameters[0], str):
        raise ConfigurationError(
            f"the memory store does not understand {statement!r}; it has no SQL, only execute('append', table, *values) and "
            "fetch('read', table): use sqlite:// or postgresql:// for statements"
        )
    return parameters[0]
