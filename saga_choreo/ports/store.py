"""The store port: one record per step, written in the user's own transaction.

Four small ports with different readers: `Store` (life cycle, transactions), `Transaction` (what the pipeline does inside
one), `Scans` (relay and timers), `Reader` (people and tools). One object usually is all of `Store`, `Scans` and `Reader`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable
from uuid import UUID

from saga_choreo.model.record import Completion, Record, RecordKey, completed
from saga_choreo.model.states import Outcome, State

__all__ = [
    "AnnouncedMark",
    "BusinessKey",
    "Held",
    "OpenSagas",
    "Quarantined",
    "Reader",
    "SagaFilter",
    "SagaLock",
    "Scans",
    "Store",
    "StoreFeatures",
    "TellsOfCommit",
    "Transaction",
    "UserTx",
    "completed_among",
    "oldest_open",
    "rests",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFeatures:
    """`user_transaction`: steps may write through `ctx.tx`. `writers`: how many transactions may write at once (1 for SQLite).
    `durable`: a commit survives the machine. `shared`: several processes may use the same store. `sql`: `ctx.tx` speaks SQL;
    `placeholder` shows how parameters are written in it. `letters`: it is `Letters` and `Jobs` too (people can work on dead letters)."""

    name: str
    user_transaction: bool = True
    writers: int = 1
    durable: bool = True
    shared: bool = True
    sql: bool = True
    placeholder: str = "?"
    letters: bool = False


class AnnouncedMark(NamedTuple):
    """The emissions of this version of this record are known to be published."""

    key: RecordKey
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessKey:
    """A user's key for a saga: unique per origin service and choreography."""

    service: str
    choreography: str
    key: str
    saga_id: UUID
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A message that can never be applied, kept as it came. `code` says why, in one of a small set of words.

    `state` is 'open', 'archived' (a person put it aside) or 'resolved' (a replay has applied it), since `state_ms`, by the word of
    `operator`, who said `note`. `attempts` counts how often it was tried, `last_ms` when last (0: never again)."""

    service: str
    code: str
    detail: str
    channel: str
    headers: Mapping[str, str]
    body: bytes
    received_ms: int
    saga_id: str = ""
    number: int = 0
    agent: str = ""
    version: str = ""
    attempts: int = 1
    last_ms: int = 0
    state: str = "open"
    state_ms: int = 0
    operator: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A message of an unknown definition: kept and acknowledged, applied when the definition comes. `told`: a copy went to
    the dead-letter channel."""

    service: str
    definition: str
    channel: str
    headers: Mapping[str, str]
    body: bytes
    received_ms: int
    number: int = 0
    told: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaLock:
    """A semantic lock: at most one saga holds a name within a service, from a step until its undo or the saga's end."""

    service: str
    name: str
    saga_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaFilter:
    """What to list: newest first, at most `limit`, older than `before` (a saga id) when paging. Empty fields match all.
    `parked`: only sagas with a parked record (of that service)."""

    service: str = ""
    choreography: str = ""
    states: tuple[str, ...] = ()
    limit: int = 50
    before: UUID | None = None
    parked: bool = False


class OpenSagas(NamedTuple):
    """A page of open sagas, oldest first: one group of records per saga. `looked_to` is the last saga that was looked at, whether or not
    it is in a group; None when there are none after it."""

    groups: Sequence[Sequence[Record]]
    looked_to: UUID | None


_OVER_ORIGIN = (State.COMPLETED, State.ABORTED, State.REFUSED)
_OVER = (State.DONE, State.TOMB, State.SKIPPED, State.SKIPPED_CLEARED, State.COMPENSATED)


def rests(record: Record) -> bool:
    """It has not ended, and nothing but a message or a word will change it: it has no `due_ms`."""
    row = record.row
    is_over = row.state in _OVER_ORIGIN or (row.outcome is not Outcome.OPEN and row.state in _OVER)
    return record.due_ms is None and not is_over


def oldest_open(listed: Sequence[Sequence[tuple[UUID, bool]]], limit: int) -> tuple[list[UUID], UUID | None]:
    """For `Reader.open_sagas`, of what each service lists: sagas, oldest first and at most `limit`, and whether one is wanted. Returns
    the wanted ones as far as all services have told, and how far that is (None: to the end)."""
    looked_to = min((some[-1][0] for some in listed if some and len(some) >= limit), default=None)
    wanted = {saga for some in listed for saga, is_wanted in some if is_wanted and (looked_to is None or saga <= looked_to)}
    return sorted(wanted), looked_to


