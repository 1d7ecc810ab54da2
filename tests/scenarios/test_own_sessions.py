"""Steps on the user's own sessions and connections: what the handler wrote and the step's record are one commit. Real PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import saga_choreo_postgres
from saga_choreo import Agent, Choreography, ChoreographyStep, Event, Limits, Reject, Retry, SagaState, StepContext
from saga_choreo.errors import ConfigurationError, SagaNotFound
from tests.scenarios.world import QUICK, eventually, run

_numbers = itertools.count()


class Placed(Event, name="own.placed"):
    order: str
    how: str = ""


class Booked(Event, name="own.booked"):
    order: str


FORM = (
    Choreography("own-sessions")
    .starts_with(Placed)
    .step(
        ChoreographyStep("book").on_event(Placed).publish_event(Booked).with_compensation().owned_by("payment"),
        ChoreographyStep("ship").on_event(Booked).with_compensation().owned_by("shop"),
    )
)


class Base(DeclarativeBase):
    pass


class Booking(Base):
    __tablename__ = "booking"
    order: Mapped[str] = mapped_column("order_id", primary_key=True)
    state: Mapped[str]


Write = Callable[[StepContext, str, str], Any]


async def in_session(ctx: StepContext, order: str, state: str) -> None:
    session = await saga_choreo_postgres.session(ctx)
    session.add(Booking(order=order, state=state))


async def on_sqlalchemy(ctx: StepContext, order: str, state: str) -> None:
    connection = await saga_choreo_postgres.sqlalchemy_connection(ctx)
    await connection.execute(text("insert into booking values (:order, :state)"), {"order": order, "state": state})


async def on_psycopg(ctx: StepContext, order: str, state: str) -> None:
    connection = await saga_choreo_postgres.psycopg(ctx)
    await connection.execute("insert into booking values (%s, %s)", (order, state))


async def on_asyncpg(ctx: StepContext, order: str, state: str) -> None:
    connection = await saga_choreo_postgres.connection(ctx)
    await connection.execute("insert into booking values ($1, $2)", order, state)


async def through_tx(ctx: StepContext, order: str, state: str) -> None:
    await ctx.tx.execute("insert into booking values ($1, $2)", order, state)


def parts(url: str) -> tuple[str, str]:
    server, _, schema = url.partition("?search_path=")
    return server, schema


def engine_of(url: str, driver: str, **more: Any) -> Any:
    server, schema = parts(url)
    arguments: dict[str, Any] = {"options": f"-csearch_path={schema}"}
    if driver == "asyncpg":
        arguments = {"server_settings": {"search_path": schema}}
    return create_async_engine(server.replace("postgresql://", f"postgresql+{driver}://"), connect_args=arguments, **more)


@asynccontextmanager
async def sessions(url: str, driver: str) -> AsyncGenerator[Any]:
    engine = engine_of(url, driver)
    yield async_sessionmaker(engine)
    await engine.dispose()


@asynccontextmanager
async def connections(url: str, driver: str) -> AsyncGenerator[Any]:
    engine = engine_of(url, driver)
    yield engine.connect
    await engine.dispose()


@asynccontextmanager
async def begun_sessions(url: str, driver: str) -> AsyncGenerator[Any]:
    async with sessions(url, driver) as make:
        yield make.begin


@asynccontextmanager
async def begun_connections(url: str, driver: str) -> AsyncGenerator[Any]:
    engine = engine_of(url, driver)
    yield engine.begin
    await engine.dispose()


@asynccontextmanager
async def psycopgs(url: str, _driver: str) -> AsyncGenerator[Any]:
    server, schema = parts(url)

    @asynccontextmanager
    async def connect() -> AsyncGenerator[Any]:
        connection = await psycopg.AsyncConnection.connect(server, options=f"-csearch_path={schema}")
        try:
            yield connection
        finally:
            await connection.close()

    yield connect


@asynccontextmanager
async def asyncpgs(url: str, _driver: str) -> AsyncGenerator[Any]:
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        yield pool.acquire


@asynccontextmanager
async def nothing(_url: str, _driver: str) -> AsyncGenerator[Any]:
    yield None


WAYS: Mapping[str, tuple[Any, str, Write]] = {
    "a SQLAlchemy session over asyncpg": (sessions, "asyncpg", in_session),
    "a SQLAlchemy session over psycopg": (sessions, "psycopg", in_session),
    "a SQLAlchemy connection over asyncpg": (connections, "asyncpg", on_sqlalchemy),
    "a SQLAlchemy connection over psycopg": (connections, "psycopg", on_sqlalchemy),
    "a SQLAlchemy session that is begun": (begun_sessions, "asyncpg", in_session),
    "a SQLAlchemy connection that is begun": (begun_connections, "psycopg", on_sqlalchemy),
    "psycopg": (psycopgs, "", on_psycopg),
    "asyncpg from the user's pool": (asyncpgs, "", on_asyncpg),
    "ctx.tx on a session's connection": (sessions, "asyncpg", through_tx),
    "the toolkit's own asyncpg": (nothing, "", on_asyncpg),
}


class Shop:
    """`refuses`, `breaks`: what happens after the write, by what the start event says."""

    def __init__(self, url: str, broker: str, tx: Any, write: Write, limits: Limits = QUICK) -> None:
        prefix = f"own{next(_numbers)}"
        self.tries: list[int] = []
        self.write = write
        self.url = url
        self.payment = Agent("payment", saga=FORM, broker=broker, store=url, prefix=prefix, limits=limits, tx=tx)
        self.shop = Agent("shop", saga=FORM, broker=broker, store=url, prefix=prefix, limits=limits)

        @self.payment.step(retry=Retry(attempts=3, delay_s=0.05))
        async def book(placed: Placed, ctx: StepContext) -> Booked:
            self.tries.append(ctx.attempt)
            await self.write(ctx, placed.order, "booked")
            if placed.how == "refuse":
                raise Reject("sold out")
            if placed.how == "break once" and len(self.tries) == 1:
                raise OSError("down")
            return Booked(order=placed.order)

        @book.compensation
        async def unbook(booked: Booked, ctx: StepContext) -> None:
            await self.write(ctx, f"{booked.order}-undone", "undone")

        @self.shop.step("ship")
        async def ship(booked: Booked) -> None:
            if booked.order == "undo me":
                raise Reject("nobody delivers there")

        @ship.compensation
        async def unship() -> None: ...

    async def bookings(self) -> list[tuple[str, str]]:
        connection = await asyncpg.connect(self.url)
        rows = await connection.fetch("select order_id, state from booking order by order_id")
        await connection.close()
        return [tuple(row) for row in rows]


@asynccontextmanager
async def shop_of(way: str, url: str, broker: str, limits: Limits = QUICK) -> AsyncGenerator[Shop]:
    make, driver, write = WAYS[way]
    connection = await asyncpg.connect(url)
    await connection.execute("create table if not exists booking (order_id text primary key, state text)")
    await connection.close()
    async with AsyncExitStack() as stack:
        tx = await stack.enter_async_context(make(url, driver))
        shop = Shop(url, broker, tx, write, limits)
        await stack.enter_async_context(shop.payment.serving())
        await stack.enter_async_context(shop.shop.serving())
        await shop.shop.ready(20)
        yield shop


@pytest.mark.parametrize("way", WAYS)
def test_a_step_writes_with(way: str, nats_url: str, postgres_schema: Callable[[], str]) -> None:
    """Done, refused, failed and repeated, undone: what stands in the table is what the records say, each once."""

    async def scenario() -> None:
        async with shop_of(way, postgres_schema(), nats_url) as shop:
            done = await shop.shop.start_saga(Placed(order="1"))
            assert await done.wait(15) is SagaState.COMPLETED
            assert await shop.bookings() == [("1", "booked")]
            refused = await shop.shop.start_saga(Placed(order="2", how="refuse"))
            assert await refused.wait(15) is SagaState.COMPENSATED
            assert await shop.bookings() == [("1", "booked")]
            shop.tries.clear()
            again = await shop.shop.start_saga(Placed(order="3", how="break once"))
            assert await again.wait(15) is SagaState.COMPLETED
            assert len(shop.tries) == 2
            assert await shop.bookings() == [("1", "booked"), ("3", "booked")]
            undone = await shop.shop.start_saga(Placed(order="undo me"))
            assert await undone.wait(15) is SagaState.COMPENSATED
            assert await shop.bookings() == [
                ("1", "booked"), ("3", "booked"), ("undo me", "booked"), ("undo me-undone", "undone"),
            ]  # fmt: skip

    run(scenario(), 60)


def test_what_a_session_cannot_write_is_a_failure_of_the_step_and_nothing_of_it_stays(
    nats_url: str, postgres_schema: Callable[[], str]
) -> None:
    async def scenario() -> None:
        async with shop_of("a SQLAlchemy session over asyncpg", postgres_schema(), nats_url) as shop:
            connection = await asyncpg.connect(shop.url)
            await connection.execute("insert into booking values ('taken', 'by somebody else')")
            await connection.close()
            handle = await shop.shop.start_saga(Placed(order="taken"))

            async def parked() -> Any:
                return await shop.payment.parked_steps()

            (one,) = await eventually(parked)
            assert IntegrityError.__name__ in one.error
            assert len(shop.tries) == 3
            assert await shop.bookings() == [("taken", "by somebody else")]
            await handle.cancel("enough")

    run(scenario(), 60)


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_handler_that_commits_by_itself_parks_and_is_not_repeated(
    goes_on: bool, nats_url: str, postgres_schema: Callable[[], str]
) -> None:
    """`goes_on`: then a transaction is open again, but not the one that the step's record belongs in."""

    async def scenario() -> None:
        async with shop_of("a SQLAlchemy session over asyncpg", postgres_schema(), nats_url) as shop:

            async def commit(ctx: StepContext, order: str, state: str) -> None:
                await in_session(ctx, order, state)
                session = await saga_choreo_postgres.session(ctx)
                await session.commit()
                if goes_on:
                    session.add(Booking(order="after it", state=state))

            shop.write = commit
            handle = await shop.shop.start_saga(Placed(order="1"))

            async def parked() -> Any:
                return await shop.payment.parked_steps()

            (one,) = await eventually(parked)
            assert "the handler has committed" in one.error
            assert len(shop.tries) == 1
            await shop.payment.resolve_step(handle.saga_id, "book", "take", operator="ana", reason="looked")
            done = Booked(order="1")
            await shop.payment.resolve_step(handle.saga_id, "book", "done", operator="ana", reason="is there", event=done)
            assert await handle.wait(15) is SagaState.COMPLETED
            assert await shop.bookings() == [("1", "booked")]

    run(scenario(), 60)


