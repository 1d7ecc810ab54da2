"""A table of the release before becomes the first partition, with its rows, while agents of that release are at work."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from importlib import resources
from uuid import UUID

import asyncpg

from saga_choreo_postgres import schema, work
from saga_choreo_postgres.days import DAY_MS, PARTITIONS_AHEAD, day_of, name_of, start_of
from saga_choreo_postgres.moving import ROLLOUT_DAYS, prepare
from saga_choreo_postgres.partitions import make_days
from saga_choreo_postgres.speakers import AsyncpgSpeaker
from saga_choreo_postgres.store import PostgresStore
from tests.unit.cli.process import in_process
from tests.unit.stores.postgres_support import Schema, opened, query, run
from tests.unit.stores.test_postgres_partitions import ended, saga_on, saved, still_open, tables, where

_OLD = 20_000
# As the release before wrote them: they find a row by its place in the table.
_OLD_MARK = (
    "UPDATE saga_record SET announced = least(version, $5::bigint) WHERE ctid = (SELECT ctid FROM saga_record "
    "WHERE service = $1 AND saga_id = $2 AND definition = $3 AND step = $4 AND announced < least(version, $5::bigint) "
    "FOR NO KEY UPDATE SKIP LOCKED)"
)
_OLD_FORGET = """
DELETE FROM saga_record WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM saga_record
  WHERE service = $1 AND saga_id < $2 AND announced >= version AND parked = ''
    AND CASE step WHEN -1 THEN state IN ('OD', 'OC', 'OT') ELSE outcome <> '' AND state NOT IN ('R', 'CR') END
  ORDER BY saga_id LIMIT $3 FOR UPDATE SKIP LOCKED)) RETURNING 1
