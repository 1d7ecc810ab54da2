"""What only SQLite can do wrong: one writer, one file, a disk, a library."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from saga_choreo.errors import ConfigurationError, DurabilityRefused, StoreConflict, StoreUnavailable
from saga_choreo.ports import AnnouncedMark
from saga_choreo.testing.stores import make_record, saga_id_of
from saga_choreo_sqlite.connect import Guard, open_writer
from saga_choreo_sqlite.place import place_of
from saga_choreo_sqlite.store import SqliteStore, WriterHeldTooLong
from tests.unit.stores.support import HandClock, opened, run, save, url_of


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:////var/lib/a%20b.db", "/var/lib/a b.db"),
        ("sqlite://:memory:", ":memory:"),
        ("sqlite:///:memory:", ":memory:"),
        ("sqlite://", ":memory:"),
        ("sqlite:///a.db?durability=relaxed", "a.db"),
    ],
)
def test_urls_are_read_as_sqlalchemy_writes_them(url: str, path: str) -> None:
    assert place_of(url).path == path


@pytest.mark.parametrize(
    "url", ["sqlite://host/a.db", "postgresql:///a", "sqlite:///a.db?mode=ro", "sqlite:///a.db?durability=none"]
)
def test_other_urls_are_refused_and_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match="store URL"):
        SqliteStore(url)


def test_a_file_that_is_no_database_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is a text file, and a long one at that" * 100)
    with pytest.raises(ConfigurationError, match=r"store\.db.*not a sound SQLite database"):
        run(SqliteStore(url_of(tmp_path)).open())


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere.*folder exist"):
        run(SqliteStore(f"sqlite:///{tmp_path / 'nowhere' / 'store.db'}").open())


def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="not open"):
        run(save(SqliteStore(url_of(tmp_path)), 1))


@pytest.mark.parametrize("at", ["commit", "next use", "user"])
def test_a_writer_held_too_long_is_rolled_back_and_told_to_be_external(tmp_path: Path, at: str) -> None:
    async def work() -> None:
        clock = HandClock()
        async with opened(SqliteStore(url_of(tmp_path), clock=clock)) as store:
            async with store.transaction() as transaction:
                await transaction.save([make_record()])
                clock.now += 1.5
                uses = {
                    "commit": lambda: transaction.commit(),
                    "user": lambda: transaction.user.execute("CREATE TABLE t (x)"),
                    "next use": lambda: transaction.save([make_record(1)]),
                }
                with pytest.raises(WriterHeldTooLong, match="external=True"):
                    await uses[at]()
                with pytest.raises(WriterHeldTooLong):
                    await transaction.commit()
                await save(store, 2)
            assert [len(await store.records(saga_id_of(n))) for n in (0, 2)] == [0, 1]

    run(work())


def test_a_lock_held_elsewhere_is_waited_for_without_stopping_the_loop_and_within_a_bound(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path), busy_wait_s=0.3)) as store:
            with contextlib.closing(apsw.Connection(str(tmp_path / "store.db"))) as other:
                other.execute("BEGIN IMMEDIATE")
                task = asyncio.create_task(save(store, 1))
                beats = 0
                while not task.done():
                    await asyncio.sleep(0.001)
                    beats += 1
                with pytest.raises(StoreConflict, match=r"was not free within 0\.3 s"):
                    await task
                assert beats > 50
                other.execute("ROLLBACK")
            await save(store, 1)

    run(work())


def test_a_waiting_process_gets_its_turn_beside_one_that_never_pauses(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as busy, opened(SqliteStore(url_of(tmp_path))) as patient:
            stop = False

            async def hammer() -> None:
                number = 1_000
                while not stop:
                    await save(busy, number)
                    number += 1

            task = asyncio.create_task(hammer())
            await asyncio.sleep(0.05)
            async with asyncio.timeout(5):
                for number in range(5):
                    await save(patient, number)
            stop = True
            await task

    run(work())


def test_a_cancelled_commit_ends_first_and_leaves_the_store_usable(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store:
            for number in range(20):
                task = asyncio.create_task(save(store, number))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await save(store, 100)
            assert len(await store.records(saga_id_of(100))) == 1

    run(work())


def test_a_full_database_is_unavailable_and_recovers(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store:
            async with store.transaction() as transaction:
                limit = transaction.raw.pragma("page_count") + 5
                transaction.raw.pragma("max_page_count", limit)
                with pytest.raises(StoreUnavailable, match="no space is left"):
                    await transaction.save([make_record(n, kept=b"x" * 4096) for n in range(100)])
            async with store.transaction() as transaction:
                transaction.raw.pragma("max_page_count", 1_000_000)
            await save(store, 5)
            assert len(await store.records(saga_id_of(0))) == 0
            assert len(await store.records(saga_id_of(5))) == 1

    run(work())


_FILE_LIMIT = """
import asyncio, resource, signal, sys
from saga_choreo.errors import StoreUnavailable
from saga_choreo.testing.stores import make_record, saga_id_of
from saga_choreo_sqlite.store import SqliteStore

async def save(store, number):
    async with store.transaction() as transaction:
        await transaction.save([make_record(number, kept=b"x" * 20_000)])
        await transaction.commit()

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = SqliteStore(sys.argv[1])
    await store.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    confirmed = 0
    try:
        while confirmed < 1000:
            await save(store, confirmed)
            confirmed += 1
    except StoreUnavailable:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await save(store, 5000)
    found = [n for n in range(confirmed) if await store.records(saga_id_of(n))]
    assert 0 < confirmed < 1000 and len(found) == confirmed, (confirmed, len(found))
    assert await store.records(saga_id_of(5000))
    await store.close()
    print("ok")

asyncio.run(main())
"""


def test_a_disk_that_refuses_writes_loses_nothing_confirmed_and_recovers(tmp_path: Path) -> None:
    env = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", _FILE_LIMIT, url_of(tmp_path)], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "ok", done.stderr


def test_many_processes_may_make_the_tables_at_once(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from saga_choreo_sqlite.store import SqliteStore\n"
        "async def main():\n s = SqliteStore(sys.argv[1]); await s.open(); print(s.incarnation); await s.close()\n"
        "asyncio.run(main())"
    )
    env = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    command = [sys.executable, "-c", script, url_of(tmp_path)]
    started = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate(timeout=60) for process in started]
    assert [errors for _, errors in answers if errors] == []
    assert len({incarnation for incarnation, _ in answers}) == 1


def test_marks_do_not_leave_the_connection_relaxed(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(SqliteStore(url_of(tmp_path))) as store:
            await save(store, 0)
            await store.mark_announced("payment", [AnnouncedMark(make_record().record_key, 1)])
            async with store.transaction() as transaction:
                assert await transaction.user.fetchval("PRAGMA synchronous") == 2

    run(work())


def test_relaxed_durability_is_said_and_only_when_asked_for(tmp_path: Path) -> None:
    async def work() -> None:
        assert SqliteStore(url_of(tmp_path)).features.durable
        assert not SqliteStore("sqlite://:memory:").features.durable
        async with opened(SqliteStore(url_of(tmp_path) + "?durability=relaxed")) as store:
            assert not store.features.durable
            async with store.transaction() as transaction:
                assert await transaction.user.fetchval("PRAGMA synchronous") == 1

    run(work())


def test_a_file_that_cannot_use_wal_is_refused() -> None:
    with pytest.raises(DurabilityRefused, match="'wal'"):
        open_writer("", "full", Guard(), create=True)


def test_an_sqlite_library_that_may_damage_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(ConfigurationError, match=r"3\.51\.3"):
        run(SqliteStore(url_of(tmp_path)).open())
