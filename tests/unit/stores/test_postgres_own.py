"""What a factory of the user's gives, and how it is left: nothing of a failed step is ever committed, whatever the factory does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

import saga_choreo_postgres
from saga_choreo.errors import ConfigurationError, SagaError, StoreUnavailable
from saga_choreo_postgres.store import PostgresStore
from tests.unit.stores.postgres_support import Ctx, Schema, query, run


def server_of(url: str) -> tuple[str, str]:
    server, _, schema = url.partition("?search_path=")
    return server, f"-csearch_path={schema}"


async def psycopg_of(url: str, **more: Any) -> psycopg.AsyncConnection[Any]:
    server, options = server_of(url)
    return await psycopg.AsyncConnection.connect(server, options=options, **more)


def engine_of(url: str) -> AsyncEngine:
    server, options = server_of(url)
    server = server.replace("postgresql://", "postgresql+psycopg://")
    return create_async_engine(server, connect_args={"options": options}, poolclass=NullPool)


@asynccontextmanager
async def in_a_block_of_psycopg(url: str) -> AsyncGenerator[Any]:
    async with await psycopg_of(url) as connection, connection.transaction():
        yield connection


@asynccontextmanager
async def in_a_block_of_psycopg_on_autocommit(url: str) -> AsyncGenerator[Any]:
    async with await psycopg_of(url, autocommit=True) as connection, connection.transaction():
        yield connection


@asynccontextmanager
async def in_a_block_of_asyncpg(url: str) -> AsyncGenerator[Any]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection, connection.transaction():
        yield connection


@asynccontextmanager
async def session_on_a_begun_connection(url: str) -> AsyncGenerator[Any]:
    engine = engine_of(url)
    async with engine.begin() as connection, AsyncSession(bind=connection) as session:
        yield session


@asynccontextmanager
async def committed_by_its_maker(url: str) -> AsyncGenerator[Any]:
    """Commits whatever happens; nobody should."""
    connection = await psycopg_of(url)
    try:
        yield connection
    finally:
        await connection.commit()
        await connection.close()


@asynccontextmanager
async def session_committed_by_its_maker(url: str) -> AsyncGenerator[Any]:
    engine = engine_of(url)
    async with async_sessionmaker(engine)() as session:
        yield session
        await session.commit()


written: list[str] = []


async def attempt(url: str, made: Callable[[str], Any], act: Callable[[Any], Any]) -> list[str]:
    """One step. What stays of it is in `written` also when it fails."""
    store = PostgresStore(url, tx=lambda: made(url))
    await store.open()
    try:
        async with store.transaction() as transaction:
            async with transaction.savepoint():
                await transaction.user.execute("insert into mine values ('x')")
                await act(Ctx(transaction.user))
            await transaction.claim("payment", [])
            await transaction.commit()
    finally:
        await store.close()
        written[:] = [str(row[0]) for row in await query(url, "select word from mine")]
    return written


async def good(_ctx: Ctx) -> None: ...


def give_none(_url: str) -> object:
    return object()


async def bad(_ctx: Ctx) -> None:
    raise ValueError("sold out")


REFUSED = (
    in_a_block_of_psycopg,
    in_a_block_of_psycopg_on_autocommit,
    in_a_block_of_asyncpg,
    session_on_a_begun_connection,
)
WELCOME = (committed_by_its_maker, session_committed_by_its_maker)


@pytest.mark.parametrize("made", REFUSED)
@pytest.mark.parametrize("act", [good, bad])
def test_a_transaction_that_only_its_maker_can_end_is_refused(made: Any, act: Any, postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await query(url, "create table mine (word text)")
        with pytest.raises(ConfigurationError, match="the toolkit begins and ends the transaction"):
            await attempt(url, made, act)
        assert written == []

    run(scenario())


def test_a_connection_in_autocommit_is_refused_and_nobody_is_told_to_begin(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await query(url, "create table mine (word text)")

        @asynccontextmanager
        async def autocommit(url: str) -> AsyncGenerator[Any]:
            async with await psycopg_of(url, autocommit=True) as connection:
                yield connection

        with pytest.raises(ConfigurationError, match="make it without autocommit"):
            await attempt(url, autocommit, good)
        assert written == []

    run(scenario())


@pytest.mark.parametrize("made", WELCOME)
def test_a_factory_that_commits_when_it_is_left_commits_nothing_of_a_failed_step(made: Any, postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await query(url, "create table mine (word text)")
        with pytest.raises(ValueError, match="sold out"):
            await attempt(url, made, bad)
        assert written == []
        assert await attempt(url, made, good) == ["x"]

    run(scenario())


@pytest.mark.parametrize("fails", [True, False])
def test_a_driver_that_neither_commits_nor_rolls_back_keeps_nothing(fails: bool, postgres_schema: Schema) -> None:
    """A block of psycopg's that the handler leaves open makes it refuse both."""

    async def scenario() -> None:
        url = postgres_schema()
        await query(url, "create table mine (word text)")

        kept: list[Any] = []

        async def leave_open(ctx: Ctx) -> None:
            kept.append((await saga_choreo_postgres.psycopg(ctx)).transaction())
            await kept[0].__aenter__()
            if fails:
                raise ValueError("sold out")

        with pytest.raises(ValueError if fails else ConfigurationError, match="sold out" if fails else "does not commit"):
            await attempt(url, committed_by_its_maker, leave_open)
        assert written == []

    run(scenario())


def test_a_factory_hears_how_it_ended(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await query(url, "create table mine (word text)")
        heard: list[str] = []

        @asynccontextmanager
        async def listening(url: str) -> AsyncGenerator[Any]:
            async with await psycopg_of(url) as connection:
                try:
                    yield connection
                except Exception as error:
                    heard.append(type(error).__name__)
                    raise
                heard.append("well")
                raise OSError("the factory's own fault, after the commit")

        with pytest.raises(ValueError, match="sold out"):
            await attempt(url, listening, bad)
        assert await attempt(url, listening, good) == ["x"]
        assert heard == ["ValueError", "well"]

    run(scenario())


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_nothing_is_written_any_more_after_a_handler_has_ended_the_transaction(end: str, postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await query(url, "create table mine (word text)")
        engine = engine_of(url)

        async def ending(ctx: Ctx) -> None:
            session = await saga_choreo_postgres.session(ctx)
            await getattr(session, end)()
            await session.execute(text("insert into mine values ('in another transaction')"))
            await ctx.tx.execute("insert into mine values ('with the pool, or with somebody else')")

        with pytest.raises(ConfigurationError, match="has committed or rolled back"):
            await attempt(url, lambda _url: async_sessionmaker(engine)(), ending)
        assert written == (["x"] if end == "commit" else [])

    run(scenario())


def test_no_connection_to_be_had_is_an_outage(postgres_schema: Schema) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        await query(url, "create table mine (word text)")
        nobody = engine_of("postgresql://postgres@127.0.0.1:1/postgres?search_path=x")
        block = in_a_block_of_psycopg("postgresql://postgres@127.0.0.1:1/postgres?search_path=x")
        for given in (nobody.connect(), async_sessionmaker(nobody)(), block):

            def made(_url: str, given: Any = given) -> Any:
                return given

            with pytest.raises(StoreUnavailable, match="was lost, or there was none"):
                await attempt(url, made, good)
        with pytest.raises(SagaError, match="`async with` cannot enter"):
            await attempt(url, give_none, good)

    run(scenario())