"""


async def version_2(url: str) -> None:
    """The tables as that release left them, with rows from long ago and from today."""
    folder = resources.files("saga_choreo_postgres").joinpath("migrations")
    connection = await asyncpg.connect(url)
    for name in ("001_first.sql", "002_letters.sql"):
        await connection.execute(folder.joinpath(name).read_text())
    await connection.execute("INSERT INTO saga_meta VALUES ('schema_version', '2'), ('oldest_version', '1'), ('incarnation', 'x')")
    now = await today(url)
    await work.save(AsyncpgSpeaker(connection), [ended(_OLD, announced=0), still_open(_OLD + 1), ended(now), still_open(now, 1)])
    await connection.close()


async def today(url: str) -> int:
    return int((await query(url, "select (extract(epoch from now()) * 1000)::bigint"))[0][0]) // DAY_MS


def test_the_rows_from_before_are_in_one_partition_and_days_begin_a_week_later(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await version_2(url)
        assert (await PostgresStore(url).inspect()).pending == ("003_days",)
        now = await today(url)
        async with opened(url) as store:
            assert store.incarnation == "x", "it is the same database"
            assert await where(url) == {"saga_record_before": 4}
            first = (await store.records(saga_on(_OLD)))[0]
            assert first == ended(_OLD, announced=0)
            async with store.transaction() as transaction:
                held = await transaction.claim("payment", [saga_on(now, 1)])
                await transaction.save([replace(record, version=2) for record in held])
                await transaction.save([ended(now, 2), ended(now + ROLLOUT_DAYS, 3)])
                await transaction.commit()
            assert (await store.records(saga_on(now, 1)))[0].version == 2
            assert await where(url) == {"saga_record_before": 6}
            assert await tables(url) == {"saga_record_before", "saga_record_default"}
            await saved(store, ended(now + ROLLOUT_DAYS + 1))
        assert await where(url) == {"saga_record_before": 6, "saga_record_default": 1}, "nobody had made that day yet"

    run(scenario())


def test_days_are_made_once_the_week_is_nearly_over(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await version_2(url)
        async with opened(url):
            later = await today(url) + ROLLOUT_DAYS
            connection = await asyncpg.connect(url)
            async with connection.transaction():
                assert await make_days(AsyncpgSpeaker(connection), later)
            await connection.close()
        made = {name_of(day) for day in range(later + 1, later + PARTITIONS_AHEAD + 1)}
        assert await tables(url) == made | {"saga_record_before", "saga_record_default"}

    run(scenario())


def test_an_agent_of_the_release_before_goes_on_beside_it(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await version_2(url)
        now = await today(url)
        connection = await asyncpg.connect(url)
        one, other = ended(now, announced=0), still_open(now, 1)
        claim = "SELECT saga_id, version FROM saga_record WHERE service = $1 AND saga_id = ANY($2::uuid[]) FOR NO KEY UPDATE"
        mark, forget = await connection.prepare(_OLD_MARK), await connection.prepare(_OLD_FORGET)
        assert len(await connection.fetch(claim, "payment", [one.saga_id, other.saga_id])) == 2
        async with opened(url):
            assert len(await connection.fetch(claim, "payment", [one.saga_id, other.saga_id])) == 2
            await work.save(AsyncpgSpeaker(connection), [ended(now, 5, announced=0)])
            await mark.fetch("payment", saga_on(now, 5), one.definition, 1, 1)
            assert await mark.fetch("payment", saga_on(_OLD), one.definition, 1, 1) == []
            assert len(await forget.fetch("payment", start_of(now), 10)) == 1
        left = await query(url, "select saga_id, announced from saga_record order by saga_id")
        await connection.close()
        expected = [saga_on(_OLD + 1), saga_on(now), saga_on(now, 1), saga_on(now, 5)]
        assert [(UUID(bytes=row[0].bytes), row[1]) for row in left] == [(saga_id, 1) for saga_id in expected]

    run(scenario())


def test_an_older_release_that_starts_is_refused(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await version_2(url)
        async with opened(url):
            pass
        kept = {row[0]: row[1] for row in await query(url, "select name, value from saga_meta")}
        assert (kept["schema_version"], kept["oldest_version"]) == (str(schema.SCHEMA_VERSION), "3")

    run(scenario())


def test_a_dry_run_says_that_older_releases_are_refused_afterwards(postgres_schema: Schema) -> None:
    url = postgres_schema()
    run(version_2(url))
    done = in_process("store", "migrate", "--dry-run", "--store", url)
    assert done.returncode == 0
    assert "would run: 003_days" in done.stdout
    assert "a release that knows version 2 only is refused when it starts" in done.stdout
    assert json.loads(in_process("store", "migrate", "--dry-run", "--json", "--store", url).stdout)["shuts_out_older"]
    assert "refused" not in in_process("store", "migrate", "--dry-run", "--store", postgres_schema()).stdout, "there is none"


def test_stores_that_open_at_once_on_old_tables_move_them_once(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await version_2(url)
        stores = [PostgresStore(url) for _ in range(5)]
        await asyncio.gather(*(store.open() for store in stores))
        await asyncio.gather(*(store.close() for store in stores))
        assert await where(url) == {"saga_record_before": 4}

    run(scenario())


def test_a_move_that_died_half_way_is_done_anew(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await version_2(url)
        connection = await asyncpg.connect(url)
        await prepare(AsyncpgSpeaker(connection))
        await connection.execute("UPDATE saga_meta SET value = '01000000-0000-0000-0000-000000000000' WHERE name = 'days_from'")
        await connection.close()
        async with opened(url) as store:
            await saved(store, ended(await today(url) + ROLLOUT_DAYS, 9))
            assert await where(url) == {"saga_record_before": 5}
        constraints = await query(url, "select conname from pg_constraint where conname like 'saga_record_before_days'")
        assert constraints == [], "no insert is refused for want of a move"

    run(scenario())


def test_somebody_at_work_delays_the_move_and_loses_nothing(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await version_2(url)
        now = await today(url)
        connection = await asyncpg.connect(url)
        transaction = connection.transaction()
        await transaction.start()
        await work.save(AsyncpgSpeaker(connection), [ended(now, 7)])

        async def open_and_close() -> None:
            async with opened(url):
                pass

        task = asyncio.create_task(open_and_close())
        _, waiting = await asyncio.wait([task], timeout=1.0)
        assert waiting
        await work.save(AsyncpgSpeaker(connection), [ended(now, 8)])
        await transaction.commit()
        await connection.close()
        await task
        assert await where(url) == {"saga_record_before": 6}

    run(scenario())


def test_the_partition_from_before_goes_row_by_row_and_is_dropped_in_the_end(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await version_2(url)
        async with opened(url) as store:
            now = await today(url)
            await saved(store, ended(_OLD + 2))
            assert await store.forget("payment", start_of(now), 10) == 1
            left = await query(url, "select saga_id from saga_record where saga_id < '" + str(start_of(now)) + "' order by 1")
            assert [day_of(UUID(bytes=row[0].bytes)) for row in left] == [_OLD, _OLD + 1], "unannounced, open"
            await query(url, "update saga_record set outcome = 'C', announced = version")
            await store.forget("payment", start_of(now + ROLLOUT_DAYS + 1), 10)
            assert "saga_record_before" not in await tables(url)

    run(scenario())
