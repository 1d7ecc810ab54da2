"""One service's database: row locks, buffered writes, commits that may be refused or whose result is not known.

As weak as a database at READ COMMITTED may be: a claim sees the rows there are when it begins (and their values once they are
its own), and a row that does not exist yet is not locked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from saga_choreo.errors import StoreConflict
from saga_choreo.model.record import ORIGIN, Record, RecordKey
from saga_choreo.ports.store import AnnouncedMark
from saga_choreo.testing.simulator.effects import Effect

if TYPE_CHECKING:
    from saga_choreo.testing.simulator.world import World

__all__ = ["SimulatedStore", "SimulatedTransaction", "Watcher"]

Write = tuple[Record | None, Record]


class Watcher(Protocol):
    """Is told of every commit."""

    def committed(self, writes: Sequence[Write], effects: Sequence[Effect]) -> None: ...


class SimulatedTransaction:
    """What one transaction has locked and wants to write."""

    __slots__ = ("counters", "effects", "is_over", "locks", "quarantined", "writes")

    def __init__(self) -> None:
        self.locks: list[RecordKey] = []
        self.writes: dict[RecordKey, Record] = {}
        self.effects: list[Effect] = []
        self.quarantined = 0
        self.counters: dict[str, int] = {}
        self.is_over = False


class SimulatedStore:
    """Committed records by saga, with the two small indexes that timers and relay look at."""

    def __init__(self, world: World, service: str, watcher: Watcher) -> None:
        self._world = world
        self.service = service
        self._watcher = watcher
        self.records: dict[UUID, dict[RecordKey, Record]] = {}
        self.timed: dict[RecordKey, int] = {}
        self.unsaid: dict[RecordKey, Record] = {}
        self.quarantined = 0
        self.counters: dict[str, int] = {}
        self._owners: dict[RecordKey, SimulatedTransaction] = {}
        self._waiting: dict[RecordKey, list[Callable[[], None]]] = {}

    def get(self, key: RecordKey) -> Record | None:
        return self.records.get(key.saga_id, {}).get(key)

    def keys_of(self, sagas: Sequence[UUID]) -> list[RecordKey]:
        return [key for saga in sagas for key in sorted(self.records.get(saga, ()))]

    def claim(self, transaction: SimulatedTransaction, keys: Sequence[RecordKey]) -> RecordKey | None:
        """Lock these rows. Returns a row that another transaction has, and then has locked nothing more."""
        for key in keys:
            if self._owners.get(key, transaction) is not transaction:
                return key
        for key in keys:
            self._lock(transaction, key)
        return None

    def when_free(self, key: RecordKey, call: Callable[[], None]) -> None:
        self._waiting.setdefault(key, []).append(call)

    def _lock(self, transaction: SimulatedTransaction, key: RecordKey) -> None:
        if key not in self._owners:
            self._owners[key] = transaction
            transaction.locks.append(key)

    def save(self, transaction: SimulatedTransaction, records: Sequence[Record]) -> None:
        """Buffer writes. Raises StoreConflict on a wrong version, and for a row that another transaction inserts just now."""
        for record in records:
            key = record.record_key
            stored = transaction.writes.get(key) or self.get(key)
            expected = 1 if stored is None else stored.version + 1
            if record.version != expected or self._owners.get(key, transaction) is not transaction:
                if stored is None or record.version == 1:
                    self._world.saw("two inserts of one record met")
                raise StoreConflict(f"record {key!r} was changed by another transaction")
            self._lock(transaction, key)
            transaction.writes[key] = record

    def commit(self, transaction: SimulatedTransaction) -> list[Record]:
        """Make the writes facts. Returns the records."""
        writes: list[Write] = []
        for key, record in transaction.writes.items():
            rows = self.records.setdefault(key.saga_id, {})
            writes.append((rows.get(key), record))
            rows[key] = record
            self._index(key, record)
        self.quarantined += transaction.quarantined
        for name, count in transaction.counters.items():
            self.counters[name] = self.counters.get(name, 0) + count
        effects = transaction.effects
        self.end(transaction)
        self._watcher.committed(writes, effects)
        return [record for _, record in writes]

    def _index(self, key: RecordKey, record: Record) -> None:
        if record.due_ms is None:
            self.timed.pop(key, None)
        else:
            self.timed[key] = record.due_ms
        if record.announced < record.version:
            self.unsaid[key] = record
        else:
            self.unsaid.pop(key, None)

    def end(self, transaction: SimulatedTransaction) -> None:
        """Free its locks; what was not committed is forgotten."""
        if transaction.is_over:
            return
        transaction.is_over = True
        for key in transaction.locks:
            del self._owners[key]
            for call in self._waiting.pop(key, ()):
                self._world.soon(call)

    def due(self, now_ms: int) -> list[RecordKey]:
        """The longest waiting first."""
        return [key for _, key in sorted((due_ms, key) for key, due_ms in self.timed.items() if due_ms <= now_ms)]

    def unannounced(self, before_ms: int, start_before_ms: int) -> list[Record]:
        return [
            record
            for key, record in sorted(self.unsaid.items())
            if record.changed_ms < (start_before_ms if key.step == ORIGIN else before_ms)
        ]

    def mark_announced(self, marks: Sequence[AnnouncedMark]) -> None:
        for mark in marks:
            record = self.get(mark.key)
            if record is not None and record.announced < min(mark.version, record.version):
                record = replace(record, announced=min(mark.version, record.version))
                self.records[mark.key.saga_id][mark.key] = record
                self._index(mark.key, record)
