"""Store and broker for real agents in virtual time: adapters with faults at the port; of a memory store the oracle hears all.

Every call is a place where the process may die; then the call never returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, TypeVar
from uuid import UUID

from saga_choreo.errors import BrokerUnavailable, StoreConflict, StoreUnavailable
from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.memory.store import MemoryStore
from saga_choreo.memory.transaction import MemoryTransaction
from saga_choreo.model.record import Completion, Record, RecordKey
from saga_choreo.ports.broker import BrokerFeatures, Delivery, Notice, Outgoing, Topology
from saga_choreo.ports.store import (
    AnnouncedMark,
    BusinessKey,
    Held,
    OpenSagas,
    Quarantined,
    SagaFilter,
    SagaLock,
    StoreFeatures,
    Transaction,
    UserTx,
)
from saga_choreo.runtime.plugins import WholeStore
from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.store import LockWrites, Write
from saga_choreo.testing.simulator.world import SECOND, World

__all__ = ["BY_HAND", "Boundary", "Committed", "FaultyBroker", "FaultyStore", "FaultyTransaction", "WatchedStore"]

# What a person did by hand and is about to say: belongs to the next commit of this task.
BY_HAND: ContextVar[tuple[Effect, ...]] = ContextVar("by_hand", default=())
Boundary = Callable[[], Awaitable[None]]
S = TypeVar("S", bound=WholeStore)


class Committed:
    """What one service's agents have committed, as the oracle sees it; shared by all incarnations."""

    def __init__(self, service: str, told: Callable[[str, Sequence[Write], Sequence[Effect], LockWrites], None]) -> None:
        self.service = service
        self.records: dict[UUID, dict[RecordKey, Record]] = {}
        self.quarantined: list[Quarantined] = []
        self.held: dict[int, Held] = {}
        self.counters: dict[str, int] = {}
        self.saga_locks: dict[str, UUID] = {}
        self._told = told

    def get(self, key: RecordKey) -> Record | None:
        return self.records.get(key.saga_id, {}).get(key)

    def note(self, records: Sequence[Record], effects: Sequence[Effect], locks: Mapping[tuple[str, str], UUID | None]) -> None:
        writes: list[Write] = []
        for record in records:
            rows = self.records.setdefault(record.saga_id, {})
            writes.append((rows.get(record.record_key), record))
            rows[record.record_key] = record
        for (_, name), saga_id in locks.items():
            if saga_id is None:
                self.saga_locks.pop(name, None)
            else:
                self.saga_locks[name] = saga_id
        self._told(self.service, writes, effects, [*locks.items()])


class _Block:
    """`store.transaction()`."""

    def __init__(self, store: FaultyStore[Any]) -> None:
        self._store = store
        self._inner: Any = None

    async def __aenter__(self) -> FaultyTransaction:
        self._inner = self._store.inner.transaction()
        return self._store.wrapped(await self._inner.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, traceback)


