"""Days as partitions on a real server: made ahead, looked into one at a time, dropped when nobody needs them."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pytest

from saga_choreo.model.states import Outcome, Parked, State
from saga_choreo.ports import ORIGIN, AnnouncedMark, BusinessKey, Record
from saga_choreo.testing.stores import make_record
from saga_choreo_postgres import statements as sql
from saga_choreo_postgres.days import DAY_MS, PARTITIONS_AHEAD, day_of, name_of, on_day, start_of
from saga_choreo_postgres.partitions import make_days
from saga_choreo_postgres.speakers import AsyncpgSpeaker
from saga_choreo_postgres.store import PostgresStore
from tests.unit.stores.postgres_support import Schema, opened, query, run

DAY = 20_000  # long over
_NEXT = start_of(DAY + 1)
_LONG_AFTER = start_of(DAY + PARTITIONS_AHEAD + 2)


def saga_on(day: int, number: int = 0) -> UUID:
    return UUID(int=start_of(day).int + (1_000 << 80) + (7 << 76) + (2 << 62) + number)


def ended(day: int, number: int = 0, **changes: Any) -> Record:
    row = {"state": State.DONE, "outcome": Outcome.COMPLETED, "announced": 1}
    return replace(make_record(0, **{**row, **changes}), saga_id=saga_on(day, number))


def still_open(day: int, number: int = 0, **changes: Any) -> Record:
    return ended(day, number, outcome=Outcome.OPEN, **changes)


async def old_days(url: str, day: int = DAY) -> None:
    """Partitions as they were made at the time."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        assert await make_days(AsyncpgSpeaker(connection), day)
    await connection.close()


async def saved(store: PostgresStore, *records: Record) -> None:
    async with store.transaction() as transaction:
        await transaction.save(records)
        await transaction.commit()


async def tables(url: str) -> set[str]:
    rows = await query(url, "select inhrelid::regclass::text from pg_inherits where inhparent = 'saga_record'::regclass")
    return {row[0] for row in rows}


async def where(url: str) -> dict[str, int]:
    rows = await query(url, "select tableoid::regclass::text, count(*) from saga_record group by 1")
    return {row[0]: row[1] for row in rows}


def test_a_new_store_has_today_and_some_days_ahead(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url):
            pass
        today = (await query(url, "select (extract(epoch from now()) / 86400)::int"))[0][0]
        made = await tables(url)
        assert len(made) == PARTITIONS_AHEAD + 2
        assert {name_of(today), "saga_record_default"} <= made | {name_of(today - 1)}

    run(scenario())


