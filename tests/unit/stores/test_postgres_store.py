"""What is PostgreSQL's own in its store: opening, durability, the pool, plans. On a real server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable

import asyncpg
import pytest

import saga_choreo_postgres
from saga_choreo.errors import ConfigurationError, DurabilityRefused, StoreUnavailable
from saga_choreo.ports import COLUMNS, AnnouncedMark, SagaFilter
from saga_choreo.testing.postgres_server import PostgresServer
from saga_choreo.testing.stores import make_record, saga_id_of
from saga_choreo_postgres import schema
from saga_choreo_postgres import statements as sql
from saga_choreo_postgres.speakers import AsyncpgSpeaker
from saga_choreo_postgres.store import PostgresStore
from tests.unit.stores.postgres_support import Ctx, Schema, opened, query, run


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


def test_a_user_whose_commits_a_crash_may_undo_is_refused(postgres_schema: Schema) -> None:
    """As administrators set it: for the database or for a role, and not in the URL."""

    async def scenario() -> None:
        url = postgres_schema()
        role = f"{url.rpartition('search_path=')[2]}_hasty"
        await query(url, f"create role {role} login superuser")
        try:
            await query(url, f"alter role {role} set synchronous_commit = off")
            mine = re.sub(r"//[^@/]*@|//", f"//{role}@", url, count=1)
            with pytest.raises(DurabilityRefused, match=r"'synchronous_commit': 'off'"):
                await PostgresStore(mine).open()
            assert dict((await PostgresStore(mine).inspect()).unsafe) == {"synchronous_commit": "off"}
            async with opened(mine + "&synchronous_commit=on") as store:
                assert store.features.durable
        finally:
            await query(url, f"drop owned by {role} cascade")
            await query(url, f"drop role {role}")

    run(scenario())


def test_a_server_without_fsync_is_refused(own_postgres: PostgresServer) -> None:
    unsafe = PostgresServer(own_postgres.data_dir, port=own_postgres.port, settings={"fsync": "off", "full_page_writes": "off"})
    with unsafe:

        async def scenario() -> None:
            with pytest.raises(DurabilityRefused, match=r"'fsync': 'off', 'full_page_writes': 'off'"):
                await PostgresStore(unsafe.url).open()

        run(scenario())


@pytest.mark.parametrize(
    ("granted", "parts"), [(("system", "checkpoint", "recovery"), 2), (("system", "checkpoint"), 2), (("system",), 0), ((), 0)]
)
def test_a_server_tells_its_history_as_far_as_the_user_may_see_it(
    own_postgres: PostgresServer, granted: tuple[str, ...], parts: int
) -> None:
    url = own_postgres.start().url
    functions = [f"pg_control_{name}()" for name in ("system", "checkpoint", "recovery")]

    async def scenario() -> None:
        for function in functions:
            await query(url, f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        await query(url, "CREATE ROLE narrow LOGIN")
        for name in granted:
            await query(url, f"GRANT EXECUTE ON FUNCTION pg_control_{name}() TO narrow")
        connection = await asyncpg.connect(url, user="narrow")
        try:
            assert len(await schema.identity(AsyncpgSpeaker(connection))) == parts
        finally:
            await connection.close()

    run(scenario())


def test_a_standby_that_takes_over_has_another_history_before_it_has_made_a_checkpoint(own_postgres: PostgresServer) -> None:
    url = own_postgres.start().url

    async def identity() -> str:
        async with opened(url) as store:
            return (await store.epoch("shop")).identity

    async def scenario() -> None:
        before = await identity()
        own_postgres.stop()
        mark, owner = own_postgres.cluster / "standby.signal", own_postgres.cluster.stat()
        mark.touch()
        os.chown(mark, owner.st_uid, owner.st_gid)
        own_postgres.start()
        ((checkpointer,),) = await query(url, "select pid from pg_stat_activity where backend_type = 'checkpointer'")
        os.kill(checkpointer, signal.SIGSTOP)
        try:
            assert await query(url, "select pg_promote()") == [(True,)]
            assert (before[-2:], (await identity())[-2:]) == ("/1", "/2")
            assert await query(url, "select timeline_id from pg_control_checkpoint()") == [(1,)]
        finally:
            os.kill(checkpointer, signal.SIGCONT)

    run(scenario())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.replace("/postgres?", "/nowhere?"), "refuses this user or database"),
        (lambda url: url + "&durability=full&durability=maybe", "asks for durability 'maybe'"),
        (lambda url: url + "&serch_path=typo", 'option in the URL.*"serch_path".*correct it'),
        (lambda url: url + "&lock_timeout=soon", "option in the URL.*lock_timeout"),
        (lambda url: url + "_is_not_there", "there is no schema for the saga tables.*or make the schema"),
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
