"""A saga started inside the caller's own transaction, whatever the caller talks to PostgreSQL with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from saga_choreo.errors import ConfigurationError, DurabilityRefused, SagaError, StoreUnavailable
from saga_choreo.ports import ORIGIN, BusinessKey, TellsOfCommit, Transaction
from saga_choreo.testing.stores import STORE_BEHAVIOURS, Behaviour, StoreHarness, check_store, make_record, saga_id_of
from saga_choreo_postgres.joined import JoinedTransaction
from saga_choreo_postgres.store import PostgresStore

Open = Callable[[str], AbstractAsyncContextManager[Any]]


class _Own:
    """Any connection whose transaction its own methods end."""

    def __init__(self, raw: Any, ending: Any = None) -> None:
        self.raw = raw
        self._ending = ending or raw

    async def commit(self) -> None:
        await self._ending.commit()

    async def rollback(self) -> None:
        await self._ending.rollback()


def _parts(url: str) -> tuple[str, str]:
    """The server's URL, and the schema."""
    server, _, schema = url.partition("?search_path=")
    return server, schema


@contextlib.asynccontextmanager
async def asyncpg_pooled(url: str) -> AsyncGenerator[_Own, None]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield _Own(connection, transaction)


@contextlib.asynccontextmanager
async def psycopg_plain(url: str) -> AsyncGenerator[_Own, None]:
    server, schema = _parts(url)
    async with await psycopg.AsyncConnection.connect(server, options=f"-csearch_path={schema}") as connection:
        yield _Own(connection)


def _engine(url: str, driver: str) -> Any:
    server, schema = _parts(url)
    if driver == "asyncpg":
        arguments: dict[str, Any] = {"server_settings": {"search_path": schema}}
    else:
        arguments = {"options": f"-csearch_path={schema}"}
    return create_async_engine(
        server.replace("postgresql://", f"postgresql+{driver}://"), connect_args=arguments, poolclass=NullPool
    )


def _session(driver: str) -> Open:
    @contextlib.asynccontextmanager
    async def session(url: str) -> AsyncGenerator[_Own, None]:
        engine = _engine(url, driver)
        async with AsyncSession(engine) as session:
            yield _Own(session)
        await engine.dispose()

    return session


def _connection(driver: str) -> Open:
    @contextlib.asynccontextmanager
    async def connection(url: str) -> AsyncGenerator[_Own, None]:
        engine = _engine(url, driver)
        async with engine.connect() as connection:
            yield _Own(connection)
        await engine.dispose()

    return connection


DRIVERS: dict[str, Open] = {
    "asyncpg from a pool": asyncpg_pooled,
    "psycopg": psycopg_plain,
    "a SQLAlchemy session over asyncpg": _session("asyncpg"),
    "a SQLAlchemy session over psycopg": _session("psycopg"),
    "a SQLAlchemy connection over asyncpg": _connection("asyncpg"),
    "a SQLAlchemy connection over psycopg": _connection("psycopg"),
}
_JOINS = [behaviour for behaviour in STORE_BEHAVIOURS if "join" in behaviour.needs]


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.mark.parametrize("behaviour", _JOINS, ids=lambda b: b.name)
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_transaction_of(driver: str, behaviour: Behaviour, postgres_schema: Callable[[], str]) -> None:
    url = postgres_schema()
    harness = StoreHarness(name=driver, make=lambda: PostgresStore(url), url=url, own_connection=lambda: DRIVERS[driver](url))
    check_store(harness, behaviour, skip=pytest.skip)