def completed_among(records: Sequence[Record], ends: Sequence[Completion], now_ms: int) -> tuple[list[Record], frozenset[UUID]]:
    """What `Transaction.complete` is to do with all records of these sagas: the ones to save, and the sagas to return."""
    now = {record.record_key: record for record in records}
    changed = {end.key: completed(now[end.key], end, now_ms) for end in ends if end.key in now}
    saved = {key: record for key, record in changed.items() if record is not None}
    now |= saved
    left = {key.saga_id for key, record in now.items() if record.row.outcome is not Outcome.COMPLETED}
    # A record that should be there, or is of another saga than the one that is meant: the caller finds out why.
    left |= {end.key.saga_id for end in ends if end.key not in now or not end.agrees_with(now[end.key])}
    return [saved[key] for key in sorted(saved)], frozenset(key.saga_id for key in now) - left


class UserTx(Protocol):
    """What a handler gets as `ctx.tx`: the transaction its step's record is written in. Parameters are positional."""

    async def execute(self, statement: str, *parameters: Any) -> None: ...
    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None: ...
    async def fetch(self, statement: str, *parameters: Any) -> list[Any]: ...
    async def fetchrow(self, statement: str, *parameters: Any) -> Any | None: ...
    async def fetchval(self, statement: str, *parameters: Any) -> Any | None: ...


