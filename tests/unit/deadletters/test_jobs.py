"""Which jobs an agent carries out, on the reference store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from saga_choreo import ReplayOrder, WantedLetters
from saga_choreo.memory.store import MemoryStore
from saga_choreo.ports import ItemState, Job, JobItem, JobState, Quarantined
from saga_choreo.runtime.arrivals import Arrival
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.deadletters.runner import Replays

SERVICE = "payment"


def _letter(number: int) -> Quarantined:
    return Quarantined(
        service=SERVICE, code="stale", detail="too old", channel="event.order.placed", headers={}, body=b"{}", received_ms=number
    )


def test_jobs_that_rest_take_no_other_jobs_place() -> None:
    applied: list[Arrival] = []

    async def apply(arrivals: Sequence[Arrival]) -> None:
        applied.extend(arrivals)

    async def speak(*_: Any) -> None:
        raise AssertionError("there is no parked step")

    async def scenario() -> None:
        store = MemoryStore()
        await store.open()
        await store.add_letters([_letter(number) for number in range(41)])
        for number in range(41):
            state = JobState.RUNNING if number == 0 else JobState.STOPPED
            job = Job(id=f"{number:04}", service=SERVICE, operator="ana", reason="mended", state=state, total=1)
            await store.add_job(job, [JobItem(job=job.id, place=0, letter=f"m{number + 1}")])
        replays = Replays(SERVICE, "agent", store, SystemClock(), apply, speak)
        assert await replays.look()
        assert [item.state for item in await store.items("0000")] == [ItemState.RESOLVED]

    asyncio.run(scenario())
    assert len(applied) == 1


@pytest.mark.parametrize("wrong", [{"rate_per_min": -1}, {"in_flight_max": 0}, {"stop_percent": 101}])
def test_a_replay_that_would_never_move_or_never_stop_is_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"a replay's {name} is .*; give a number from"):
        ReplayOrder(operator="ana", reason="mended", **wrong)  # type: ignore[arg-type]  # numbers, all of them


@pytest.mark.parametrize("wrong", [{"kind": "poison"}, {"state": "closed"}])
def test_a_filter_that_could_find_nothing_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"dead letters have no .*; use one of: "):
        WantedLetters(**wrong)  # type: ignore[arg-type]  # texts, all of them
