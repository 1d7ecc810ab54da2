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


def strange(number: int) -> RecordKey:
    return RecordKey(saga_id_of(number), "another release's", 0)


def worked_by(queue: Queue, knows: set[str], enough: int) -> list[RecordKey]:
    worked, seen = list[RecordKey](), asyncio.Event()

    async def work(key: RecordKey) -> bool:
        queue.left.remove(key)
        worked.append(key)
        if len(worked) == enough:
            seen.set()
        return False

    async def until_enough() -> None:
        scans: Any = queue
        timers = Timers("payment", scans, SystemClock(), Limits(), work, knows.__contains__)
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(timers.run(group))
            async with asyncio.timeout(10):
                await seen.wait()
            loop.cancel()

    asyncio.run(until_enough())
    return worked


def test_records_of_a_definition_that_is_not_known_yet_hold_up_nobody_and_are_left_alone() -> None:
    queue = Queue()
    queue.left = [*(strange(number) for number in range(1000)), *OVERDUE[:100], *(strange(number) for number in range(1000, 1900))]
    worked = worked_by(queue, {"d"}, 100)
    assert sorted(worked) == OVERDUE[:100]
    assert len(queue.left) == 1900


def test_records_that_were_passed_over_are_worked_on_once_their_definition_is_known() -> None:
    queue, known = Queue(), {"d"}
    queue.left = [*(strange(number) for number in range(40)), *OVERDUE[:40]]
    worked_by(queue, known, 40)
    known.add("another release's")
    assert len(worked_by(queue, known, 40)) == 40
