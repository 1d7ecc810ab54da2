"""Savepoints that are hoped not to be needed: none is set, and where one had to be undone, the work is done again with real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

import saga_choreo_postgres
from saga_choreo.errors import SagaError, StoreConflict
from saga_choreo.testing.store_harness import make_record, saga_id_of
from saga_choreo_postgres.store import PostgresStore
from saga_choreo_postgres.transaction import PostgresTransaction
from tests.unit.stores.postgres_support import Ctx, Schema, opened, run


class Refused(Exception):
    """What a step raises after it has written."""


async def _step(transaction: PostgresTransaction, number: int, *, refuses: bool = False) -> None:
    async with transaction.savepoint(hopeful=True):
        await transaction.save([make_record(number)])
        if refuses:
            raise Refused


async def _inside(transaction: PostgresTransaction, does: Callable[[], Awaitable[None]]) -> None:
    async with transaction.savepoint(hopeful=True):
        await does()


async def _refuse() -> None:
    raise Refused


async def _stored(store: PostgresStore, *numbers: int) -> list[int]:
    return [number for number in numbers if await store.records(saga_id_of(number))]


def test_what_steps_wrote_without_savepoints_is_committed(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store:
            async with store.transaction() as transaction:
                await _step(transaction, 1)
                await _step(transaction, 2)
                await transaction.commit()
            assert await _stored(store, 1, 2) == [1, 2]

    run(scenario())


def test_a_step_that_has_to_be_undone_is_a_conflict_once_and_undone_alone_when_tried_again(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store:
            async with store.transaction() as transaction:
                await _step(transaction, 1)
                with pytest.raises(StoreConflict, match="without a savepoint"):
                    await _step(transaction, 2, refuses=True)
                with pytest.raises(StoreConflict):
                    await transaction.commit()
            assert await _stored(store, 1, 2) == []
            async with store.transaction() as transaction:
                await _step(transaction, 1)
                with pytest.raises(Refused):
                    await _step(transaction, 2, refuses=True)
                await _step(transaction, 3)
                await transaction.commit()
            assert await _stored(store, 1, 2, 3) == [1, 3]

    run(scenario())


def test_a_step_that_refuses_before_it_writes_is_no_conflict(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store:
            async with store.transaction() as transaction:
                await _step(transaction, 1)
                with pytest.raises(Refused):
                    await _inside(transaction, _refuse)
                await transaction.commit()
            assert await _stored(store, 1) == [1]

    run(scenario())


def test_an_error_that_a_step_swallows_is_a_conflict_too(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store, store.transaction() as transaction:

            async def swallow() -> None:
                with pytest.raises(asyncpg.UndefinedTableError):
                    await transaction.user.execute("insert into nowhere values (1)")

            with pytest.raises(StoreConflict):
                await _inside(transaction, swallow)

    run(scenario())


def test_a_step_that_is_cancelled_stays_cancelled_and_nothing_of_its_transaction_is_committed(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store, store.transaction() as transaction:
            await _step(transaction, 1)

            async def overrun() -> None:
                await transaction.save([make_record(2)])
                await asyncio.sleep(30)

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_inside(transaction, overrun), 0.05)
            with pytest.raises(StoreConflict):
                await transaction.commit()
            assert await _stored(store, 1, 2) == []

    run(scenario())


def test_an_error_on_a_lent_connection_is_noticed_without_a_savepoint(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store, store.transaction() as transaction:

            async def swallow() -> None:
                raw = await saga_choreo_postgres.connection(Ctx(transaction.user))
                with pytest.raises(asyncpg.PostgresError):
                    await raw.execute("insert into nowhere values (1)")

            with pytest.raises(StoreConflict):
                await _inside(transaction, swallow)

    run(scenario())


@pytest.mark.parametrize("words", ["COMMIT", "COMMIT; BEGIN"])
def test_a_step_that_ends_the_transaction_on_a_lent_connection_is_found_out(postgres_schema: Schema, words: str) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store, store.transaction() as transaction:

            async def end() -> None:
                raw = await saga_choreo_postgres.connection(Ctx(transaction.user))
                await raw.execute(words)

            with pytest.raises(SagaError):
                await _inside(transaction, end)

    run(scenario())


def test_a_lent_connection_is_taken_back_and_the_next_step_hopes_again(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store:
            async with store.transaction() as transaction:
                async with transaction.savepoint(hopeful=True):
                    raw = await saga_choreo_postgres.connection(Ctx(transaction.user))
                    assert await raw.fetchval("select 1") == 1
                await _step(transaction, 1)
                await transaction.commit()
            assert await _stored(store, 1) == [1]

    run(scenario())