def test_a_saga_started_in_a_session_is_published_by_its_commit_without_a_word_more(
    nats_url: str, postgres_schema: Callable[[], str]
) -> None:
    """The scan that would find it otherwise is switched off."""

    async def scenario() -> None:
        url, limits = postgres_schema(), replace(QUICK, start_unannounced_after_s=3600, unannounced_after_s=3600, reannounce=False)
        async with shop_of("a SQLAlchemy session over asyncpg", url, nats_url, limits) as shop, sessions(url, "asyncpg") as make:
            async with make() as session:
                undone = await shop.shop.start_saga(Placed(order="1"), key="o-1", tx=session)
                await session.rollback()
            async with make() as session:
                async with session.begin_nested():
                    session.add(Booking(order="by the web process", state="new"))
                    kept = await shop.shop.start_saga(Placed(order="1"), key="o-1", tx=session)
                await session.commit()
            assert await kept.wait(15) is SagaState.COMPLETED
            assert kept.saga_id != undone.saga_id
            with pytest.raises(SagaNotFound):
                await undone.state()
            assert [order for order, _ in await shop.bookings()] == ["1", "by the web process"]

    run(scenario(), 60)


def test_a_session_is_asked_for_where_the_agent_makes_none_or_another_kind(
    nats_url: str, postgres_schema: Callable[[], str]
) -> None:
    async def scenario() -> None:
        said: list[str] = []

        async def ask(ctx: StepContext, order: str, state: str) -> None:
            for wrong in (saga_choreo_postgres.session, saga_choreo_postgres.psycopg):
                try:
                    await wrong(ctx)
                except ConfigurationError as error:
                    said.append(str(error))

        async def ended(tx: Any) -> None:
            url = postgres_schema()
            shop = Shop(url, nats_url, tx, ask)
            async with shop.payment.serving(), shop.shop.serving():
                handle = await shop.shop.start_saga(Placed(order="1"))
                assert await handle.wait(15) is SagaState.COMPLETED

        await ended(None)
        assert ["tx=" in one for one in said] == [True, True]

    run(scenario(), 60)


def test_an_agent_with_sessions_of_postgresql_needs_a_store_there() -> None:
    async def scenario() -> None:
        agent = Agent("shop", saga=FORM, broker="memory://x", store="sqlite://:memory:", tx=lambda: None)  # type: ignore[arg-type, return-value]

        @agent.step("ship")
        async def ship(booked: Booked) -> None: ...

        @ship.compensation
        async def unship() -> None: ...

        with pytest.raises(ConfigurationError, match="postgresql://"):
            async with agent.serving():
                pass

    run(scenario())
