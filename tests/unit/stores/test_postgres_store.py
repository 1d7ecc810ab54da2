"""What is PostgreSQL's own in its store: opening, durability, savepoints, lost connections, plans. On a real server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

import saga_choreo_postgres
from saga_choreo.errors import ConfigurationError, DurabilityRefused, SagaError, StoreConflict, StoreUnavailable
from saga_choreo.memory.store import MemoryStore
from saga_choreo.ports import COLUMNS, AnnouncedMark, SagaFilter, UserTx
from saga_choreo.testing.postgres_server import PostgresServer
from saga_choreo.testing.stores import make_record, saga_id_of
from saga_choreo_postgres import statements as sql
from saga_choreo_postgres.store import PostgresStore

Schema = Callable[[], str]


@dataclass
class Ctx:
    """As much of a step's context as the accessor needs."""

    tx: UserTx


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[PostgresStore, None]:
    store = PostgresStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(40):
            await work

    asyncio.run(bounded())


async def query(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


def test_the_columns_of_the_table_are_those_of_a_record(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url):
            rows = await query(
                url, "select attname, attnotnull from pg_attribute where attrelid = 'saga_record'::regclass and attnum > 0"
            )
        assert {(row[0], row[1]) for row in rows} == {(column.name, not column.nullable) for column in COLUMNS}

    run(scenario())


def test_stores_that_open_at_once_on_an_empty_database_make_it_once(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        stores = [PostgresStore(url) for _ in range(6)]
        await asyncio.gather(*(store.open() for store in stores))
        assert len({store.incarnation for store in stores}) == 1
        assert len(stores[0].incarnation) == 32
        kept = {row[0]: row[1] for row in await query(url, "select name, value from saga_meta")}
        assert kept["system_identifier"] == stores[0].server["system_identifier"]
        await asyncio.gather(*(store.close() for store in stores))

    run(scenario())


def test_two_schemas_hold_two_stores(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as first, opened(postgres_schema()) as second:
            assert first.incarnation != second.incarnation

    run(scenario())


def test_a_server_that_may_forget_commits_is_refused_unless_asked_for(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema() + "&synchronous_commit=off"
        with pytest.raises(DurabilityRefused, match=r"runs with \{'synchronous_commit': 'off'\}.*durability=relaxed"):
            await PostgresStore(url).open()
        async with opened(url + "&durability=relaxed") as store:
            assert not store.features.durable

    run(scenario())


def test_a_server_without_fsync_is_refused(own_postgres: PostgresServer) -> None:
    unsafe = PostgresServer(own_postgres.data_dir, port=own_postgres.port, settings={"fsync": "off", "full_page_writes": "off"})
    with unsafe:

        async def scenario() -> None:
            with pytest.raises(DurabilityRefused, match=r"'fsync': 'off', 'full_page_writes': 'off'"):
                await PostgresStore(unsafe.url).open()

        run(scenario())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.replace("/postgres?", "/nowhere?"), "refuses this user or database"),
        (lambda url: url + "&durability=full&durability=maybe", "asks for durability 'maybe'"),
        (lambda url: url + "&pool_max=0", "pool_max='0'; write a number from 2 to 200"),
        (lambda url: url.replace("postgresql://", "mysql://"), "is not a PostgreSQL URL"),
    ],
)
def test_a_wrong_url_is_refused_with_advice(change: Callable[[str], str], said: str, postgres_schema: Schema) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match=said):
            await PostgresStore(change(postgres_schema())).open()

    run(scenario())


def test_a_server_that_is_not_there_is_unavailable_and_no_message_shows_the_password() -> None:
    async def scenario() -> None:
        with pytest.raises(StoreUnavailable) as info:
            await PostgresStore("postgresql://me:geheim@127.0.0.1:1/db").open()
        assert "geheim" not in str(info.value) + repr(PostgresStore("postgresql://me:geheim@127.0.0.1:1/db"))

    run(scenario())


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
                with pytest.raises(ConfigurationError, match="begin, end, nest or weaken"):
                    await transaction.user.execute("set local synchronous_commit = off")
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


def test_a_mark_does_not_wait_for_a_row_that_somebody_works_on(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store:
            async with store.transaction() as transaction:
                await transaction.save([make_record(1), make_record(2)])
                await transaction.commit()
            async with store.transaction() as transaction:
                await transaction.claim("payment", [saga_id_of(1)])
                async with asyncio.timeout(5):
                    await store.mark_announced("payment", [AnnouncedMark(make_record(n).record_key, 1) for n in (1, 2)])
            assert [(await store.records(saga_id_of(n)))[0].announced for n in (1, 2)] == [0, 1]

    run(scenario())


def test_transactions_wait_for_a_free_connection_and_idle_ones_hold_none(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema() + "&pool_max=2") as store:

            async def insert(number: int) -> None:
                async with store.transaction() as transaction:
                    await transaction.save([make_record(number)])
                    await transaction.commit()

            async with store.transaction(), store.transaction(), store.transaction():
                await asyncio.gather(*(insert(number) for number in range(20)))
            assert len(await store.sagas(SagaFilter())) == 20

    run(scenario())


@pytest.mark.parametrize("rows", [0, 40, 400])
def test_no_plan_scans_the_records_even_when_it_was_made_on_a_small_table(rows: int, postgres_schema: Schema) -> None:
    async def scenario() -> None:
        async with opened(postgres_schema()) as store:
            async with store.transaction() as transaction:
                await transaction.save([make_record(n, due_ms=n) for n in range(rows)])
                await transaction.commit()
            async with store.transaction() as transaction:
                raw = await saga_choreo_postgres.connection(Ctx(transaction.user))
                await raw.execute("analyze saga_record; set local plan_cache_mode = force_generic_plan")
                for name in (
                    "CLAIM",
                    "UPDATE",
                    "MARK",
                    "DUE",
                    "NEXT_DUE",
                    "UNANNOUNCED",
                    "RECORDS_OF",
                    "RECORDS",
                    "SAGAS",
                    "PARKED",
                    "KEY_OF",
                    "LOCK_OF",
                    "UNTOLD",
                ):
                    statement: str = getattr(sql, name)
                    places = max(map(int, re.findall(r"\$(\d+)", statement)))
                    await raw.execute(f"prepare one as {statement}")
                    plan = await raw.fetch(f"explain execute one ({', '.join(['null'] * places)})")
                    await raw.execute("deallocate one")
                    assert not [line[0] for line in plan if "Seq Scan" in line[0]], name

    run(scenario())