@pytest.mark.parametrize("driver", DRIVERS)
def test_records_written_through_any_driver_are_claimed_changed_and_read_back_alike(
    driver: str, postgres_schema: Callable[[], str]
) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        store = PostgresStore(url)
        await store.open()
        records = [make_record(n, done_in=1 << 63, results={1: b"\x00r"}, due_ms=7, error="ü\0") for n in (2, 1, 3)]
        async with DRIVERS[driver](url) as own:
            joined = store.join(own.raw)
            await joined.save(records)
            claimed = await joined.claim("payment", [saga_id_of(n) for n in (3, 2, 1)])
            assert [r.saga_id for r in claimed] == [saga_id_of(n) for n in (1, 2, 3)]
            await joined.append(counters={("payment", "n"): 2})
            await joined.commit()
            await own.commit()
        assert list(claimed) == [record for n in (1, 2, 3) for record in await store.records(saga_id_of(n))]
        assert claimed[0].row.done_in == 1 << 63
        assert claimed[0].results == {1: b"\x00r"}
        assert claimed[0].error == "ü\N{REPLACEMENT CHARACTER}", "PostgreSQL's text holds no NUL"
        assert dict(await store.counters()) == {"n": 2}
        await store.close()

    _run(scenario())


def test_what_the_session_wrote_itself_shares_its_fate(postgres_schema: Callable[[], str]) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        store = PostgresStore(url)
        await store.open()
        engine = _engine(url, "asyncpg")
        async with engine.begin() as connection:
            await connection.execute(text("create table mine (word text)"))
        for kept in (False, True):
            async with AsyncSession(engine) as session:
                await session.execute(text("insert into mine values ('x')"))
                await store.join(session).save([make_record()])
                await (session.commit() if kept else session.rollback())
            async with engine.connect() as connection:
                assert (await connection.execute(text("select count(*) from mine"))).scalar() == int(kept)
            assert len(await store.records(saga_id_of(0))) == int(kept)
        await engine.dispose()
        await store.close()

    _run(scenario())


def test_a_connection_without_a_transaction_is_refused(postgres_schema: Callable[[], str]) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        store = PostgresStore(url)
        await store.open()
        plain = await asyncpg.connect(url)
        with pytest.raises(ConfigurationError, match="has no open transaction; begin one first"):
            store.join(plain)
        await plain.close()
        async with await psycopg.AsyncConnection.connect(_parts(url)[0], autocommit=True) as own:
            with pytest.raises(ConfigurationError, match="autocommit"):
                store.join(own)
        with psycopg.connect(_parts(url)[0]) as blocking, pytest.raises(ConfigurationError, match="cannot join 'Connection'"):
            store.join(blocking)
        await store.close()

    _run(scenario())


def test_a_connection_to_another_database_or_schema_is_refused_and_stays_usable(postgres_schema: Callable[[], str]) -> None:
    async def scenario() -> None:
        url, other, empty = postgres_schema(), postgres_schema(), postgres_schema()
        store, second = PostgresStore(url), PostgresStore(other)
        await store.open()
        await second.open()
        for wrong in (other, empty):
            connection = await asyncpg.connect(wrong)
            async with connection.transaction():
                with pytest.raises(ConfigurationError, match="does not lead to the saga tables of the store"):
                    await store.join(connection).save([make_record()])
                assert await connection.fetchval("select 1") == 1
            await connection.close()
        assert not await store.records(saga_id_of(0))
        assert not await second.records(saga_id_of(0))
        await second.close()
        await store.close()

    _run(scenario())


def test_a_connection_that_was_right_before_is_looked_at_again(postgres_schema: Callable[[], str]) -> None:
    async def scenario() -> None:
        url, other, empty = postgres_schema(), postgres_schema(), postgres_schema()
        store, second = PostgresStore(url), PostgresStore(other)
        await store.open()
        await second.open()
        connection = await asyncpg.connect(url)
        mine = make_record(7, step=ORIGIN)
        key = BusinessKey(service=mine.service, choreography=mine.choreography, key="k", saga_id=mine.saga_id, digest="d")
        for _ in range(2):  # the second time it has been seen
            async with connection.transaction():
                assert await store.join(connection).register(key, mine) == key
        new = make_record(8, step=ORIGIN)
        for wrong in (other, empty):
            await connection.execute(f"set search_path to {_parts(wrong)[1]}")
            for start in (
                lambda: store.join(connection).save([new]),
                lambda: store.join(connection).register(replace(key, saga_id=new.saga_id, key="n"), new),
            ):
                with pytest.raises(ConfigurationError, match="does not lead to the saga tables of the store"):
                    async with connection.transaction():
                        await start()
        await connection.close()
        assert not await store.records(new.saga_id)
        assert not await second.records(new.saga_id)
        await second.close()
        await store.close()

    _run(scenario())


