"""Faults of own sessions: the server refuses, a connection dies, before COMMIT or with its answer. Real PostgreSQL; attempts are counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.util import await_only

import saga_choreo_postgres
from saga_choreo import SagaState, StepContext
from saga_choreo.testing.proxy import FaultProxy
from tests.scenarios.test_own_sessions import WAYS, Placed, Shop, engine_of, in_session, on_asyncpg, on_psycopg, parts, shop_of
from tests.scenarios.world import eventually, run

Schema = Callable[[], str]
Meddle = Callable[[int], Awaitable[Any]]
KINDS = ("sessions over asyncpg", "sessions over psycopg", "psycopg", "asyncpg's pool")


async def ask(url: str, statement: str, *parameters: Any) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement, *parameters)
    finally:
        await connection.close()


async def say(ctx: StepContext, kind: str, statement: str) -> None:
    if kind == "psycopg":
        await (await saga_choreo_postgres.psycopg(ctx)).execute(statement.encode())
    elif kind == "asyncpg's pool":
        await (await saga_choreo_postgres.connection(ctx)).execute(statement)
    else:
        await (await saga_choreo_postgres.session(ctx)).execute(text(statement))


async def nothing(_backend: int) -> None: ...


class Meddled(psycopg.AsyncConnection[Any]):
    before: Meddle

    async def commit(self) -> None:
        await self.before(self.info.backend_pid)
        await super().commit()


class MeddledToo(asyncpg.Connection):
    before: Meddle = staticmethod(nothing)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109  (asyncpg's own signature)
        if query == "COMMIT;":
            await self.before(self.get_server_pid())
        return await super().execute(query, *args, timeout=timeout)


@asynccontextmanager
async def pool_of(before: Meddle, lead: Callable[[str], str], url: str, _driver: str) -> AsyncGenerator[Any]:
    kind = type("Connection", (MeddledToo,), {"__slots__": (), "before": staticmethod(before)})
    settings = {"default_transaction_isolation": "repeatable read"}
    async with asyncpg.create_pool(lead(url), min_size=1, max_size=2, connection_class=kind, server_settings=settings) as made:
        yield made.acquire


def way_of(monkeypatch: pytest.MonkeyPatch, kind: str, before: Meddle = nothing, lead: Callable[[str], str] = str) -> str:
    """A way of writing, in which `before` is told of the server's process of each step when COMMIT is about to be sent to it."""
    driver = kind.rpartition(" ")[2]

    @asynccontextmanager
    async def connections(url: str, _driver: str) -> AsyncGenerator[Any]:
        server, schema = parts(lead(url))

        idle: list[Meddled] = []

        @asynccontextmanager
        async def connect() -> AsyncGenerator[Any]:
            connection = idle.pop() if idle else await Meddled.connect(server, options=f"-csearch_path={schema}")
            try:
                if not connection.closed:
                    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
                connection.before = before
                yield connection
            finally:
                if not connection.closed:
                    idle.append(connection)

        yield connect
        for one in idle:
            await one.close()

    @asynccontextmanager
    async def sessions(url: str, _driver: str) -> AsyncGenerator[Any]:
        engine = engine_of(lead(url), driver, isolation_level="REPEATABLE READ")

        @event.listens_for(engine.sync_engine, "commit")
        def meddle(connection: Any) -> None:
            raw = connection.connection.driver_connection
            await_only(before(raw.get_server_pid() if driver == "asyncpg" else raw.info.backend_pid))

        yield async_sessionmaker(engine)
        await engine.dispose()

    pools = (partial(pool_of, before, lead), "", on_asyncpg)
    ways = {"psycopg": (connections, "", on_psycopg), "asyncpg's pool": pools}
    monkeypatch.setitem(WAYS, kind, ways.get(kind, (sessions, driver, in_session)))
    return kind


