"""What a store tells of itself: versions, keys and locks to check, and how far its history is. A store may do without."""

from __future__ import annotations

import asyncio

from saga_choreo.ports import ORIGIN, BusinessKey, SagaLock, Upkeep
from saga_choreo.testing.store_harness import SERVICE, Behaviour, StoreHarness, make_record, saga_id_of

__all__ = ["UPKEEP_BEHAVIOURS"]


async def _inspect(harness: StoreHarness) -> None:
    store = harness.make()
    assert isinstance(store, Upkeep)
    before = await store.inspect()
    assert before.works == (before.version == before.wanted)
    assert bool(before.pending) == (before.version < before.wanted)
    async with harness.store() as store:
        await store.remember("aa", b"x", [])
    again = harness.make()
    assert isinstance(again, Upkeep)
    after = await again.inspect()
    assert (after.version, after.works, after.pending) == (after.wanted, True, ())
    assert bool(after.unsafe) == (not harness.make().features.durable) or not harness.make().features.shared


async def _listed(harness: StoreHarness) -> None:
    async with harness.store() as store:
        assert isinstance(store, Upkeep)
        wanted = [
            BusinessKey(service=service, choreography="c", key=f"ü-{number}", saga_id=saga_id_of(number), digest="d")
            for number, service in ((1, SERVICE), (2, "other"), (3, SERVICE))
        ]
        locks = [SagaLock(service=service, name="customer:ü", saga_id=saga_id_of(1)) for service in ("other", SERVICE)]
        async with store.transaction() as transaction:
            for key in wanted:
                await transaction.register(key)
            for lock in locks:
                await transaction.lock(lock)
            await transaction.commit()
        assert list(await store.keys(None, 10)) == wanted[::-1]
        assert list(await store.keys(saga_id_of(3), 1)) == [wanted[1]]
        assert list(await store.locks(10)) == locks
        assert list(await store.locks(1)) == locks[:1]


async def _epochs(harness: StoreHarness) -> None:
    async with harness.store() as store:
        assert isinstance(store, Upkeep)
        first = await store.epoch(SERVICE)
        assert (first.position, first.note) == (0, "")
        raised = await asyncio.gather(*(_raised(store) for _ in range(5)))
        assert sorted(raised) == [1, 2, 3, 4, 5], "each is one above the last"
        assert (await store.advance(SERVICE, 40, "ana: “restored”")).position == 41
        assert (await store.advance(SERVICE, 7)).note == "ana: “restored”"
        assert (await store.epoch("other")).position == 0
        assert (await store.epoch(SERVICE)).identity == first.identity


async def _raised(store: Upkeep) -> int:
    return (await store.advance(SERVICE)).position


async def _kept(harness: StoreHarness) -> None:
    async with harness.store() as store:
        assert isinstance(store, Upkeep)
        told = await store.advance(SERVICE, 9, "a note")
    async with harness.store() as store:
        assert isinstance(store, Upkeep)
        assert await store.epoch(SERVICE) == told


async def _load(harness: StoreHarness) -> None:
    async with harness.store() as store:
        assert isinstance(store, Upkeep)
        assert await store.load(SERVICE, 10, 10) == (0, 0)
        made = [make_record(number, step=step, due_ms=5, announced=1) for number in range(1, 5) for step in (ORIGIN, 0)]
        made += [make_record(5, step=ORIGIN, announced=1), make_record(6, due_ms=5), make_record(7), make_record(8)]
        made.append(make_record(9, service="other", step=ORIGIN, due_ms=5))
        async with store.transaction() as transaction:
            await transaction.save(made)
            await transaction.commit()
        assert await store.load(SERVICE, 10, 10) == (4, 3), "sagas started here that are open; records to be announced"
        assert await store.load(SERVICE, 3, 2) == (3, 2), "counted up to the bounds"


_NEEDS = ("upkeep",)
UPKEEP_BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("a store can be looked at before it is made and after", _inspect, (*_NEEDS, "two_clients")),
    Behaviour("all keys and locks can be listed", _listed, _NEEDS),
    Behaviour("an epoch only rises, one by one or above what is asked for", _epochs, _NEEDS),
    Behaviour("what is under way is counted, up to a bound", _load, _NEEDS),
    Behaviour("an epoch and its note are there after a reopening", _kept, (*_NEEDS, "two_clients")),
)
