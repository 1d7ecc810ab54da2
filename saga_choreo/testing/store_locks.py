"""Semantic locks: one saga holds a name within a service, for exactly as long as the commits say."""

from __future__ import annotations

import asyncio

from saga_choreo.errors import StoreConflict
from saga_choreo.ports import SagaLock
from saga_choreo.testing.store_harness import SERVICE, AnyStore, Behaviour, StoreHarness, make_record, saga_id_of
from saga_choreo.testing.store_records import stored

__all__ = ["LOCK_BEHAVIOURS"]


def _lock(number: int, name: str = "customer:ü-1", service: str = SERVICE) -> SagaLock:
    return SagaLock(service=service, name=name, saga_id=saga_id_of(number))


async def _take(store: AnyStore, wanted: SagaLock) -> SagaLock:
    """In a transaction of its own, tried again as the pipeline does."""
    for _ in range(20):
        try:
            async with store.transaction() as transaction:
                held = await transaction.lock(wanted)
                await transaction.commit()
        except StoreConflict:
            await asyncio.sleep(0.01)
        else:
            return held
    raise AssertionError(f"the lock {wanted.name!r} could not even be asked for")


async def _exclusive(harness: StoreHarness) -> None:
    async with harness.store() as store:
        assert await _take(store, _lock(1)) == _lock(1)
        assert await _take(store, _lock(1)) == _lock(1), "the same saga may take it again"
        assert await _take(store, _lock(2)) == _lock(1)
        assert await _take(store, _lock(2, "customer:2")) == _lock(2, "customer:2")
        assert await _take(store, _lock(2, service="other")) == _lock(2, service="other"), "services have locks of their own"


async def _freed(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await _take(store, _lock(1))
        async with store.transaction() as transaction:
            await transaction.append(unlock=[_lock(2), _lock(1, "never taken")])
            await transaction.commit()
        assert await _take(store, _lock(2)) == _lock(1), "only the saga that holds it gives it up"
        async with store.transaction() as transaction:
            await transaction.append(unlock=[_lock(1)])
            assert await transaction.lock(_lock(2)) == _lock(2), "what is free in this transaction can be taken in it"
            await transaction.commit()
        assert await _take(store, _lock(1)) == _lock(2)


async def _with_the_commit(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            await transaction.save([make_record()])
            assert await transaction.lock(_lock(1)) == _lock(1)
        assert await _take(store, _lock(2)) == _lock(2), "a rollback leaves no lock"
        async with store.transaction() as transaction:
            await transaction.save([make_record(lock="customer:ü-1")])
            await transaction.append(unlock=[_lock(2)])
        assert await _take(store, _lock(1)) == _lock(2), "nor does it free one"
        assert list(await stored(store, 0)) == []


async def _savepoint(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            try:
                async with transaction.savepoint():
                    await transaction.lock(_lock(1))
                    raise LookupError
            except LookupError:
                pass
            assert await transaction.lock(_lock(2)) == _lock(2)
            await transaction.commit()
        assert await _take(store, _lock(1)) == _lock(2)


async def _race(harness: StoreHarness) -> None:
    async with harness.store() as store:
        held = await asyncio.gather(*(_take(store, _lock(number)) for number in range(1, 6)))
        assert len(set(held)) == 1, "all are told of the same one"


async def _reopen(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await _take(store, _lock(1))
    async with harness.store() as store:
        assert await _take(store, _lock(2)) == _lock(1)


LOCK_BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("a lock belongs to one saga of one service", _exclusive),
    Behaviour("a lock is freed by the saga that holds it only", _freed),
    Behaviour("a lock is taken and freed with the commit or not at all", _with_the_commit),
    Behaviour("a savepoint that is undone gives its lock back", _savepoint),
    Behaviour("of many sagas that want a lock at once one gets it", _race),
    Behaviour("a lock is still held after a reopening", _reopen, ("two_clients",)),
)
