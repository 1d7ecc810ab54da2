"""What is done to the services' databases while sagas run. Each fault ends healed: then all sagas have to end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from typing import Any

import apsw
import asyncpg

from saga_choreo.testing.proxy import FaultProxy
from tests.scenarios.chaos.place import Place

__all__ = [
    "backlog",
    "commits_cut",
    "database_restarted",
    "foreign_transaction",
    "serialization_failures",
    "slow_statements",
    "table_locked",
    "writer_held",
]

_FAILS_OFTEN = """
create or replace function chaos_fails() returns trigger language plpgsql as $$
begin
  if random() < 0.2 then
    raise exception 'chaos says so' using errcode = '40001';
  end if;
  return new;
end $$;
create trigger chaos_fails before insert or update on {table} for each row execute function chaos_fails()
"""
_TABLES = ("ledger", "saga_record")


@asynccontextmanager
async def _connected(url: str) -> AsyncGenerator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _connected_to_all(place: Place) -> AsyncGenerator[list[Any]]:
    """One connection to the database of each service."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_connected(url)) for url in place.plain_stores.values()]


async def database_restarted(place: Place, sagas: int) -> int:
    """In immediate mode, at random: nothing is flushed, every connection dies. As long as sagas are started."""
    server = place.database
    assert server is not None
    times, at_least = 0, 2 + sagas // 500
    async with place.under_load(sagas) as loading:
        while not loading.done() or times < at_least:
            await asyncio.sleep(place.random.uniform(1.0, 6.0))
            server.kill()
            await asyncio.sleep(place.random.uniform(0.0, 2.0))
            server.start()
            times += 1
    return times


async def commits_cut(place: Place, sagas: int) -> int:
    """Connections are killed inside COMMIT, which is made to last: some have committed, some have not, nobody is told."""
    cut = 0
    async with _connected(place.plain_stores["order"]) as admin:
        for setting in ("commit_delay = 20000", "commit_siblings = 0"):
            await admin.execute(f"alter system set {setting}")
        await admin.execute("select pg_reload_conf()")
        async with place.under_load(sagas):
            give_up = time.monotonic() + 8
            while time.monotonic() < give_up:
                cut += await admin.fetchval(
                    "select count(*) filter (where pg_terminate_backend(pid)) from (select pid from pg_stat_activity"
                    " where pid <> pg_backend_pid() and state = 'active' and query ilike 'commit%' order by random() limit 1) as one"
                )
                await asyncio.sleep(0.05)
        for setting in ("commit_delay", "commit_siblings"):
            await admin.execute(f"alter system reset {setting}")
        await admin.execute("select pg_reload_conf()")
    assert cut, "no connection was caught in its COMMIT"
    return cut


async def slow_statements(place: Place, sagas: int, proxy: FaultProxy) -> int:
    """Every answer of the database takes 0.1 s or more; then connections are reset in the middle of whatever they do."""
    async with place.under_load(sagas):
        proxy.delay(0.1, jitter_s=0.1, directions=("down",))
        await asyncio.sleep(6)
        proxy.delay(0.0)
        for _ in range(5):
            await asyncio.sleep(place.random.uniform(0.1, 0.6))
            proxy.cut()
    return 1


async def table_locked(place: Place, sagas: int, *, seconds: float = 30.0) -> int:
    """Somebody has the tables of all services."""
    async with _connected_to_all(place) as admins, place.under_load(sagas):
        for admin in admins:
            await admin.execute("begin; lock table saga_record in access exclusive mode")
        await asyncio.sleep(seconds)
        for admin in admins:
            await admin.execute("rollback")
    return 1


async def serialization_failures(place: Place, sagas: int) -> int:
    """One row in five meets a serialization failure, in the steps' own tables and in the toolkit's."""
    async with _connected_to_all(place) as admins:
        for admin, table in product(admins, _TABLES):
            await admin.execute(_FAILS_OFTEN.format(table=table))
        async with place.under_load(sagas):
            await asyncio.sleep(5)
        for admin, table in product(admins, _TABLES):
            await _without_trigger(admin, table)
    return 1


async def _without_trigger(admin: Any, table: str) -> None:
    """It waits for the table, and those who work on it may wait for what it has already: one of them gives way."""
    for _ in range(20):
        with contextlib.suppress(asyncpg.DeadlockDetectedError):
            return await admin.execute(f"drop trigger chaos_fails on {table}")
    raise AssertionError(f"the trigger on {table} could not be dropped: a deadlock each time")


async def foreign_transaction(place: Place, sagas: int) -> int:
    """Somebody's transaction stays open all the time and holds back the vacuum."""
    async with _connected(place.plain_stores["order"]) as admin, admin.transaction(isolation="repeatable_read"):
        await admin.fetchval("select count(*) from saga_record")
        await place.start(sagas)
        await place.verdict(60)
    return 1


async def backlog(place: Place, sagas: int) -> int:
    """Nobody works while sagas are started; then all have everything to do at once."""
    for process in place.running:
        process.kill()
    place.running.clear()
    await place.start(sagas)
    for service in place.stores:
        place.run(service)
    return 1


async def writer_held(place: Place, sagas: int) -> int:
    """Another process has SQLite's only writer for longer than the toolkit waits for it."""

    def hold() -> None:
        connections = [apsw.Connection(url.removeprefix("sqlite:///").split("?")[0]) for url in place.plain_stores.values()]
        for connection in connections:
            connection.set_busy_timeout(10_000)
            connection.execute("begin immediate")
        time.sleep(7)
        for connection in connections:
            with contextlib.suppress(apsw.SQLError):
                connection.execute("rollback")
            connection.close()

    async with place.under_load(sagas):
        await asyncio.to_thread(hold)
    return 1
