"""One service's database: row locks, buffered writes, commits that may be refused or whose result is not known.

As weak as a database at READ COMMITTED may be: a claim sees the rows there are when it begins (and their values once they are
its own), and a row that does not exist yet is not locked.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from saga_choreo.errors import StoreConflict
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports.store import AnnouncedMark, Held, Quarantined, SagaLock
from saga_choreo.testing.simulator.effects import Effect

if TYPE_CHECKING:
    from saga_choreo.testing.simulator.world import World

__all__ = ["LockWrites", "SimulatedStore", "SimulatedTransaction", "Watcher", "Write"]

Write = tuple[Record | None, Record]
# (service, name of the lock) and who has it now.
LockWrites = Iterable[tuple[tuple[str, str], UUID | None]]


class Watcher(Protocol):
    """Is told of every commit."""

    def committed(self, writes: Sequence[Write], effects: Sequence[Effect], locks: LockWrites = ()) -> None: ...


class SimulatedTransaction:
    """What one transaction has locked and wants to write."""

    __slots__ = ("counters", "effects", "held", "is_over", "locks", "quarantined", "saga_locks", "unheld", "writes")

    def __init__(self) -> None:
        self.locks: list[Hashable] = []
        self.writes: dict[RecordKey, Record] = {}
        self.effects: list[Effect] = []
        self.quarantined: list[Quarantined] = []
        self.held: list[Held] = []
        self.unheld: list[int] = []
        self.counters: dict[str, int] = {}
        self.saga_locks: dict[str, UUID | None] = {}
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
        self.quarantined: list[Quarantined] = []
        self.held: dict[int, Held] = {}
        self._held_number = 0
        self.counters: dict[str, int] = {}
        self.saga_locks: dict[str, UUID] = {}
        self._owners: dict[Hashable, SimulatedTransaction] = {}
        self._waiting: dict[Hashable, list[Callable[[], None]]] = {}
        self._waits_for: dict[SimulatedTransaction, Hashable] = {}

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

    def when_free(self, transaction: SimulatedTransaction, key: Hashable, call: Callable[[], None]) -> None:
        """Wait for another transaction. Raises StoreConflict when that one waits for this one."""
        waited: Hashable | None = key
        while waited is not None:
            holder = self._owners.get(waited)
            if holder is transaction:
                raise StoreConflict("deadlock detected")
            waited = self._waits_for.get(holder) if holder is not None else None
        self._waits_for[transaction] = key

        def go_on() -> None:
            self._waits_for.pop(transaction, None)
            call()

        self._waiting.setdefault(key, []).append(go_on)

    def take_lock(self, transaction: SimulatedTransaction, name: str, saga_id: UUID) -> UUID | None:
        """Returns who holds the semantic lock then; None: another transaction is about to change it, wait for that."""
        key = _lock_key(name)
        if self._owners.get(key, transaction) is not transaction:
            return None
        self._lock(transaction, key)
        holder = transaction.saga_locks[name] if name in transaction.saga_locks else self.saga_locks.get(name)
        if holder is None:
            transaction.saga_locks[name] = holder = saga_id
        return holder

    def free_locks(self, transaction: SimulatedTransaction, freed: Sequence[SagaLock]) -> str | None:
        """Returns the name of a lock that another transaction is about to change; wait for that, and call again."""
        for one in freed:
            holder = self.take_lock(transaction, one.name, one.saga_id)
            if holder is None:
                return one.name
            if holder == one.saga_id:
                transaction.saga_locks[one.name] = None
        return None

    def when_lock_free(self, transaction: SimulatedTransaction, name: str, call: Callable[[], None]) -> None:
        self.when_free(transaction, _lock_key(name), call)

    def _lock(self, transaction: SimulatedTransaction, key: Hashable) -> None:
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
        for waiting in transaction.held:
            self._held_number += 1
            self.held[self._held_number] = replace(waiting, number=self._held_number)
        for number in transaction.unheld:
            self.held.pop(number, None)
        for name, count in transaction.counters.items():
            self.counters[name] = self.counters.get(name, 0) + count
        for lock, saga_id in transaction.saga_locks.items():
            if saga_id is None:
                self.saga_locks.pop(lock, None)
            else:
                self.saga_locks[lock] = saga_id
        locks = [((self.service, lock), saga_id) for lock, saga_id in transaction.saga_locks.items()]
        self.end(transaction)
        self._watcher.committed(writes, transaction.effects, locks)
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
        self._waits_for.pop(transaction, None)
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
            for _, record in sorted(self.unsaid.items())
            if record.changed_ms < (start_before_ms if record.is_start else before_ms)
        ]

    def mark_announced(self, marks: Sequence[AnnouncedMark]) -> None:
        for mark in marks:
            record = self.get(mark.key)
            if record is not None and record.announced < min(mark.version, record.version):
                record = replace(record, announced=min(mark.version, record.version))
                self.records[mark.key.saga_id][mark.key] = record
                self._index(mark.key, record)


def _lock_key(name: str) -> Hashable:
    return ("lock", name)
