"""What is special about the memory store: names, crashes, locks without a clock, and its two statements."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from saga_choreo.errors import ConfigurationError, SagaError, StoreConflict, StoreUnavailable
from saga_choreo.memory.store import MemoryStore
from saga_choreo.memory.transaction import MemoryTransaction
from saga_choreo.testing.stores import make_record, saga_id_of


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def _opened(url: str = "memory://") -> MemoryStore:
    store = MemoryStore(url)
    await store.open()
    return store


def test_stores_of_one_name_share_and_nameless_ones_do_not() -> None:
    async def work() -> None:
        first, second, private = await _opened("memory://shared"), await _opened("memory://shared"), await _opened()
        async with first.transaction() as transaction:
            await transaction.save([make_record()])
            await transaction.commit()
        assert len(await second.records(saga_id_of(0))) == 1
        assert len(await private.records(saga_id_of(0))) == 0
        MemoryStore.drop("shared")
        assert len(await (await _opened("memory://shared")).records(saga_id_of(0))) == 0

    run(work())


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="memory URL"):
        MemoryStore("sqlite:///a.db")


def test_a_crash_drops_open_transactions_and_frees_their_locks() -> None:
    async def work() -> None:
        first, second = await _opened("memory://crash"), await _opened("memory://crash")
        async with first.transaction() as lost:
            await lost.claim("payment", [saga_id_of(0)])
            await lost.save([make_record()])
            first.crash()
            async with second.transaction() as transaction:
                assert list(await transaction.claim("payment", [saga_id_of(0)])) == []
            with pytest.raises(SagaError):
                await lost.commit()
        with pytest.raises(StoreUnavailable):
            await first.records(saga_id_of(0))
        MemoryStore.drop("crash")

    run(work())


def test_a_claim_waits_for_the_transaction_that_holds_the_saga() -> None:
    async def work() -> None:
        store = await _opened()
        order: list[str] = []

        async def second() -> None:
            async with store.transaction() as transaction:
                await transaction.claim("payment", [saga_id_of(0)])
                order.append("second")

        async with store.transaction() as transaction:
            await transaction.claim("payment", [saga_id_of(0)])
            task = asyncio.create_task(second())
            for _ in range(10):
                await asyncio.sleep(0)
            order.append("first")
        await task
        assert order == ["first", "second"]

    run(work())


def test_a_circle_of_waits_is_refused_to_the_one_that_would_close_it() -> None:
    async def work() -> None:
        store = await _opened()
        one, two = store.transaction(), store.transaction()
        async with one as first, two as second:
            await first.claim("payment", [saga_id_of(1)])
            await second.claim("payment", [saga_id_of(2)])
            waiting = asyncio.create_task(first.claim("payment", [saga_id_of(2)]))
            await asyncio.sleep(0)
            with pytest.raises(StoreConflict, match="wait for each other"):
                await second.claim("payment", [saga_id_of(1)])
            assert list(await waiting) == []

    run(work())


def test_a_cancelled_wait_leaves_the_queue() -> None:
    async def work() -> None:
        store = await _opened()
        async with store.transaction() as holder:
            await holder.claim("payment", [saga_id_of(0)])

            async def claim() -> None:
                async with store.transaction() as transaction:
                    await transaction.claim("payment", [saga_id_of(0)])

            cancelled, patient = asyncio.create_task(claim()), asyncio.create_task(claim())
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await patient
            await claim()

    run(work())


def test_a_lock_handed_to_a_waiter_that_is_just_cancelled_goes_on_to_the_next() -> None:
    async def work() -> None:
        store = await _opened()

        async def claim() -> None:
            async with store.transaction() as transaction:
                await transaction.claim("payment", [saga_id_of(0)])

        async with store.transaction() as holder:
            await holder.claim("payment", [saga_id_of(0)])
            cancelled, patient = asyncio.create_task(claim()), asyncio.create_task(claim())
            await asyncio.sleep(0)
        cancelled.cancel()
        async with asyncio.timeout(5):
            await patient
        assert cancelled.cancelled()

    run(work())


@pytest.mark.parametrize(
    ("statement", "parameters"), [("insert into t values (1)", ()), ("append", ()), ("read", ("t",)), ("append", (1,))]
)
def test_what_is_not_append_is_refused_with_the_way_out(statement: str, parameters: tuple[Any, ...]) -> None:
    async def work() -> None:
        store = await _opened()
        async with store.transaction() as transaction:
            with pytest.raises(ConfigurationError, match="no SQL"):
                await transaction.user.execute(statement, *parameters)

    run(work())


def test_a_lock_that_has_just_been_handed_over_can_be_waited_for() -> None:
    """Between the hand-over and the moment its new owner goes on, the owner must not seem to wait for itself."""

    async def claim(transaction: MemoryTransaction) -> None:
        await transaction.claim("inventory", [saga_id_of(0)])

    async def work() -> None:
        store = await _opened()
        async with store.transaction() as first, store.transaction() as second, store.transaction() as third:
            await claim(first)
            second_waits = asyncio.create_task(claim(second))
            await asyncio.sleep(0)
            first.end()
            asyncio.get_running_loop().call_later(0.01, second.end)
            await claim(third)
            assert second_waits.done()

    run(work())
