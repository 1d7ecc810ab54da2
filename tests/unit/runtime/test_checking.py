"""The records of a real store against a ledger in it, also while both go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from saga_choreo.errors import ConfigurationError
from saga_choreo.model.record import Record
from saga_choreo.runtime.checking import check_store
from saga_choreo.runtime.plugins import WholeStore, make_store
from tests.unit.runtime.test_consistency import CHARGE, FORM, NOW, OTHER, PLAN, SAGA, completed, record

Steps = Sequence[tuple[UUID, str]]


async def write(store: WholeStore, records: Sequence[Record] = (), effects: Steps = ()) -> None:
    async with store.transaction() as transaction:
        await transaction.save(records)
        await transaction.user.execute("create table if not exists ledger (saga text, step text, side text)")
        for saga_id, step in effects:
            await transaction.user.execute("insert into ledger values (?, ?, 'do')", str(saga_id), step)
        await transaction.commit()


def new(*records: Record) -> list[Record]:
    return [replace(one, version=1, announced=1) for one in records]


def on_a_store(tmp_path: Path, work: Callable[[WholeStore], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        store = make_store(f"sqlite:///{tmp_path}/store.db")
        await store.open()
        try:
            await store.remember(PLAN.definition, FORM.canonical_bytes, ["shop"])
            await work(store)
        finally:
            await store.close()

    asyncio.run(run())


async def found(store: WholeStore, *steps: str, limit: int = 100) -> list[tuple[str, str, str]]:
    ledger = "select saga, step, side from ledger"
    checked = await check_store(store, now_ms=NOW, late_ms=60_000, limit=limit, ledger=ledger, ledger_steps=steps)
    return [(one.code, one.saga, one.step) for one in checked.found]


def test_an_empty_ledger_beside_a_completed_saga_is_named(tmp_path: Path) -> None:
    async def work(store: WholeStore) -> None:
        await write(store, new(*completed()))
        assert await found(store) == [("step_not_in_ledger", "", "charge"), ("step_not_in_ledger", "", "ship")]
        await write(store, effects=[(SAGA, "ship")])
        assert await found(store) == [("step_not_in_ledger", "", "charge")]
        await write(store, effects=[(SAGA, "charge")])
        assert await found(store) == []

    on_a_store(tmp_path, work)


def test_who_says_which_steps_write_to_the_ledger_is_told_of_these_saga_by_saga(tmp_path: Path) -> None:
    async def work(store: WholeStore) -> None:
        await write(store, new(*completed()))
        assert await found(store, "charge") == [("effect_missing", str(SAGA), "charge")]
        await write(store, effects=[(SAGA, "charge")])
        assert await found(store, "charge") == [], "ship is not said to write to it"
        await write(store, effects=[(SAGA, "ship"), (SAGA, "ship")])
        assert await found(store, "charge") == [("effect_twice", str(SAGA), "ship")], "and is judged where it does"
        with pytest.raises(ConfigurationError, match="no definition in this store has a step 'chrage'"):
            await found(store, "chrage")

    on_a_store(tmp_path, work)


def test_a_step_of_older_sagas_that_are_not_looked_at_counts_as_one_that_writes_to_the_ledger(tmp_path: Path) -> None:
    async def work(store: WholeStore) -> None:
        newer = [replace(one, saga_id=OTHER) for one in completed()]
        await write(store, new(*completed(), *newer), [(SAGA, "charge"), (SAGA, "ship"), (OTHER, "ship")])
        assert await found(store, limit=1) == [("effect_missing", str(OTHER), "charge")]

    on_a_store(tmp_path, work)


def between(store: WholeStore, name: str, *works: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Something happens after each of the first calls has got its answer, and before its caller goes on."""
    real, left = getattr(store, name), list(works)

    async def call(*args: Any) -> Any:
        answer = await real(*args)
        if left:
            await left.pop(0)()
        return answer

    setattr(store, name, call)


DONE = completed()[1]
WAITS = record(CHARGE, done_in=1, due_ms=NOW, version=1, announced=1)


def test_a_step_that_commits_between_the_records_and_the_ledger_contradicts_nothing(tmp_path: Path) -> None:
    async def work(store: WholeStore) -> None:
        await write(store, [WAITS])
        between(store, "sagas", lambda: write(store, [replace(DONE, announced=2)], [(SAGA, "charge")]))
        assert await found(store) == []

    on_a_store(tmp_path, work)


def test_a_saga_that_starts_after_the_records_were_read_contradicts_nothing(tmp_path: Path) -> None:
    async def work(store: WholeStore) -> None:
        await write(store)
        between(store, "sagas", lambda: write(store, new(*completed()), [(SAGA, "charge"), (SAGA, "ship")]))
        assert await found(store) == []

    on_a_store(tmp_path, work)


def test_what_contradicts_the_ledger_is_named_once_its_saga_rests(tmp_path: Path) -> None:
    """It goes on before the ledger is read and again before the second look, which is not the last one then."""

    async def work(store: WholeStore) -> None:
        await write(store, [WAITS])
        tried = replace(WAITS, version=2, announced=2)
        between(store, "sagas", lambda: write(store, [tried], [(SAGA, "charge")]))
        between(store, "records", lambda: write(store, [replace(tried, version=3, announced=3)]))
        assert await found(store) == [("effect_without_step", str(SAGA), "charge")]

    on_a_store(tmp_path, work)


def test_a_saga_that_is_forgotten_while_it_is_looked_at_contradicts_nothing(tmp_path: Path) -> None:
    async def work(store: WholeStore) -> None:
        ended = [replace(one, version=1, announced=1) for one in completed()]
        await write(store, ended, [(SAGA, "ship"), (SAGA, "charge"), (SAGA, "charge")])

        async def forget() -> None:
            assert await store.forget("shop", OTHER, 100) == 3

        between(store, "sagas", forget)
        assert await found(store) == []

    on_a_store(tmp_path, work)
