"""What one transaction wants to change, and the script's arguments that say so. Pure: records in, words out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from saga_choreo.ports import ORIGIN, BusinessKey, Held, Outcome, Parked, Quarantined, Record, State
from saga_choreo_redis.keys import Keys, member_of, place_in
from saga_choreo_redis.packing import fades_ms, pack_held, pack_key, pack_quarantined, pack_record

__all__ = ["Commit", "Draft", "LockName", "SagaName", "key_field", "may_end"]

SagaName = tuple[str, UUID]
LockName = tuple[str, str]
_ENDED_ORIGIN = (State.COMPLETED, State.ABORTED, State.REFUSED)
_BUSY = (State.RUNNING, State.COMPENSATING)


@dataclass(slots=True)
class Draft:
    """What a transaction has written so far. A savepoint is a copy of it."""

    records: dict[tuple[str, UUID, str, int], Record] = field(default_factory=dict[tuple[str, UUID, str, int], Record])
    keys: dict[tuple[str, str, str], BusinessKey] = field(default_factory=dict[tuple[str, str, str], BusinessKey])
    quarantined: list[Quarantined] = field(default_factory=list[Quarantined])
    held: list[Held] = field(default_factory=list[Held])
    unhold: list[int] = field(default_factory=list[int])
    counters: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    # Locks taken here, or taken and given up again (None).
    locks: dict[LockName, UUID | None] = field(default_factory=dict[LockName, "UUID | None"])
    unlocks: set[tuple[str, str, UUID]] = field(default_factory=set[tuple[str, str, UUID]])

    def copy(self) -> Draft:
        return Draft(
            dict(self.records),
            dict(self.keys),
            list(self.quarantined),
            list(self.held),
            list(self.unhold),
            dict(self.counters),
            dict(self.locks),
            set(self.unlocks),
        )

    @property
    def is_empty(self) -> bool:
        appended = self.quarantined or self.held or self.unhold or self.counters or self.unlocks
        return not (self.records or self.keys or self.locks or appended)


def may_end(record: Record) -> bool:
    """Whether the record may be forgotten once all it says is announced: it does not run, undo, or wait for a person."""
    if record.row.parked is not Parked.NO:
        return False
    if record.step == ORIGIN:
        return record.row.state in _ENDED_ORIGIN
    return record.row.outcome is not Outcome.OPEN and record.row.state not in _BUSY


class Commit:
    """Builds the keys and arguments of the commit script. `blame` says, per check, whose failure it is."""

    def __init__(self, keys: Keys) -> None:
        self._named = keys
        self.keys: list[str] = [keys("meta")]
        self._numbers: dict[str, int] = {self.keys[0]: 1}
        self._checks: list[Any] = []
        self._does: list[Any] = []
        self.blame: list[str] = []

    @property
    def arguments(self) -> list[Any]:
        return [len(self.blame), *self._checks, *self._does]

    def check(self, key: str, name: str | bytes, value: str | bytes, blame: str) -> None:
        self._checks += (self._key(key), name, value)
        self.blame.append(blame)

    def write(self, draft: Draft, held: dict[int, Held]) -> None:
        """`held` are the messages that are taken off hold, as far as they are still there."""
        for record in draft.records.values():
            self._put(record)
        for service, saga_id in {(record.service, record.saga_id) for record in draft.records.values()}:
            self.do("HINCRBY", self._named.saga(service, saga_id), "rev", 1)
        for key in draft.keys.values():
            self._put_key(key)
        for message in draft.quarantined:
            self.add_letter(message)
        for waiting in draft.held:
            h = waiting.service
            by_number = self._named("held", h, waiting.definition)
            self._number("held", pack_held(waiting), {self._named("waiting", h): waiting.received_ms, by_number: ""}, h)
        for number, gone in held.items():
            self._unhold(number, gone)
        for (service, name), more in draft.counters.items():
            self.do("HINCRBY", self._named("counter", service), name, more)
            self.serves(service)
        for service, name, saga_id in draft.unlocks:
            self._does += ("U", self._key(self._named("lock", service)), name, saga_id.hex)
        for (service, name), holder in draft.locks.items():
            key_name = self._named("lock", service)
            if holder is None:
                self.do("HDEL", key_name, name)
            else:
                self.do("HSET", key_name, name, holder.hex)

    def add_letter(self, letter: Quarantined) -> None:
        named, service = self._named, letter.service
        indexes: dict[str, int | str] = {
            named("came", service): letter.received_ms,
            named("quarantined", service): "",
            named("letters", service, letter.state): "",
        }
        fades = fades_ms(letter.state, max(letter.received_ms, letter.state_ms))
        if fades != "":
            indexes[named("quarantine", service)] = fades
        self._number("quarantine", pack_quarantined(letter), indexes, service)

    def drop_key(self, service: str, choreography: str, key: str, stored: bytes) -> None:
        name = key_field(service, choreography, key)
        self.check(self._named("key"), name, stored, f"the business key {key!r} was registered anew")
        self.do("HDEL", self._named("key"), name)

    def drop_member(self, key: str, member: bytes) -> None:
        self.do("ZREM", key, member)

    def _key(self, key: str) -> int:
        number = self._numbers.get(key)
        if number is None:
            self.keys.append(key)
            number = self._numbers[key] = len(self.keys)
        return number

    def do(self, command: str, key: str, *words: Any) -> None:
        self._does += ("C", command, self._key(key), len(words), *words)

    def serves(self, service: str) -> None:
        self.do("SADD", self._named("services"), service)

    def _put(self, record: Record) -> None:
        service, named, member = record.service, self._named, member_of(record)
        self._does += (
            "P",
            self._key(named.saga(service, record.saga_id)),
            self._key(named.unannounced(record)),
            member,
            place_in(record),
            record.version,
            record.announced,
            record.changed_ms,
            pack_record(record),
        )
        self._index("due", service, member, record.due_ms)
        self._index("parked", service, member, None if record.row.parked is Parked.NO else 0)
        self._index("ended", service, member, 0 if may_end(record) else None)
        if record.version == 1:
            self.do("ZADD", named("sagas", service), 0, record.saga_id.hex)
            self.do("ZADD", named("sagas", service, record.choreography), 0, record.saga_id.hex)
            self.serves(service)

    def _index(self, name: str, service: str, member: str, score: int | None) -> None:
        if score is None:
            self.do("ZREM", self._named(name, service), member)
        else:
            self.do("ZADD", self._named(name, service), score, member)

    def _put_key(self, key: BusinessKey) -> None:
        named = self._named
        self.do("HSET", named("key"), key_field(key.service, key.choreography, key.key), pack_key(key))
        self.do("ZADD", named("keys", key.service), 0, f"{key.saga_id.hex}\0{key.choreography}\0{key.key}")
        self.do("SADD", named("choreographies", key.service), key.choreography)
        self.serves(key.service)

    def _number(self, kept: str, packed: bytes, indexes: Mapping[str, int | str], service: str) -> None:
        """A value under a number that the script gives it; the indexes have scores, or are by number ('')."""
        self._does += ("N", self._key(self._named(kept)), packed, len(indexes))
        for index, score in indexes.items():
            self._does += (self._key(index), score)
        self.serves(service)

    def _unhold(self, number: int, gone: Held) -> None:
        named = self._named
        self.do("HDEL", named("held"), number)
        for key in (named("held", gone.service, gone.definition), named("waiting", gone.service), named("told", gone.service)):
            self.do("ZREM", key, number)


def key_field(service: str, choreography: str, key: str) -> str:
    """The name of a business key in its hash."""
    return f"{service}\0{choreography}\0{key}"