async def books_once(shop: Shop, tries: int = 2) -> None:
    """Tried again in place: that is no attempt, and the effect is there once."""
    handle = await shop.shop.start_saga(Placed(order="1"))
    assert await handle.wait(20) is SagaState.COMPLETED
    assert shop.tries == [1] * tries
    assert await shop.bookings() == [("1", "booked")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_conflict_is_tried_again_and_is_no_attempt(
    state: str, kind: str, monkeypatch: pytest.MonkeyPatch, nats_url: str, postgres_schema: Schema
) -> None:
    async def scenario() -> None:
        met: list[str] = []
        others: list[asyncio.Task[Any]] = []
        change = "update counted set n = n + 1 where name = '{}'"

        async def conflicting(ctx: StepContext, order: str, written: str) -> None:
            first = len(shop.tries) == 1
            await WAYS[kind][2](ctx, order, written)
            await say(ctx, kind, "set local deadlock_timeout = '20ms'")  # it is the step that finds the deadlock, and not the other
            await say(ctx, kind, change.format("a"))
            if first and state == "40001":
                await ask(shop.url, change.format("b"))
            elif first:
                both = f"begin; set local deadlock_timeout = '30s'; {change.format('b')}; {change.format('a')}; commit"
                others.append(asyncio.create_task(execute(shop.url, both)))
                waits = "select count(*) from pg_stat_activity where query = $1 and wait_event_type = 'Lock'"
                await eventually(lambda: ask(shop.url, waits, both))
            try:
                await say(ctx, kind, change.format("b"))
            except Exception as error:
                met.append(getattr(getattr(error, "orig", error), "sqlstate", "none"))
                raise

        async with shop_of(way_of(monkeypatch, kind), postgres_schema(), nats_url) as shop:
            await execute(
                shop.url, "create table counted (name text primary key, n int); insert into counted values ('a', 0), ('b', 0)"
            )
            shop.write = conflicting
            await books_once(shop)
            await asyncio.gather(*others)
            assert met == [state]

    run(scenario(), 60)


async def execute(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(script)
    await connection.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["in the handler", "before COMMIT"])
def test_a_connection_that_is_killed_is_no_attempt(
    where: str, kind: str, monkeypatch: pytest.MonkeyPatch, nats_url: str, postgres_schema: Schema
) -> None:
    async def scenario() -> None:
        killed: list[int] = []

        async def kill(backend: int) -> None:
            if not killed:
                killed.append(backend)
                assert await ask(shop.url, "select pg_terminate_backend($1, 5000)", backend)

        async def dying(ctx: StepContext, order: str, written: str) -> None:
            await WAYS[kind][2](ctx, order, written)
            await kill(int(await ctx.tx.fetchval("select pg_backend_pid()") or 0))

        before = kill if where == "before COMMIT" else nothing
        async with shop_of(way_of(monkeypatch, kind, before), postgres_schema(), nats_url) as shop:
            shop.write = dying if where == "in the handler" else shop.write
            await books_once(shop)
            assert len(killed) == 1

    run(scenario(), 60)


@pytest.mark.parametrize("kind", KINDS)
def test_a_commit_whose_answer_is_lost_is_not_made_once_more(
    kind: str, monkeypatch: pytest.MonkeyPatch, nats_url: str, postgres_schema: Schema
) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        there = urlsplit(url).port
        assert there is not None
        cutting: list[asyncio.Task[None]] = []
        async with FaultProxy(there) as proxy:

            async def cut_when_committed() -> None:
                with proxy.black_hole("down"):
                    await eventually(lambda: ask(url, "select count(*) from booking"))
                    proxy.cut()

            async def swallow(_backend: int) -> None:
                if not cutting:
                    cutting.append(asyncio.create_task(cut_when_committed()))
                    await asyncio.sleep(0)

            def lead(url: str) -> str:
                return url.replace(f":{there}/", f":{proxy.port}/")

            async with shop_of(way_of(monkeypatch, kind, swallow, lead), url, nats_url) as shop:
                await execute(url, "alter table booking drop constraint booking_pkey")
                await books_once(shop)
                await cutting[0]

    run(scenario(), 60)


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_died_in_its_pool_is_no_attempt(
    kind: str, monkeypatch: pytest.MonkeyPatch, nats_url: str, postgres_schema: Schema
) -> None:
    async def scenario() -> None:
        used: list[int] = []

        async def note(backend: int) -> None:
            used.append(backend)

        async with shop_of(way_of(monkeypatch, kind, note), postgres_schema(), nats_url) as shop:
            await books_once(shop, tries=1)
            assert await ask(shop.url, "select pg_terminate_backend($1, 5000)", used[0])
            handle = await shop.shop.start_saga(Placed(order="2"))
            assert await handle.wait(20) is SagaState.COMPLETED
            assert shop.tries == [1] * (2 if kind == "asyncpg's pool" else 3)  # that one notices by itself
            assert len(used) == len(await shop.bookings()) == 2

    run(scenario(), 60)
