"""What is PostgreSQL's own in a transaction: savepoints, swallowed errors, lost connections. On a real server."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

import saga_choreo_postgres
from saga_choreo.errors import ConfigurationError, SagaError, StoreConflict, StoreUnavailable
from saga_choreo.memory.store import MemoryStore
from saga_choreo.ports import SagaFilter
from saga_choreo.testing.postgres_server import PostgresServer
from saga_choreo.testing.stores import make_record, saga_id_of
from saga_choreo_postgres.store import PostgresStore
from tests.unit.stores.postgres_support import Ctx, Schema, opened, query, run


def test_an_error_that_the_handler_swallows_fails_its_step_only(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store, store.transaction() as transaction:
            await transaction.save([make_record(1)])

            async def step() -> None:
                async with transaction.savepoint():
                    await transaction.save([make_record(2)])
                    with pytest.raises(asyncpg.UndefinedTableError):
                        await transaction.user.execute("insert into nowhere values (1)")

            with pytest.raises(SagaError, match="swallowed the error"):
                await step()
            await transaction.save([make_record(3)])
            await transaction.commit()
            assert [len(await store.records(saga_id_of(n))) for n in (1, 2, 3)] == [1, 0, 1]

    run(scenario())


def test_an_error_swallowed_outside_of_any_savepoint_is_never_committed_over(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store, store.transaction() as transaction:
            await transaction.save([make_record(1)])
            with pytest.raises(asyncpg.UndefinedTableError):
                await transaction.user.execute("insert into nowhere values (1)")
            with pytest.raises(SagaError, match="nothing was committed"):
                await transaction.commit()
            assert not await store.records(saga_id_of(1))

    run(scenario())


def test_a_commit_that_the_server_turned_into_a_rollback_is_noticed(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store, store.transaction() as transaction:
            await transaction.save([make_record(1)])
            raw = await saga_choreo_postgres.connection(Ctx(transaction.user))
            with pytest.raises(asyncpg.PostgresError):
                await raw.execute("insert into nowhere values (1)")
            with pytest.raises(StoreConflict, match="answered COMMIT with 'ROLLBACK'"):
                await transaction.commit()
            assert not await store.records(saga_id_of(1))

    run(scenario())


def test_the_drivers_own_connection_shares_transaction_and_savepoint(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await query(url, "create table mine (word text)")
            async with store.transaction() as transaction:

                async def fails() -> None:
                    async with transaction.savepoint():
                        raw = await saga_choreo_postgres.connection(Ctx(transaction.user))
                        await raw.execute("insert into mine values ('undone')")
                        raise LookupError

                async def swallows() -> None:
                    async with transaction.savepoint():
                        raw = await saga_choreo_postgres.connection(Ctx(transaction.user))
                        with pytest.raises(asyncpg.UndefinedTableError):
                            await raw.execute("insert into nowhere values (1)")

                with pytest.raises(LookupError):
                    await fails()
                async with transaction.savepoint():
                    raw = await saga_choreo_postgres.connection(Ctx(transaction.user))
                    with pytest.raises(asyncpg.UndefinedTableError):
                        async with raw.transaction():  # a savepoint of the user's own
                            await raw.execute("insert into nowhere values (1)")
                    await raw.execute("insert into mine values ('kept')")
                    assert transaction.raw is raw
                with pytest.raises(SagaError, match="swallowed the error"):
                    await swallows()
                await transaction.save([make_record()])
                await transaction.commit()
            assert [row[0] for row in await query(url, "select word from mine")] == ["kept"]

    run(scenario())


def test_the_accessor_refuses_a_step_of_another_store() -> None:
    async def scenario() -> None:
        store = MemoryStore("memory://accessor")
        await store.open()
        async with store.transaction() as transaction:
            with pytest.raises(ConfigurationError, match="this step's store is not PostgreSQL"):
                await saga_choreo_postgres.connection(Ctx(transaction.user))
        await store.close()

    run(scenario())


def test_savepoints_cost_one_round_trip_each_and_the_last_release_none(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store, store.transaction() as transaction:
            said: list[str] = []
            raw = await saga_choreo_postgres.connection(Ctx(transaction.user))
            raw.add_query_logger(lambda record: said.append(record.query))
            for number in (1, 2, 3):
                async with transaction.savepoint():
                    await transaction.user.execute("select $1::int", number)
                async with transaction.savepoint():
                    pass
            raw.remove_query_logger(said.append)
            await transaction.commit()
        words = [statement for statement in said if "SAVEPOINT" in statement]
        # The connection was lent before the first savepoint, so that one is released at once, to see whether it has failed.
        assert words == [
            "SAVEPOINT saga_choreo_1",
            "RELEASE SAVEPOINT saga_choreo_1",
            "SAVEPOINT saga_choreo_1",
            "RELEASE SAVEPOINT saga_choreo_1; SAVEPOINT saga_choreo_1",
        ]

    run(scenario())


def test_what_a_step_sets_for_its_session_is_gone_for_the_next(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema() + "&pool_max=2") as store:
            async with store.transaction() as transaction:
                await transaction.user.execute("set statement_timeout = '7s'")
                for weakens in (
                    "set local synchronous_commit = off",
                    "SELECT SET_CONFIG('SYNCHRONOUS_COMMIT', 'off', true)",
                    "do $$ begin set local synchronous_commit = off; end $$",
                ):
                    with pytest.raises(ConfigurationError, match="begin, end, nest or weaken"):
                        await transaction.user.execute(weakens)
                await transaction.commit()
            async with store.transaction() as transaction:
                assert await transaction.user.fetchval("show statement_timeout") == "0"
                assert await transaction.user.fetchval("show search_path") != "public"

    run(scenario())


def test_a_connection_lost_before_the_commit_was_sent_leaves_nothing_and_the_next_one_works(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            async with store.transaction() as transaction:
                await transaction.save([make_record()])
                pid = await transaction.user.fetchval("select pg_backend_pid()")
                await query(url, f"select pg_terminate_backend({pid})")
                with pytest.raises(StoreUnavailable):
                    await transaction.commit()
            assert not await store.records(saga_id_of(0))
            async with store.transaction() as transaction:
                await transaction.save([make_record()])
                await transaction.commit()
            assert len(await store.records(saga_id_of(0))) == 1

    run(scenario())


def test_a_commit_that_a_deferred_constraint_refuses_did_not_happen(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await query(url, "create table one (n int unique deferrable initially deferred)")
            async with store.transaction() as transaction:
                await transaction.save([make_record()])
                await transaction.user.execute("insert into one values (1), (1)")
                with pytest.raises(StoreConflict, match="did not happen"):
                    await transaction.commit()
            assert not await store.records(saga_id_of(0))

    run(scenario())


def test_a_server_killed_while_it_commits_is_never_guessed_about(own_postgres: PostgresServer) -> None:
    """Whatever was confirmed is there afterwards; whatever was refused is not; the rest is said to be unknown."""
    own_postgres.start()

    async def scenario() -> None:
        store = PostgresStore(own_postgres.url)
        await store.open()
        confirmed: set[int] = set()
        unknown: set[int] = set()
        enough = asyncio.Event()

        async def write(first: int) -> None:
            for number in range(first, 100_000, 4):
                try:
                    async with store.transaction() as transaction:
                        await transaction.save([make_record(number)])
                        await transaction.commit()
                except StoreUnavailable:
                    unknown.add(number)
                    return
                confirmed.add(number)
                if len(confirmed) == 100:
                    enough.set()

        writers = [asyncio.create_task(write(first)) for first in range(4)]
        await enough.wait()
        own_postgres.kill()
        await asyncio.gather(*writers)
        own_postgres.start()
        found = {record.saga_id for group in await store.sagas(SagaFilter(limit=100_000)) for record in group}
        assert {saga_id_of(number) for number in confirmed} <= found
        assert found <= {saga_id_of(number) for number in confirmed | unknown}
        assert len(unknown) == 4
        await store.close()

    run(scenario())


def test_a_cancelled_statement_leaves_the_transaction_usable_after_its_savepoint(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store, store.transaction() as transaction:
            await transaction.save([make_record(1)])

            async def slow() -> None:
                async with asyncio.timeout(0.1), transaction.savepoint():
                    await transaction.save([make_record(2)])
                    await transaction.user.execute("select pg_sleep(30)")

            with pytest.raises(TimeoutError):
                await slow()
            await transaction.save([make_record(3)])
            await transaction.commit()
            assert [len(await store.records(saga_id_of(n))) for n in (1, 2, 3)] == [1, 0, 1]

    run(scenario())
