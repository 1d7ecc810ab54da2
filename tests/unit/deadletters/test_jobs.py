"""Which jobs an agent carries out, on the reference store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

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
