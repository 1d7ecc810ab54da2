"""A long queue of due records is worked on from both ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from saga_choreo.model.record import RecordKey
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.timers import Timers
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.stores import saga_id_of

OVERDUE = [RecordKey(saga_id_of(number), "d", 0) for number in range(1000)]
FRESH = RecordKey(saga_id_of(5000), "d", 0)


class Queue:
    """The scans that timers use: a thousand overdue records, and one that has just become due."""

    def __init__(self) -> None:
        self.left = [*OVERDUE, FRESH]

    async def due(self, service: str, now_ms: int, limit: int, *, newest: bool = False) -> Sequence[RecordKey]:
        return (self.left[::-1] if newest else self.left)[:limit]

    async def next_due_ms(self, service: str) -> int | None:
        return 0 if self.left else None


def test_a_fresh_record_does_not_stand_behind_a_thousand_overdue_ones() -> None:
    queue, worked, seen = Queue(), list[RecordKey](), asyncio.Event()

    async def work(key: RecordKey) -> bool:
        queue.left.remove(key)
        worked.append(key)
        if key == FRESH:
            seen.set()
        return False

    async def until_fresh() -> None:
        scans: Any = queue
        timers = Timers("payment", scans, SystemClock(), Limits(), work)
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(timers.run(group))
            async with asyncio.timeout(10):
                await seen.wait()
            loop.cancel()

    asyncio.run(until_fresh())
    assert worked.index(FRESH) < Limits().slow_at_once
    assert worked.index(OVERDUE[0]) < Limits().slow_at_once