def test_records_lie_in_their_day_and_those_of_other_days_in_the_default_partition(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await old_days(url)
            await saved(store, ended(DAY), ended(DAY + 1), ended(DAY - 1))
        assert await where(url) == {name_of(DAY): 1, name_of(DAY + 1): 1, "saga_record_default": 1}

    run(scenario())


def test_a_batch_may_be_about_sagas_of_several_days(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await old_days(url)
            sagas = [saga_on(day) for day in (DAY - 1, DAY, DAY + 1)]
            await saved(store, *(ended(day, announced=0) for day in (DAY - 1, DAY, DAY + 1)))
            async with store.transaction() as transaction:
                held = await transaction.claim("payment", sagas)
                assert [record.saga_id for record in held] == sagas
                await transaction.save([replace(record, version=2) for record in held])
                await transaction.commit()
            await store.mark_announced("payment", [AnnouncedMark(record.record_key, 2) for record in held])
            after = [(await store.records(saga_id, "payment"))[0] for saga_id in sagas]
            assert [(record.version, record.announced) for record in after] == [(2, 2)] * 3
            assert [len(await store.records(saga_id)) for saga_id in sagas] == [1, 1, 1]

    run(scenario())


def test_a_mark_meets_its_own_row_although_another_day_has_one_at_the_same_place(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await old_days(url)
            await saved(store, *(ended(day, announced=0) for day in (DAY, DAY + 1)))
            assert len(await query(url, "select distinct ctid from saga_record")) == 1
            await store.mark_announced("payment", [AnnouncedMark(ended(DAY).record_key, 1)])
            marks = await query(url, "select announced from saga_record order by saga_id")
            assert [row[0] for row in marks] == [1, 0]

    run(scenario())


@pytest.mark.parametrize("name", ["CLAIM", "UPDATE", "COMPLETE", "IS_COMPLETED", "MARK", "FORGET_RECORD", "RECORDS_OF"])
def test_what_is_about_one_saga_is_planned_for_one_partition(name: str, postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url):
            pass
        connection = await asyncpg.connect(url)
        today = (await connection.fetchval("select (extract(epoch from now()) * 1000)::bigint")) // DAY_MS
        statement = on_day(getattr(sql, name), today)
        places = max(map(int, re.findall(r"\$(\d+)", statement)))
        await connection.execute(f"set plan_cache_mode = force_generic_plan; prepare one as {statement}")
        plan = " ".join(row[0] for row in await connection.fetch(f"explain execute one ({', '.join(['null'] * places)})"))
        await connection.close()
        assert set(re.findall(r"saga_record_(\d{8}|default)", plan)) == {name_of(today).removeprefix("saga_record_")}

    run(scenario())


def test_a_day_that_is_over_is_dropped_with_the_keys_of_its_sagas(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await old_days(url)
            await saved(store, ended(DAY), ended(DAY, step=ORIGIN, state=State.COMPLETED), ended(DAY + 1))
            key = BusinessKey(service="payment", choreography="c", key="k", saga_id=saga_on(DAY), digest="d")
            async with store.transaction() as transaction:
                await transaction.register(key)
                await transaction.commit()
            assert await store.forget("payment", UUID(int=_NEXT.int - 1), 100) == 0, "it is not over by a moment"
            assert name_of(DAY) in await tables(url)
            assert await store.forget("payment", _NEXT, 100) == 1, "the key: a dropped day is not counted"
            assert name_of(DAY) not in await tables(url)
            assert await where(url) == {name_of(DAY + 1): 1}

    run(scenario())


_STAYS = {
    "open": still_open(DAY),
    "unannounced": ended(DAY, announced=0),
    "parked": ended(DAY, parked=Parked.PARKED),
    "undoing": ended(DAY, state=State.COMPENSATING, outcome=Outcome.ABORTED),
    "open origin": ended(DAY, step=ORIGIN, state=State.OPEN),
}


@pytest.mark.parametrize("what", _STAYS)
def test_a_saga_that_is_not_over_pins_its_day_and_the_rest_of_it_goes_row_by_row(
    what: str, postgres_schema: Schema, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await old_days(url)
            await saved(store, _STAYS[what], *(ended(DAY, number) for number in range(1, 8)))
            assert await store.forget("payment", _LONG_AFTER, 5) == 5, "bounded"
            assert await store.forget("payment", _LONG_AFTER, 5) == 2
            assert await where(url) == {name_of(DAY): 1}
            assert name_of(DAY + 1) not in await tables(url), "an empty day is dropped beside it"
            [(code, service, detail)] = (await PostgresStore(url).inspect()).findings
            assert (code, service) == ("pinned", "payment")
            assert f"{name_of(DAY)!r} is kept for 1 record" in detail

    with caplog.at_level(logging.WARNING, "saga_choreo.postgres"):
        run(scenario())
    assert len([one for one in caplog.messages if "not over" in one]) == 1


def test_a_day_is_kept_until_each_service_in_it_has_forgotten_it(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await old_days(url)
            await saved(store, ended(DAY), ended(DAY, service="stock"))
            await store.forget("payment", _LONG_AFTER, 10)
            assert await where(url) == {name_of(DAY): 1}, "the row of the other service, which has not said how long"
        async with opened(url) as store:
            await store.forget("stock", start_of(DAY), 10)
            await store.forget("payment", _LONG_AFTER, 10)
            assert await where(url) == {name_of(DAY): 1}, "it keeps its sagas for longer"
            assert (await store.inspect()).findings == ()
        async with opened(url) as store:
            await store.forget("stock", _LONG_AFTER, 10)
            assert await where(url) == {}
            assert name_of(DAY) not in await tables(url)

    run(scenario())


def test_dropping_does_not_wait_for_somebody_at_work_and_is_tried_again(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await old_days(url)
            await saved(store, ended(DAY), ended(DAY + PARTITIONS_AHEAD))
            async with store.transaction() as transaction:
                await transaction.claim("payment", [saga_on(DAY + PARTITIONS_AHEAD)])
                assert await store.forget("payment", _NEXT, 100) == 0
                assert (await where(url))[name_of(DAY)] == 1, "it will be dropped as a whole, so no row of it is deleted"
            assert await store.forget("payment", _NEXT, 100) == 0
            assert name_of(DAY) not in await tables(url)

    run(scenario())


def test_a_day_that_was_busy_for_a_day_goes_row_by_row(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await old_days(url)
            await saved(store, ended(DAY), ended(DAY + PARTITIONS_AHEAD))
            async with store.transaction() as transaction:
                await transaction.claim("payment", [saga_on(DAY + PARTITIONS_AHEAD)])
                assert await store.forget("payment", start_of(DAY + 2), 100) == 1

    run(scenario())


def test_a_day_whose_records_came_before_its_partition_stays_in_the_default_one(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url) as store:
            await saved(store, ended(DAY))
            await old_days(url)
            assert name_of(DAY) not in await tables(url)
            assert name_of(DAY + 1) in await tables(url)
            assert await store.forget("payment", _NEXT, 10) == 1, "and goes row by row"

    run(scenario())


def test_who_may_not_make_tables_works_with_the_default_partition_and_is_told_once(
    postgres_schema: Schema, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        async with opened(url):
            pass
        schema = url.rpartition("search_path=")[2]
        role = f"{schema}_app"
        with psycopg.connect(url.partition("?")[0], autocommit=True) as admin:
            for statement in (
                f"create role {role} login",
                f"grant usage on schema {schema} to {role}",
                f"grant select, insert, update, delete on all tables in schema {schema} to {role}",
                f"drop table {schema}.{next(iter(sorted(await tables(url))))}",
            ):
                admin.execute(statement)  # type: ignore[arg-type]  # names of ours
        mine = re.sub(r"//[^@/]*@|//", f"//{role}@", url, count=1)
        try:
            async with opened(mine) as store:
                today = day_of(UUID(int=(await query(url, "select (extract(epoch from now()) * 1000)::bigint"))[0][0] << 80))
                await saved(store, ended(today), ended(DAY))
                assert await store.forget("payment", _NEXT, 10) == 1
                [(code, _, detail)] = (await store_state(mine)).findings
                assert (code, name_of(today) in detail) == ("no_partition", True)
        finally:
            with psycopg.connect(url.partition("?")[0], autocommit=True) as admin:
                admin.execute(f"drop owned by {role}; drop role {role}")  # type: ignore[arg-type]  # names of ours

    async def store_state(url: str) -> Any:
        return await PostgresStore(url).inspect()

    with caplog.at_level(logging.WARNING, "saga_choreo.postgres"):
        run(scenario())
    assert len([one for one in caplog.messages if "could not be made" in one]) == 1
