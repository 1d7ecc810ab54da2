"""Wait-die: who waits for a lock, who refuses, and that nobody waits in a circle."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record, Row
from saga_choreo.model.states import State
from saga_choreo.ports import SagaLock
from saga_choreo.runtime.locking import on_conflict
from saga_choreo.runtime.operations import HeldBack, Rejected

NOW_MS = 1_800_000_000_000
ids = st.builds(saga_id_at, st.integers(NOW_MS - 1_000_000, NOW_MS), st.binary(min_size=10, max_size=10))


def record(saga_id: UUID, **row: object) -> Record:
    return Record(
        service="shop", saga_id=saga_id, definition="d", step=0, row=Row(**row), choreography="c", origin="shop"  # type: ignore[arg-type]  # the rows of this file
    )  # fmt: skip


def held_by(saga_id: UUID) -> SagaLock:
    return SagaLock(service="shop", name="customer:1", saga_id=saga_id)


@given(st.lists(ids, min_size=2, max_size=6, unique=True), st.floats(0, 1, exclude_max=True))
def test_no_circle_of_sagas_waits_for_each_other(circle: list[UUID], chance: float) -> None:
    answers = [
        on_conflict(record(waits), held_by(holds), "wait", NOW_MS, chance)
        for waits, holds in zip(circle, [*circle[1:], circle[0]], strict=True)
    ]
    assert any(isinstance(answer, Rejected) for answer in answers)


@given(ids, ids.filter(lambda one: one.int % 2 == 0), st.floats(0, 1, exclude_max=True))
def test_an_older_saga_waits_for_a_bounded_time_and_a_younger_one_refuses(one: UUID, other: UUID, chance: float) -> None:
    older, younger = sorted((one, UUID(int=other.int ^ 1) if one == other else other))
    waits = on_conflict(record(older), held_by(younger), "wait", NOW_MS, chance)
    assert isinstance(waits, HeldBack)
    assert NOW_MS + 25 <= waits.until_ms <= NOW_MS + 3000
    assert isinstance(on_conflict(record(younger), held_by(older), "wait", NOW_MS, chance), Rejected)
    assert isinstance(on_conflict(record(older), held_by(younger), "refuse", NOW_MS, chance), Rejected)


def test_a_call_that_may_have_been_made_never_refuses_for_a_lock() -> None:
    older, younger = saga_id_at(NOW_MS - 10, bytes(10)), saga_id_at(NOW_MS, bytes(10))
    fresh = record(younger, state=State.RUNNING)
    assert isinstance(on_conflict(fresh, held_by(older), "refuse", NOW_MS, 0.5), Rejected)
    tried = replace(fresh, tried_since_ms=NOW_MS - 5)
    assert isinstance(on_conflict(tried, held_by(older), "refuse", NOW_MS, 0.5), HeldBack)