class Transaction(Protocol):
    """One transaction. It really begins at the first call that needs it. All methods may raise StoreConflict (try the same
    work again) or StoreUnavailable (nothing is known)."""

    @property
    def user(self) -> UserTx:
        """The user's side of this transaction. Raises ConfigurationError where the store has none."""
        ...

    @property
    def raw(self) -> Any:
        """The driver's own connection, inside this transaction."""
        ...

    async def claim(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        """Lock and return all records of these sagas that belong to the service, in key order. Rows that do not exist yet
        are not locked: two inserts of the same record meet at `save` (StoreConflict)."""
        ...

    async def save(self, records: Sequence[Record]) -> None:
        """Write records. `version` must be one more than the stored one (or 1 for a new record), else StoreConflict."""
        ...

    async def complete(self, service: str, ends: Sequence[Completion], now_ms: int) -> Collection[UUID]:
        """Make of the records of these keys what `completed(record, end, now_ms)` does, where it is not None. Returns sagas of which the
        service has records, all of them ended as completed now and meant by their ends (`completed_among`); what is to become of the
        others is for the caller to find out, as if they had not been asked for."""
        ...

    async def append(
        self,
        *,
        quarantined: Sequence[Quarantined] = (),
        held: Sequence[Held] = (),
        counters: Mapping[tuple[str, str], int] | None = None,
        unhold: Sequence[int] = (),
        unlock: Sequence[SagaLock] = (),
    ) -> None:
        """Write what is not a record, in the same commit; counters are (service, name) -> increment; `unhold` deletes held rows;
        `unlock` frees locks that these very sagas hold (others stay)."""
        ...

    async def lock(self, wanted: SagaLock) -> SagaLock:
        """Take the lock, in this transaction, or return it as another saga holds it; the same saga may take it again."""
        ...

    async def register(self, key: BusinessKey, record: Record | None = None) -> BusinessKey:
        """Insert the business key, or return the one that is there already (with its own saga id and digest). The `record`, a new
        one, is saved with a key that is inserted, and only then."""
        ...

    def savepoint(self, *, hopeful: bool = False) -> AbstractAsyncContextManager[None]:
        """Undo what is written inside when the block is left by an exception (which passes through). Costs nothing until
        the first write inside it through `user`, `raw` or the methods above.

        `hopeful`: it will hardly have to be undone. Then a store may set none, and where it has to be undone after all, undo the
        whole transaction and raise StoreConflict: tried again, it sets real ones."""
        ...

    async def commit(self) -> None:
        """Raises StoreConflict (did not happen, may be tried again) or StoreUnavailable (unknown whether it happened)."""
        ...


@runtime_checkable
class TellsOfCommit(Protocol):
    """A joined transaction that may hear when its owner commits it."""

    def after_commit(self, tell: Callable[[], None]) -> None:
        """Call this after the owner's commit, on the event loop, where that can be heard (SQLAlchemy sessions). It may be called
        for nothing."""
        ...


class Store(Protocol):
    """A connection pool to one store. Created from a URL: `Class(url)`."""

    @property
    def features(self) -> StoreFeatures: ...

    async def open(self, *, migrate: bool = True) -> None:
        """Connect, check that commits are durable (DurabilityRefused), check or create the schema (StoreVersionError)."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction; rolled back unless committed when the block is left."""
        ...

    def join(self, connection: Any) -> Transaction:
        """The caller's own open transaction as a `Transaction`: nothing is committed here. ConfigurationError when the
        object is not a connection of a driver this store knows."""
        ...

    async def close(self) -> None: ...


class Scans(Protocol):
    """What relay, timers and retention look for. All scans are bounded, use an index, and take no lock on rows others hold."""

    async def due(self, service: str, now_ms: int, limit: int, *, newest: bool = False) -> Sequence[RecordKey]:
        """Records whose `due_ms` has come, the longest waiting first; or the `newest` first, to look at a long queue from both ends."""
        ...

    async def next_due_ms(self, service: str) -> int | None: ...

    async def unannounced(
        self, service: str, before_ms: int, start_before_ms: int, limit: int, skip: int = 0, *, newest: bool = False
    ) -> Sequence[Record]:
        """Records with `announced < version` that were changed before `before_ms` (starts: `start_before_ms`), the longest waiting
        first or the `newest` first, without the first `skip` of them."""
        ...

    async def mark_announced(self, service: str, marks: Sequence[AnnouncedMark]) -> None:
        """Raise `announced` to the given version, never lower it. Not a change of the record: `version` stays."""
        ...

    async def held(self, service: str, definitions: Sequence[str], limit: int) -> Sequence[Held]:
        """Held messages of these definitions, oldest first."""
        ...

    async def untold(self, service: str, before_ms: int, limit: int) -> Sequence[Held]:
        """Held messages received before then that are not marked as told, oldest first."""
        ...

    async def mark_told(self, service: str, numbers: Sequence[int]) -> None:
        """Mark held messages as told; numbers that are not there any more do no harm."""
        ...

    async def forget(self, service: str, before: UUID, limit: int) -> int:
        """Delete finished records (and keys, quarantine rows and held messages that were told) of sagas that started before
        this id. Returns how many."""
        ...


class Reader(Protocol):
    """Reads for people and tools; never takes a write lock. `service` may be empty: any service in the store."""

    async def records(self, saga_id: UUID, service: str = "") -> Sequence[Record]: ...

    async def origins(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        """The origin rows that this service has of these sagas, in one look; in any order."""
        ...

    async def sagas(self, wanted: SagaFilter) -> Sequence[Sequence[Record]]:
        """One group of records per saga, newest saga first. `states` are filtered by the caller of this port."""
        ...

    async def open_sagas(self, service: str, after: UUID | None, limit: int, *, resting: bool = False) -> OpenSagas:
        """Sagas that have not ended, oldest first, above this id: those with a record that has a `due_ms`, from the index of these, at
        most `limit`. Or those with a `resting` record (`rests`): no index lists them, so the next `limit` sagas are looked at, ended
        ones too, and there may be none in a page. A service of several makes a page longer."""
        ...

    async def key(self, service: str, choreography: str, key: str) -> Sequence[BusinessKey]:
        """Sagas with this business key; empty service or choreography matches any."""
        ...

    async def counters(self, service: str = "") -> Mapping[str, int]:
        """Counters by name, summed over services when none is given."""
        ...

    async def quarantined(self, service: str = "", limit: int = 50) -> Sequence[Quarantined]: ...

    async def definitions(self) -> Mapping[str, bytes]:
        """Known definitions: hash -> canonical bytes."""
        ...

    async def remember(self, definition: str, canonical: bytes, holders: Sequence[str]) -> None:
        """Keep a definition, and which services are known to hold it; both only ever grow."""
        ...

    async def holders(self, definition: str) -> Sequence[str]: ...
