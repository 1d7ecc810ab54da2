"""What happens inside one SQLite transaction: the user's statements, raw connections, joining."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import apsw
import pytest

from saga_choreo.errors import ConfigurationError, DurabilityRefused, SagaError, StoreConflict
from saga_choreo.testing.stores import make_record, saga_id_of
from saga_choreo_sqlite.store import SqliteStore
from saga_choreo_sqlite.turns import Turns
from tests.unit.stores.support import opened, run, save, url_of


def test_a_commit_refused_by_a_deferred_constraint_did_not_happen(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store:
            async with store.transaction() as transaction:
                raw = transaction.raw
                await transaction.user.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
                await transaction.user.execute("CREATE TABLE child (p REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
                await transaction.commit()
                raw.pragma("foreign_keys", 1)
            async with store.transaction() as transaction:
                await transaction.save([make_record()])
                await transaction.user.execute("INSERT INTO child VALUES (7)")
                with pytest.raises(StoreConflict, match="did not happen"):
                    await transaction.commit()
            assert len(await store.records(saga_id_of(0))) == 0
            await save(store, 1)

    run(work())


def test_a_users_own_error_passes_through_as_it_is(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store, store.transaction() as transaction:
            await transaction.user.execute("CREATE TABLE charges (id INTEGER PRIMARY KEY)")
            await transaction.user.execute("INSERT INTO charges VALUES (1)")
            with pytest.raises(apsw.ConstraintError):
                await transaction.user.execute("INSERT INTO charges VALUES (1)")
            with pytest.raises(apsw.SQLError, match="no such table"):
                await transaction.user.fetch("SELECT * FROM missing")
            await transaction.commit()

    run(work())


def test_a_users_statement_that_rolls_everything_back_is_noticed(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store:
            async with store.transaction() as transaction:
                await transaction.user.execute("CREATE TABLE charges (id INTEGER PRIMARY KEY ON CONFLICT ROLLBACK)")
                await transaction.commit()
            async with store.transaction() as transaction:
                await transaction.save([make_record()])
                await transaction.user.execute("INSERT INTO charges VALUES (1)")
                with pytest.raises(SagaError):
                    await transaction.user.execute("INSERT INTO charges VALUES (1)")
                with pytest.raises(SagaError):
                    await transaction.commit()
            assert len(await store.records(saga_id_of(0))) == 0

    run(work())


@pytest.mark.parametrize(
    "statement", ["PRAGMA synchronous = OFF", "PRAGMA journal_mode = DELETE", "PRAGMA locking_mode = EXCLUSIVE"]
)
def test_a_users_statement_that_weakens_commits_is_refused(tmp_path: Path, statement: str) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store, store.transaction() as transaction:
            with pytest.raises(ConfigurationError, match="weaken"):
                await transaction.user.execute(statement)
            assert await transaction.user.fetchval("PRAGMA synchronous") == 2

    run(work())


def test_raw_begins_the_transaction_and_takes_part_in_savepoints(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store:
            async with store.transaction() as transaction:
                transaction.raw.execute("CREATE TABLE t (x)")
                with contextlib.suppress(LookupError):
                    async with transaction.savepoint():
                        transaction.raw.execute("INSERT INTO t VALUES (1)")
                        raise LookupError
                with pytest.raises(apsw.AuthError):
                    transaction.raw.execute("COMMIT")
                async with store.transaction() as second:
                    with pytest.raises(StoreConflict):
                        _ = second.raw
                await transaction.commit()
            async with store.transaction() as transaction:
                assert await transaction.user.fetchval("SELECT count(*) FROM t") == 0

    run(work())


def test_joining_refuses_what_would_not_be_safe(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store:
            with contextlib.closing(sqlite3.connect(":memory:")) as stock, pytest.raises(ConfigurationError, match="second copy"):
                store.join(stock)
            with contextlib.closing(apsw.Connection(str(tmp_path / "store.db"))) as own:
                with pytest.raises(ConfigurationError, match="BEGIN IMMEDIATE"):
                    store.join(own)
                own.execute("PRAGMA synchronous = OFF; BEGIN IMMEDIATE")
                with pytest.raises(DurabilityRefused, match="FULL"):
                    store.join(own)
            with contextlib.closing(apsw.Connection(str(tmp_path / "other.db"))) as other:
                other.execute("BEGIN")
                with pytest.raises(ConfigurationError, match="same database file"):
                    store.join(other)

    run(work())


def test_a_joined_connection_may_have_rows_of_its_own_kind(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store:
            await save(store, 0)
            with contextlib.closing(apsw.Connection(str(tmp_path / "store.db"))) as own:
                own.row_trace = lambda cursor, row: {"row": row}
                own.execute("BEGIN IMMEDIATE")
                joined = store.join(own)
                assert [r.version for r in await joined.claim("payment", [saga_id_of(0)])] == [1]
                assert own.row_trace is not None
                own.execute("COMMIT")
                with pytest.raises(SagaError, match="by its owner"):
                    await joined.save([make_record(1)])

    run(work())


def test_a_raw_connection_that_could_not_begin_leaves_the_turn_to_the_next(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path), busy_wait_s=0.2)) as store:
            with contextlib.closing(apsw.Connection(str(tmp_path / "store.db"))) as other:
                other.execute("BEGIN IMMEDIATE")
                async with store.transaction() as transaction:
                    with pytest.raises(StoreConflict):
                        _ = transaction.raw
                other.execute("ROLLBACK")
            await save(store, 1)

    run(work())


def test_a_turn_handed_to_a_waiter_that_is_just_cancelled_goes_on_to_the_next() -> None:
    async def work() -> None:
        turns = Turns()
        await turns.take(1)
        cancelled, patient = asyncio.create_task(turns.take(5)), asyncio.create_task(turns.take(5))
        await asyncio.sleep(0)
        turns.give()
        cancelled.cancel()
        await patient
        assert cancelled.cancelled()
        turns.give()
        assert turns.try_take()

    run(work())
