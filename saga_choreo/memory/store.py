"""The reference store: the promises of a database, in this process and for its life only.

It has no clock, randomness, task or wait of its own except the row locks, so a simulation that uses it is deterministic.
`memory://` is private to its object; `memory://name` is shared by all stores of that name in the process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from uuid import UUID

from saga_choreo.errors import ConfigurationError, StoreUnavailable
from saga_choreo.memory.letters import MemoryLetters, forget_jobs, may_forget_letter
from saga_choreo.memory.tables import Locks, Tables
from saga_choreo.memory.transaction import JoinedMemoryTransaction, MemoryTransaction, MemoryTransactionBlock
from saga_choreo.memory.upkeep import MemoryUpkeep
from saga_choreo.ports import (
    ORIGIN,
    AnnouncedMark,
    BusinessKey,
    Held,
    OpenSagas,
    Outcome,
    Parked,
    Quarantined,
    Record,
    RecordKey,
    SagaFilter,
    State,
    StoreFeatures,
    Transaction,
    oldest_open,
    rests,
)

__all__ = ["MemoryStore"]

_ENDED_ORIGIN = (State.COMPLETED, State.ABORTED, State.REFUSED)
_BUSY = (State.RUNNING, State.COMPENSATING)


class MemoryStore(MemoryUpkeep, MemoryLetters):
    """Implements Store, Scans, Reader, Letters and Jobs. `ctx.tx` knows two statements: see `execute("append", ...)` in the docs of `user`."""

    _shared: ClassVar[dict[str, tuple[Tables, Locks]]] = {}

    def __init__(self, url: str = "memory://") -> None:
        scheme, found, name = url.partition("://")
        if scheme != "memory" or not found:
            raise ConfigurationError(
                f"the store URL {url!r} is not a memory URL; write memory:// (private) or memory://name (shared)"
            )
        self._tables, self._locks = self._shared.setdefault(name, (Tables(), Locks())) if name else (Tables(), Locks())
        self._open_transactions: dict[object, MemoryTransaction] = {}
        self._is_open = False

    @classmethod
    def drop(cls, name: str) -> None:
        """Forget the data that stores of this name share; stores that are open keep theirs."""
        cls._shared.pop(name, None)

    @property
    def features(self) -> StoreFeatures:
        return StoreFeatures(name="memory", writers=64, durable=False, shared=False, sql=False, placeholder="", letters=True)

    async def open(self, *, migrate: bool = True) -> None:
        del migrate
        self._is_open = True

    def transaction(self) -> MemoryTransactionBlock:
        return MemoryTransactionBlock(self._begin)

    def join(self, connection: Any) -> Transaction:
        """Accepts an open transaction of a memory store on the same data."""
        if isinstance(connection, MemoryTransaction) and connection.is_open_on(self._tables):
            return JoinedMemoryTransaction(connection)
        raise ConfigurationError(
            f"cannot join {type(connection).__name__!r}; the memory store joins its own open transactions only"
        )

    def crash(self) -> None:
        """What a killed process leaves: its open transactions vanish, their locks are free, committed data stays."""
        self._locks.abandon(set(self._open_transactions))
        for transaction in tuple(self._open_transactions.values()):
            transaction.end()
        self._is_open = False

    async def close(self) -> None:
        self._is_open = False

    async def due(self, service: str, now_ms: int, limit: int, *, newest: bool = False) -> Sequence[RecordKey]:
        found = [(r.due_ms, r.record_key) for r in self._records(service) if r.due_ms is not None and r.due_ms <= now_ms]
        return [key for _, key in sorted(found, reverse=newest)[:limit]]

    async def next_due_ms(self, service: str) -> int | None:
        return min((r.due_ms for r in self._records(service) if r.due_ms is not None), default=None)

    async def unannounced(
        self, service: str, before_ms: int, start_before_ms: int, limit: int, skip: int = 0, *, newest: bool = False
    ) -> Sequence[Record]:
        found = [
            r
            for r in self._records(service)
            if r.announced < r.version and r.changed_ms < (start_before_ms if r.is_start else before_ms)
        ]
        return sorted(found, key=lambda r: (r.changed_ms, r.record_key), reverse=newest)[skip : skip + limit]

    async def mark_announced(self, service: str, marks: Sequence[AnnouncedMark]) -> None:
        tables = self._committed()
        for mark in marks:
            record = tables.records.get((service, mark.key.saga_id), {}).get(mark.key)
            if record is not None and record.announced < min(mark.version, record.version):
                tables.put(replace(record, announced=min(mark.version, record.version)))

    async def held(self, service: str, definitions: Sequence[str], limit: int) -> Sequence[Held]:
        messages = self._committed().held
        return [m for _, m in sorted(messages.items()) if m.service == service and m.definition in definitions][:limit]

    async def untold(self, service: str, before_ms: int, limit: int) -> Sequence[Held]:
        messages = sorted(self._committed().held.values(), key=lambda m: (m.received_ms, m.number))
        return [m for m in messages if m.service == service and not m.told and m.received_ms < before_ms][:limit]

    async def mark_told(self, service: str, numbers: Sequence[int]) -> None:
        messages = self._committed().held
        for number in numbers:
            found = messages.get(number)
            if found is not None and found.service == service:
                messages[number] = replace(found, told=True)

    async def forget(self, service: str, before: UUID, limit: int) -> int:
        """Counts every row it deletes, at most `limit`. Quarantined messages, and held ones that were told, go by the time
        they were received; a business key goes once no record of its saga is left."""
        tables = self._committed()
        old = sorted(r.record_key for r in self._records(service) if r.saga_id < before and _may_go(r))[:limit]
        for key in old:
            group = tables.records[(service, key.saga_id)]
            del group[key]
            if not group:
                del tables.records[(service, key.saga_id)]
        keys = [
            n
            for n, k in tables.keys.items()
            if n[0] == service and k.saga_id < before and (service, k.saga_id) not in tables.records
        ]
        keys = keys[: limit - len(old)]
        for name in keys:
            del tables.keys[name]
        started_ms = before.int >> 80  # a UUIDv7 begins with its Unix time in milliseconds
        late = [n for n, q in tables.quarantined.items() if q.service == service and may_forget_letter(q, started_ms)]
        late = late[: limit - len(old) - len(keys)]
        for number in late:
            del tables.quarantined[number]
        told = [n for n, m in tables.held.items() if m.service == service and m.told and m.received_ms < started_ms]
        told = told[: limit - len(old) - len(keys) - len(late)]
        for number in told:
            del tables.held[number]
        gone = len(old) + len(keys) + len(late) + len(told)
        return gone + forget_jobs(tables, service, started_ms, limit - gone)

    async def records(self, saga_id: UUID, service: str = "") -> Sequence[Record]:
        """By service, then in key order."""
        found = [r for r in self._records(service) if r.saga_id == saga_id]
        return sorted(found, key=lambda r: (r.service, r.record_key))

    async def origins(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        return [record for record in self._records(service) if record.step == ORIGIN and record.saga_id in set(sagas)]

    async def sagas(self, wanted: SagaFilter) -> Sequence[Sequence[Record]]:
        groups: dict[UUID, list[Record]] = {}
        for record in self._records(wanted.service):
            if (wanted.before is None or record.saga_id < wanted.before) and wanted.choreography in ("", record.choreography):
                groups.setdefault(record.saga_id, []).append(record)
        if wanted.parked:
            groups = {saga_id: group for saga_id, group in groups.items() if any(r.row.parked is not Parked.NO for r in group)}
        newest = sorted(groups, reverse=True)[: wanted.limit]
        return [sorted(groups[saga_id], key=lambda r: (r.service, r.record_key)) for saga_id in newest]

    async def open_sagas(self, service: str, after: UUID | None, limit: int, *, resting: bool = False) -> OpenSagas:
        wanted: dict[UUID, bool] = {}
        for r in self._records(service):
            if (after is None or r.saga_id > after) and (resting or r.due_ms is not None):
                wanted[r.saga_id] = wanted.get(r.saga_id, False) or not resting or rests(r)
        sagas, looked_to = oldest_open([sorted(wanted.items())[:limit]], limit)
        return OpenSagas([await self.records(saga_id, service) for saga_id in sagas], looked_to)

    async def key(self, service: str, choreography: str, key: str) -> Sequence[BusinessKey]:
        """Newest saga first, at most 1000."""
        keys = self._committed().keys.values()
        found = [k for k in keys if k.key == key and service in ("", k.service) and choreography in ("", k.choreography)]
        return sorted(found, key=lambda k: k.saga_id, reverse=True)[:1000]

    async def counters(self, service: str = "") -> Mapping[str, int]:
        sums: dict[str, int] = {}
        for (owner, name), value in sorted(self._committed().counters.items()):
            if service in ("", owner):
                sums[name] = sums.get(name, 0) + value
        return sums

    async def quarantined(self, service: str = "", limit: int = 50) -> Sequence[Quarantined]:
        """Newest first."""
        messages = self._committed().quarantined
        return [m for _, m in sorted(messages.items(), reverse=True) if service in ("", m.service)][:limit]

    async def definitions(self) -> Mapping[str, bytes]:
        return dict(sorted(self._committed().definitions.items()))

    async def remember(self, definition: str, canonical: bytes, holders: Sequence[str]) -> None:
        """Empty `canonical`: only the holders are kept."""
        tables = self._committed()
        if canonical:
            tables.definitions.setdefault(definition, canonical)
        tables.holders.setdefault(definition, set()).update(holders)

    async def holders(self, definition: str) -> Sequence[str]:
        return sorted(self._committed().holders.get(definition, ()))

    def _begin(self) -> MemoryTransaction:
        transaction = MemoryTransaction(self._committed(), self._locks, self._ended)
        self._open_transactions[transaction.token] = transaction
        return transaction

    def _ended(self, token: object) -> None:
        self._open_transactions.pop(token, None)

    def _committed(self) -> Tables:
        if not self._is_open:
            raise StoreUnavailable("this memory store is not open; await store.open() first, and use it before close()")
        return self._tables

    def _records(self, service: str) -> list[Record]:
        groups = self._committed().records.items()
        return [record for (owner, _), group in groups if service in ("", owner) for record in group.values()]


def _may_go(record: Record) -> bool:
    """A record that still runs, undoes, waits for a person or has something to say is never forgotten, whatever its age."""
    if record.announced < record.version or record.row.parked is not Parked.NO:
        return False
    if record.step == ORIGIN:
        return record.row.state in _ENDED_ORIGIN
    return record.row.outcome is not Outcome.OPEN and record.row.state not in _BUSY
