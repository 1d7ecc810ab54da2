"""Every store meets the same suite; what one cannot do is skipped by name."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import apsw
import asyncpg
import pytest
import redis

from saga_choreo.memory.store import MemoryStore
from saga_choreo.memory.transaction import MemoryTransaction
from saga_choreo.testing.stores import STORE_BEHAVIOURS, Behaviour, StoreHarness, check_store
from saga_choreo_postgres.store import PostgresStore
from saga_choreo_redis.store import RedisStore
from saga_choreo_sqlite.store import SqliteStore

_POSTGRES = "saga_choreo_postgres.store:PostgresStore"
_REDIS = "saga_choreo_redis.store:RedisStore"
_SQLITE = "saga_choreo_sqlite.store:SqliteStore"


class _OwnMemory:
    def __init__(self, transaction: MemoryTransaction) -> None:
        self.raw = transaction

    async def commit(self) -> None:
        await self.raw.commit()

    async def rollback(self) -> None:
        self.raw.end()


class _OwnApsw:
    """A connection of the caller's own, as a web process has it."""

    def __init__(self, path: Path) -> None:
        self.raw = apsw.Connection(str(path))
        self.raw.set_busy_timeout(5_000)
        self.raw.execute("BEGIN IMMEDIATE")

    async def commit(self) -> None:
        self.raw.execute("COMMIT")

    async def rollback(self) -> None:
        self.raw.execute("ROLLBACK")


class _OwnAsyncpg:
    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.raw = connection
        self._transaction = connection.transaction()

    async def begin(self) -> None:
        await self._transaction.start()

    async def commit(self) -> None:
        await self._transaction.commit()

    async def rollback(self) -> None:
        await self._transaction.rollback()


def _memory(tmp_path: Path) -> StoreHarness:
    name = tmp_path.name
    MemoryStore.drop(name)

    def make() -> MemoryStore:
        return MemoryStore(f"memory://{name}")

    @contextlib.asynccontextmanager
    async def own() -> AsyncGenerator[_OwnMemory, None]:
        store = make()
        await store.open()
        async with store.transaction() as transaction:
            yield _OwnMemory(transaction)
        await store.close()

    return StoreHarness(name="memory", make=make, own_connection=own)


# How long one of the suite's transactions may take on a busy machine: the limit itself has its tests beside the store.
_PATIENT_S = 20.0


def _sqlite(tmp_path: Path, **options: object) -> StoreHarness:
    path = tmp_path / "store.db"
    url = f"sqlite:///{path}"

    @contextlib.asynccontextmanager
    async def own() -> AsyncGenerator[_OwnApsw, None]:
        connection = _OwnApsw(path)
        try:
            yield connection
        finally:
            connection.raw.close()

    async def newer() -> None:
        with contextlib.closing(apsw.Connection(str(path))) as connection:
            connection.execute("UPDATE saga_meta SET value = '9999' WHERE name IN ('schema_version', 'oldest_version')")

    def make() -> SqliteStore:
        return SqliteStore(url, writer_hold_max_s=_PATIENT_S, **options)  # type: ignore[arg-type]  # the options are given right below

    return StoreHarness(name="sqlite", make=make, url=url, cls=_SQLITE, own_connection=own, make_newer=newer)


def _sqlite_inline(tmp_path: Path) -> StoreHarness:
    return _sqlite(tmp_path, inline=True)


def _sqlite_relaxed(tmp_path: Path) -> StoreHarness:
    return _sqlite(tmp_path, durability="relaxed")


def _sqlite_memory(tmp_path: Path) -> StoreHarness:
    return StoreHarness(
        name="sqlite in memory", make=lambda: SqliteStore("sqlite://:memory:", writer_hold_max_s=_PATIENT_S), two_clients=False
    )


_HARNESSES = [_memory, _sqlite, _sqlite_inline, _sqlite_relaxed, _sqlite_memory]


@pytest.mark.parametrize("behaviour", STORE_BEHAVIOURS, ids=lambda b: b.name)
@pytest.mark.parametrize("harness", _HARNESSES, ids=lambda f: f.__name__.removeprefix("_"))
def test_store(harness: Callable[[Path], StoreHarness], behaviour: Behaviour, tmp_path: Path) -> None:
    check_store(harness(tmp_path), behaviour, skip=pytest.skip)
    database = tmp_path / "store.db"
    if database.exists():
        with contextlib.closing(apsw.Connection(str(database))) as connection:
            assert connection.pragma("integrity_check") == "ok"


def _postgres(url: str) -> StoreHarness:
    @contextlib.asynccontextmanager
    async def own() -> AsyncGenerator[_OwnAsyncpg, None]:
        connection = await asyncpg.connect(url)
        try:
            own = _OwnAsyncpg(connection)
            await own.begin()
            yield own
        finally:
            await connection.close()

    async def newer() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("UPDATE saga_meta SET value = '9999' WHERE name IN ('schema_version', 'oldest_version')")
        await connection.close()

    return StoreHarness(
        name="postgres", make=lambda: PostgresStore(url), url=url, cls=_POSTGRES, own_connection=own, make_newer=newer
    )


@pytest.mark.parametrize("behaviour", STORE_BEHAVIOURS, ids=lambda b: b.name)
def test_postgres(behaviour: Behaviour, postgres_schema: Callable[[], str]) -> None:
    check_store(_postgres(postgres_schema()), behaviour, skip=pytest.skip)


def _redis(url: str) -> StoreHarness:
    async def newer() -> None:
        prefix = url.rpartition("prefix=")[2]
        with redis.Redis.from_url(url.partition("?")[0]) as client:
            client.hset(f"{{{prefix}}}:meta", mapping={"schema_version": "9999", "oldest_version": "9999"})

    return StoreHarness(name="redis", make=lambda: RedisStore(url), url=url, cls=_REDIS, make_newer=newer)


@pytest.mark.parametrize("behaviour", STORE_BEHAVIOURS, ids=lambda b: b.name)
def test_redis(behaviour: Behaviour, redis_prefix: Callable[[], str]) -> None:
    check_store(_redis(redis_prefix()), behaviour, skip=pytest.skip)


def test_behaviours_have_names_of_their_own() -> None:
    assert len({behaviour.name for behaviour in STORE_BEHAVIOURS}) == len(STORE_BEHAVIOURS) >= 35
