"""One transaction: what it reads is remembered, what it writes stays in this process, and one script compares and writes it all.

No lock is held on the server meanwhile: a saga's hash has a revision, raised by every commit that writes to it, and a commit whose sagas
are not at the revisions it has read is a StoreConflict. So nothing has to be cleaned up after a process that died in between.

When the process dies before `commit` nothing of the transaction was written; in `commit`, all or nothing; after it, all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any
from uuid import UUID

from saga_choreo.errors import ConfigurationError, SagaError, StoreConflict
from saga_choreo.ports import BusinessKey, Completion, Held, Quarantined, Record, SagaLock, UserTx, completed_among
from saga_choreo_redis.draft import Commit, Draft, LockName, SagaName, key_field
from saga_choreo_redis.keys import Keys, place_in
from saga_choreo_redis.link import Link
from saga_choreo_redis.packing import held_of, key_of, record_of
from saga_choreo_redis.scripts import COMMIT

__all__ = ["RedisTransaction", "RedisTransactionBlock", "records_of"]


class RedisTransaction:
    """What `RedisStore.transaction()` gives."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._over: SagaError | None = None
        self._draft = Draft()
        self._points: list[_Savepoint] = []
        # What the decisions of this transaction rest on: a saga's revision and records, the version of a record, a lock's holder.
        self._claimed: dict[SagaName, tuple[str, dict[str, Record]]] = {}
        self._versions: dict[tuple[str, UUID, str], str] = {}
        self._holders: dict[LockName, str] = {}

    @property
    def user(self) -> UserTx:
        raise ConfigurationError(
            "Redis has no transaction that a step could write in, so ctx.tx cannot be used here; declare the step external=True "
            "and let it call what it has to, or keep this service's records in PostgreSQL or SQLite"
        )

    @property
    def raw(self) -> Any:
        return self.user

    async def claim(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        self._require_open()
        wanted = sorted(set(sagas))
        new = [saga_id for saga_id in wanted if (service, saga_id) not in self._claimed]
        found = await self._link.read_all([("HGETALL", self._keys.saga(service, saga_id)) for saga_id in new])
        for saga_id, fields in zip(new, found, strict=True):
            stored = as_map(fields)
            records = {place_in(record): record for record in records_of(stored)}
            self._claimed[service, saga_id] = (stored.get(b"rev", b"").decode(), records)
        return [record for saga_id in wanted for record in self._of_saga(service, saga_id)]

    async def save(self, records: Sequence[Record]) -> None:
        self._require_open()
        await self._look_up_versions(records)
        for record in records:
            known = self._draft.records.get((*_saga(record), record.definition, record.step))
            stored = known.version if known is not None else int(self._version_of(record) or 0)
            if record.version != stored + 1:
                self._conflict(
                    f"step {record.step!r} of saga {str(record.saga_id)!r} in service {record.service!r} is at version {stored}, not "
                    f"{record.version - 1}; nothing was saved: claim again and decide anew"
                )
            self._writing().records[(*_saga(record), record.definition, record.step)] = record

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
        draft = self._writing()
        draft.quarantined.extend(quarantined)
        draft.held.extend(held)
        draft.unhold.extend(unhold)
        for name, more in (counters or {}).items():
            draft.counters[name] = draft.counters.get(name, 0) + more
        for one in unlock:
            if draft.locks.get((one.service, one.name)) == one.saga_id:
                draft.locks[one.service, one.name] = None
            else:
                draft.unlocks.add((one.service, one.name, one.saga_id))

    async def lock(self, wanted: SagaLock) -> SagaLock:
        self._require_open()
        name: LockName = (wanted.service, wanted.name)
        if name not in self._holders:
            stored = await self._link.read("HGET", self._keys("lock", wanted.service), wanted.name)
            self._holders[name] = stored.decode() if stored else ""
        holder = self._holder(name)
        if holder is not None and holder != wanted.saga_id:
            return replace(wanted, saga_id=holder)
        self._writing().locks[name] = wanted.saga_id
        return wanted

    async def register(self, key: BusinessKey, record: Record | None = None) -> BusinessKey:
        self._require_open()
        name = (key.service, key.choreography, key.key)
        known = self._draft.keys.get(name)
        if known is not None:
            return known
        stored = await self._link.read("HGET", self._keys("key"), key_field(*name))
        if stored:
            return key_of(*name, stored)
        self._writing().keys[name] = key
        if record is not None:
            await self.save([record])
        return key

    def savepoint(self, *, hopeful: bool = False) -> _Savepoint:  # noqa: ARG002  (the port's own)
        """One costs next to nothing here, so there is no hoping."""
        return _Savepoint(self)

    async def commit(self) -> None:
        """Raises StoreConflict (did not happen) or StoreUnavailable (unknown whether it happened)."""
        self._require_open()
        draft = self._draft
        if draft.is_empty:
            self.close()
            return
        commit = Commit(self._keys)
        self._say_what_must_hold(commit, draft)
        commit.write(draft, await self._still_held(draft.unhold))
        try:
            failed = await self._link.run(COMMIT, commit.keys, commit.arguments)
        except BaseException:
            self.close()
            raise
        if failed:
            self._conflict(f"{commit.blame[failed - 1]}; nothing was saved: claim again and decide anew")
        self.close()

    def close(self) -> None:
        """Forget what is not committed."""
        self._over = self._over or SagaError(
            "this Redis transaction is over (committed or rolled back), so nothing more can be written in it; "
            "use a store's transaction only inside its block"
        )

    def enter(self, point: _Savepoint) -> None:
        self._points.append(point)

    def leave(self, point: _Savepoint, before: Draft | None) -> None:
        if not self._points or self._points[-1] is not point:
            raise SagaError(
                "savepoints of one transaction must be left in reverse order; do not use one transaction from several tasks"
            )
        self._points.pop()
        if before is not None:
            self._draft = before

    def _say_what_must_hold(self, commit: Commit, draft: Draft) -> None:
        for (service, saga_id), (revision, _) in self._claimed.items():
            blame = f"saga {str(saga_id)!r} was changed in service {service!r} by another transaction"
            commit.check(self._keys.saga(service, saga_id), "rev", revision, blame)
        for record in draft.records.values():
            if _saga(record) not in self._claimed:
                blame = f"step {record.step!r} of saga {str(record.saga_id)!r} was changed by another transaction"
                saga, place = self._keys.saga(*_saga(record)), place_in(record)
                commit.check(saga, f"v{place}", self._versions[(*_saga(record), place)], blame)
        for service, name in draft.locks:
            commit.check(self._keys("lock", service), name, self._holders[service, name], f"the lock {name!r} changed hands")
        for service, choreography, key in draft.keys:
            commit.check(self._keys("key"), key_field(service, choreography, key), "", f"the business key {key!r} was registered")

    async def _look_up_versions(self, records: Sequence[Record]) -> None:
        """Of records that were not claimed here: one round trip for all of them."""
        named = {(*_saga(record), place_in(record)) for record in records if _saga(record) not in self._claimed}
        new = sorted(named - self._versions.keys())
        found = await self._link.read_all([("HGET", self._keys.saga(service, saga), f"v{place}") for service, saga, place in new])
        self._versions.update((name, (version or b"").decode()) for name, version in zip(new, found, strict=True))

    def _version_of(self, record: Record) -> str | int:
        claimed = self._claimed.get(_saga(record))
        if claimed is None:
            return self._versions[(*_saga(record), place_in(record))]
        known = claimed[1].get(place_in(record))
        return known.version if known is not None else 0

    def _of_saga(self, service: str, saga_id: UUID) -> list[Record]:
        found = {record.record_key: record for record in self._claimed[service, saga_id][1].values()}
        found.update((r.record_key, r) for r in self._draft.records.values() if _saga(r) == (service, saga_id))
        return [found[key] for key in sorted(found)]

    def _holder(self, name: LockName) -> UUID | None:
        if name in self._draft.locks:
            return self._draft.locks[name]
        stored = self._holders[name]
        holder = UUID(hex=stored) if stored else None
        return None if holder is None or (*name, holder) in self._draft.unlocks else holder

    async def _still_held(self, numbers: Sequence[int]) -> dict[int, Held]:
        if not numbers:
            return {}
        found = await self._link.read("HMGET", self._keys("held"), *numbers)
        return {number: held_of(number, one, told=False) for number, one in zip(numbers, found, strict=True) if one is not None}

    def _writing(self) -> Draft:
        """The draft, with every open savepoint really set."""
        self._require_open()
        for point in self._points:
            point.set(self._draft)
        return self._draft

    def _require_open(self) -> None:
        if self._over is not None:
            raise type(self._over)(*self._over.args)

    def _conflict(self, text: str) -> None:
        """A conflict ends the whole transaction."""
        self._over = StoreConflict(text)
        raise StoreConflict(text)


def _saga(record: Record) -> SagaName:
    return record.service, record.saga_id


def as_map(fields: Any) -> dict[bytes, bytes]:
    """A hash as the server gives it: names and values in turn."""
    return dict(zip(fields[::2], fields[1::2], strict=True))


def records_of(stored: Mapping[bytes, bytes]) -> list[Record]:
    """The records in a saga's hash, in key order."""
    found = [
        record_of(value, int(stored.get(b"a" + name[1:], b"0")))
        for name, value in stored.items()
        if name[:1] == b"r" and name != b"rev"
    ]
    return sorted(found, key=lambda record: record.record_key)


class RedisTransactionBlock:
    """`async with store.transaction() as transaction`: forgotten unless committed when the block is left."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: RedisTransaction) -> None:
        self._transaction = transaction

    async def __aenter__(self) -> RedisTransaction:
        return self._transaction

    async def __aexit__(self, *left: object) -> None:
        self._transaction.close()


class _Savepoint:
    """A copy of the draft, made at the first write inside."""

    __slots__ = ("_before", "_transaction")

    def __init__(self, transaction: RedisTransaction) -> None:
        self._transaction = transaction
        self._before: Draft | None = None

    def set(self, draft: Draft) -> None:
        if self._before is None:
            self._before = draft.copy()

    async def __aenter__(self) -> None:
        self._transaction.enter(self)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._transaction.leave(self, self._before if kind is not None else None)