def test_a_joined_connection_that_does_not_wait_for_the_disk_is_refused(postgres_schema: Callable[[], str]) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        store = PostgresStore(url)
        await store.open()
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.execute("set local synchronous_commit = off")
            with pytest.raises(DurabilityRefused, match="synchronous_commit = off"):
                await store.join(connection).save([make_record()])
        await connection.close()
        await store.close()

    _run(scenario())


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_connection_that_was_lost_is_an_outage(driver: str, seen: bool, postgres_schema: Callable[[], str]) -> None:
    """`seen`: the server's process is known, and the start one statement."""

    async def scenario() -> None:
        url = postgres_schema()
        store, other = PostgresStore(url), PostgresStore(url)
        await store.open()
        await other.open()
        mine = make_record(7, step=ORIGIN)
        key = BusinessKey(service=mine.service, choreography=mine.choreography, key="k", saga_id=mine.saga_id, digest="d")
        plain = await asyncpg.connect(url)
        with contextlib.suppress(Exception):  # the driver's own, when it leaves what is broken
            async with DRIVERS[driver](url) as own:
                known = store if seen else other
                backend = await known.join(own.raw).user.fetchval("select pg_backend_pid()")
                assert await plain.fetchval("select pg_terminate_backend($1, 5000)", backend)
                for _ in range(2):  # the driver notices it by the first
                    with pytest.raises(StoreUnavailable):
                        await store.join(own.raw).register(key, mine)
                seen_all.append(driver)
        assert seen_all.pop() == driver
        await plain.close()
        await other.close()
        await store.close()

    seen_all: list[str] = []
    _run(scenario())


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_transaction_whose_owner_has_ended_it_and_begun_another_is_not_written_in(
    driver: str, postgres_schema: Callable[[], str]
) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        store = PostgresStore(url)
        await store.open()
        async with DRIVERS[driver](url) as own:
            joined = store.join(own.raw)
            await joined.save([make_record(1)])
            assert isinstance(joined, JoinedTransaction)
            assert joined.speaker is not None
            await joined.speaker.say("COMMIT; BEGIN")
            with pytest.raises(SagaError, match="committed or rolled back by its owner"):
                await joined.save([make_record(2)])
            with pytest.raises(SagaError, match="committed or rolled back by its owner"):
                await joined.commit()
            await own.rollback()
        assert len(await store.records(saga_id_of(1))) == 1
        assert not await store.records(saga_id_of(2))
        await store.close()

    _run(scenario())


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "rollback to a savepoint", "release and commit"])
def test_a_session_tells_of_the_commit_of_a_start_and_listens_no_longer_than_its_transaction(
    end: str, postgres_schema: Callable[[], str]
) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        store = PostgresStore(url)
        await store.open()
        engine = _engine(url, "asyncpg")
        told: list[str] = []

        def listeners(session: AsyncSession) -> int:
            on = session.sync_session.dispatch
            return sum(len(list(getattr(on, name))) for name in ("after_commit", "after_soft_rollback", "after_transaction_end"))

        async def start(session: AsyncSession) -> None:
            joined: Transaction = store.join(session)
            await joined.save([make_record()])
            await joined.commit()
            assert isinstance(joined, TellsOfCommit)
            joined.after_commit(lambda: told.append(end))

        async with AsyncSession(engine) as session:
            if "savepoint" in end or "release" in end:
                nested = await session.begin_nested()
                await start(session)
                await (nested.rollback() if "savepoint" in end else nested.commit())
                assert told == []
            else:
                await start(session)
            if "savepoint" not in end:
                await getattr(session, end.rpartition(" ")[2])()
            await asyncio.sleep(0)
            assert listeners(session) == 0
            await session.execute(text("select 1"))
            await session.commit()
            await asyncio.sleep(0)
            assert told == ([end] if "commit" in end else [])
        await engine.dispose()
        await store.close()

    _run(scenario())