class FaultyTransaction:
    """A transaction whose calls take time and fail."""

    def __init__(self, store: FaultyStore[Any], inner: Transaction) -> None:
        self._store = store
        self._inner = inner

    @property
    def user(self) -> UserTx:
        return self._inner.user

    @property
    def raw(self) -> Any:
        return self._inner.raw

    async def claim(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        await self._store.moment()
        return await self._inner.claim(service, sagas)

    async def save(self, records: Sequence[Record]) -> None:
        await self._store.boundary()
        await self._inner.save(records)

    async def complete(self, service: str, ends: Sequence[Completion], now_ms: int) -> Collection[UUID]:
        await self._store.boundary()
        return await self._inner.complete(service, ends, now_ms)

    async def append(
        self,
        *,
        quarantined: Sequence[Quarantined] = (),
        held: Sequence[Held] = (),
        counters: Mapping[tuple[str, str], int] | None = None,
        unhold: Sequence[int] = (),
        unlock: Sequence[SagaLock] = (),
    ) -> None:
        await self._inner.append(quarantined=quarantined, held=held, counters=counters, unhold=unhold, unlock=unlock)

    async def lock(self, wanted: SagaLock) -> SagaLock:
        await self._store.boundary()
        return await self._inner.lock(wanted)

    async def register(self, key: BusinessKey, record: Record | None = None) -> BusinessKey:
        await self._store.boundary()
        return await self._inner.register(key, record)

    def savepoint(self, *, hopeful: bool = False) -> AbstractAsyncContextManager[None]:
        return self._inner.savepoint(hopeful=hopeful)

    async def commit(self) -> None:
        await self._store.moment()
        world = self._store.world
        if world.hit("commit_refused") is not None:
            world.saw("commit refused")
            raise StoreConflict("could not serialize access")
        unknown = world.hit("commit_unknown")
        if unknown is not None and unknown < 0.5:
            world.saw("commit unknown, not applied")
            raise StoreUnavailable("the connection was lost during the commit")
        await self._apply()
        await self._store.boundary()
        if unknown is not None:
            world.saw("commit unknown, applied")
            raise StoreUnavailable("the connection was lost during the commit")

    async def _apply(self) -> None:
        await self._inner.commit()


class _WatchedTransaction(FaultyTransaction):
    """The oracle hears of what it commits."""

    def __init__(self, store: WatchedStore, inner: MemoryTransaction) -> None:
        super().__init__(store, inner)
        self._committed = store.committed
        self._memory = inner

    async def _apply(self) -> None:
        draft = self._memory.draft
        records = [draft.records[place] for place in sorted(draft.records)]
        effects = [Effect(*values) for table, values in draft.lists if table == "effects"]
        committed = self._committed
        for (_, name), count in draft.counters.items():
            committed.counters[name] = committed.counters.get(name, 0) + count
        locks = dict(draft.saga_locks)
        await self._memory.commit()
        by_hand = BY_HAND.get() if records else ()
        committed.note(records, [*by_hand, *effects], locks)


class FaultyStore(Generic[S]):
    """One incarnation's connection to its service's data."""

    def __init__(self, world: World, inner: S, boundary: Boundary) -> None:
        self.world = world
        self.inner = inner
        self.boundary = boundary
        self._cut_until_s = 0.0

    def wrapped(self, inner: Any) -> FaultyTransaction:
        return FaultyTransaction(self, inner)

    async def moment(self) -> None:
        """What a call to the database takes; it may fail instead."""
        await self.boundary()
        world = self.world
        await self._while_cut()
        slow = world.hit("store_slow")
        await asyncio.sleep(world.latency.random() ** 4 * 0.03 if slow is None else slow * slow * 3)
        bad = world.hit("store_error")
        if bad is not None:
            raise StoreConflict("deadlock detected") if bad < 0.6 else StoreUnavailable("the connection was lost")

    async def _while_cut(self) -> None:
        """For a while nothing of this process gets through to its database, and no error says so: others take over what it has begun."""
        now_s, bad = self.world.now_s(), self.world.hit("store_cut")
        if bad is not None:
            self.world.saw("an agent was cut off from its store")
            self._cut_until_s = max(self._cut_until_s, now_s + 4 + bad * 12)
            self.world.cut_until_s = max(self.world.cut_until_s, self._cut_until_s)
        if self._cut_until_s > now_s:
            await asyncio.sleep(self._cut_until_s - now_s)

    async def _scan(self) -> None:
        await self.boundary()
        await self._while_cut()
        if self.world.hit("store_error") is not None:
            raise StoreUnavailable("the connection was lost")

    @property
    def features(self) -> StoreFeatures:
        return replace(self.inner.features, letters=False)  # no people replay here

    async def open(self, *, migrate: bool = True) -> None:
        await self.inner.open(migrate=migrate)

    def transaction(self) -> _Block:
        return _Block(self)

    def join(self, connection: Any) -> Transaction:
        return self.inner.join(connection)

    async def close(self) -> None:
        await self.inner.close()

    async def due(self, service: str, now_ms: int, limit: int, *, newest: bool = False) -> Sequence[RecordKey]:
        await self._scan()
        return await self.inner.due(service, now_ms, limit, newest=newest)

    async def next_due_ms(self, service: str) -> int | None:
        return await self.inner.next_due_ms(service)

    async def unannounced(
        self, service: str, before_ms: int, start_before_ms: int, limit: int, skip: int = 0, *, newest: bool = False
    ) -> Sequence[Record]:
        await self._scan()
        found = await self.inner.unannounced(service, before_ms, start_before_ms, limit, skip, newest=newest)
        if found:
            self.world.saw("republished by a scan")
        return found

    async def mark_announced(self, service: str, marks: Sequence[AnnouncedMark]) -> None:
        await self._scan()
        await self.inner.mark_announced(service, marks)

    async def held(self, service: str, definitions: Sequence[str], limit: int) -> Sequence[Held]:
        return await self.inner.held(service, definitions, limit)

    async def untold(self, service: str, before_ms: int, limit: int) -> Sequence[Held]:
        return await self.inner.untold(service, before_ms, limit)

    async def mark_told(self, service: str, numbers: Sequence[int]) -> None:
        await self.inner.mark_told(service, numbers)

    async def forget(self, service: str, before: UUID, limit: int) -> int:
        return await self.inner.forget(service, before, limit)

    async def records(self, saga_id: UUID, service: str = "") -> Sequence[Record]:
        return await self.inner.records(saga_id, service)

    async def origins(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        return await self.inner.origins(service, sagas)

    async def sagas(self, wanted: SagaFilter) -> Sequence[Sequence[Record]]:
        return await self.inner.sagas(wanted)

    async def open_sagas(self, service: str, after: UUID | None, limit: int, *, resting: bool = False) -> OpenSagas:
        return await self.inner.open_sagas(service, after, limit, resting=resting)

    async def key(self, service: str, choreography: str, key: str) -> Sequence[BusinessKey]:
        return await self.inner.key(service, choreography, key)

    async def counters(self, service: str = "") -> Mapping[str, int]:
        return await self.inner.counters(service)

    async def quarantined(self, service: str = "", limit: int = 50) -> Sequence[Quarantined]:
        return await self.inner.quarantined(service, limit)

    async def definitions(self) -> Mapping[str, bytes]:
        return await self.inner.definitions()

    async def remember(self, definition: str, canonical: bytes, holders: Sequence[str]) -> None:
        await self.inner.remember(definition, canonical, holders)

    async def holders(self, definition: str) -> Sequence[str]:
        return await self.inner.holders(definition)


class WatchedStore(FaultyStore[MemoryStore]):
    """On a memory store of this name."""

    def __init__(self, world: World, name: str, committed: Committed, boundary: Boundary) -> None:
        super().__init__(world, MemoryStore(f"memory://{name}"), boundary)
        self.committed = committed

    def wrapped(self, inner: MemoryTransaction) -> FaultyTransaction:
        return _WatchedTransaction(self, inner)


class FaultyBroker:
    """One incarnation's connection to the broker. `spread` puts a message on the bus, whatever becomes of this process."""

    def __init__(self, world: World, inner: MemoryBroker, spread: Callable[[Outgoing, int], None], boundary: Boundary) -> None:
        self._world = world
        self.inner = inner
        self._spread = spread
        self._boundary = boundary
        self.late: Mapping[str, float] = {}

    @property
    def features(self) -> BrokerFeatures:
        return self.inner.features

    async def open(self, topology: Topology) -> None:
        await self.inner.open(topology)

    async def receive(self, max_messages: int, max_wait_s: float) -> Sequence[Delivery]:
        deliveries = await self.inner.receive(max_messages, max_wait_s)
        await self._boundary()
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._boundary()
        if self._world.hit("ack_lost") is not None:
            self._world.saw("acknowledgement lost")
            raise BrokerUnavailable("the connection was lost")
        await self.inner.ack(deliveries)

    async def release(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        await self._boundary()
        await self.inner.release(deliveries, delay_s)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        answers: list[Exception | None] = []
        for message in messages:
            await self._boundary()
            await asyncio.sleep(self._world.latency.random() ** 4 * 0.01)
            answers.append(self._publish(message))
        return answers

    def _publish(self, message: Outgoing) -> Exception | None:
        world = self._world
        if world.hit("publish_refused") is not None:
            world.saw("publish refused")
            return BrokerUnavailable("the broker does not answer")
        world.took(message)
        more = world.hit("duplicate")
        for _ in range(1 if more is None else 2 + int(more * 3)):
            if world.hit("loss") is not None:
                world.saw("message lost")
                continue
            late = world.hit("delay")
            self._spread(message, 1000 if late is None else int(late * late * 30 * SECOND))
        if world.hit("publish_unknown") is not None:
            world.saw("publish accepted, but an error")
            return BrokerUnavailable("the connection was lost while waiting for the confirmation")
        return None

    async def notify(self, notice: Notice) -> None:
        await self.inner.notify(notice)

    async def notices(self) -> AsyncIterator[Notice]:
        """The word of some definitions takes its time, and what is said after it comes after it."""
        opened = asyncio.get_running_loop().time()
        async for notice in self.inner.notices():
            late_s = self.late.get(notice.subject.removeprefix("define."), 0.0) + opened - asyncio.get_running_loop().time()
            if late_s > 0 and not self._world.faults.is_healed:
                self._world.saw("a definition came late")
                await asyncio.sleep(late_s)
            yield notice

    async def close(self) -> None:
        await self.inner.close()
