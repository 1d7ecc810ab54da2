"""Looking for stuck sagas in a store that holds many more that are not."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from saga_choreo.core.rows import is_finished
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Outcome, Parked, State
from saga_choreo.ports import rests
from saga_choreo.runtime import stuck
from saga_choreo.runtime.plugins import WholeStore, make_store
from saga_choreo.runtime.stuck import StuckSagas, stuck_sagas
from tests.unit.runtime.test_consistency import CHARGE, FORM, PLAN, record

MS = 1_700_000_000_000
NOW = MS + 86_400_000


def saga(number: int) -> UUID:
    """Started so many milliseconds after the first."""
    return UUID(int=((MS + number) << 80) | (7 << 76) | (2 << 62) | number)


def waiting(number: int, step: int = CHARGE, **changes: Any) -> Record:
    at = {"saga_id": saga(number), "version": 1, "announced": 1, "changed_ms": MS + number}
    return record(step, **{**at, **changes})


def started(number: int, **changes: Any) -> Record:
    return waiting(number, ORIGIN, state=State.OPEN, choice=1, due_ms=NOW + 5, **changes)


def ended(number: int) -> Record:
    return waiting(number, state=State.DONE, done_in=1, choice=1, outcome=Outcome.COMPLETED)


@asynccontextmanager
async def filled(url: str, *records: Record) -> AsyncGenerator[WholeStore]:
    store = make_store(url)
    await store.open()
    try:
        await store.remember(PLAN.definition, FORM.canonical_bytes, ["shop"])
        for some in _batches(records):
            async with store.transaction() as transaction:
                await transaction.save(some)
                await transaction.commit()
        yield store
    finally:
        await store.close()


def _batches(records: Sequence[Record]) -> list[Sequence[Record]]:
    return [records[at : at + 3_000] for at in range(0, len(records), 3_000)]


def looked(url: str, *records: Record, limit: int = 50, for_ms: int = 60_000) -> StuckSagas:
    async def look() -> StuckSagas:
        async with filled(url, *records) as store:
            return await stuck_sagas(store, NOW, for_ms, limit=limit)

    return asyncio.run(look())


@pytest.mark.parametrize("oldest", [waiting(0), started(0)], ids=["a step that waits", "an origin with a timer"])
def test_the_oldest_stuck_saga_is_found_behind_twenty_thousand_that_have_ended(tmp_path: Path, oldest: Record) -> None:
    found = looked(f"sqlite:///{tmp_path}/s.db", oldest, *map(ended, range(1, 20_002)))
    assert ([one.saga_id for one in found], found.further) == ([saga(0)], "")


def test_those_that_wait_longest_come_first_and_each_once() -> None:
    """The fourth has a timer and a step that rests; the second was changed last of all."""
    records = [started(1), started(2, changed_ms=MS + 9), waiting(3), started(4), waiting(4), waiting(5, changed_ms=NOW - 59_999)]
    assert [one.saga_id for one in looked("memory://", *records)] == [saga(n) for n in (1, 3, 4, 2)]
    assert [one.saga_id for one in looked("memory://", *records, limit=2)] == [saga(1), saga(3)]


def test_a_saga_that_started_late_and_has_waited_longest_is_not_missed_for_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "_PAGE", 2)
    records = [started(n, changed_ms=MS + 100 + n) for n in range(10)] + [started(10, changed_ms=MS + 11), waiting(11)]
    assert [one.saga_id for one in looked("memory://", *records, limit=2)] == [saga(10), saga(11)]


def test_what_was_not_looked_at_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "_PAGE", 2)
    monkeypatch.setattr(stuck, "_OPEN_MAX", 4)
    monkeypatch.setattr(stuck, "_WALKED_MAX", 4)
    fresh = [started(n, changed_ms=NOW) for n in range(4)]
    found = looked("memory://", *fresh, started(4))
    assert (list(found), found.further[:42]) == ([], "of the open sagas only the oldest 4 were l")
    assert "steps that wait without a timer" in found.further
    found = looked("memory://", *map(ended, range(4)), waiting(4), started(5))
    assert [one.saga_id for one in found] == [saga(5)]
    assert found.further == "steps that wait without a timer were looked for in the oldest 4 sagas only"
    assert looked("memory://", *map(started, range(6)), limit=2).further == "", "none after these can have waited longer"


def test_a_record_rests_where_it_is_not_finished_and_has_no_timer() -> None:
    for state, outcome, parked in itertools.product(State, Outcome, Parked):
        one = waiting(0, state=state, outcome=outcome, parked=parked)
        assert rests(one) is not is_finished(one.row)
        assert not rests(replace(one, due_ms=1))
