"""The loop over due records, on a real (memory) store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from saga_choreo.memory.clock import SystemClock
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record, RecordKey, Row
from saga_choreo.runtime.plugins import make_store
from saga_choreo.runtime.timers import Timers
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.streams import Streams
from saga_choreo.testing.virtual_loop import VirtualLoop


def _due(saga_id: UUID) -> Record:
    return Record(
        service="s",
        saga_id=saga_id,
        definition="d",
        step=0,
        row=Row(),
        choreography="c",
        origin="s",
        due_ms=1,
        version=1,
        announced=1,
    )


def test_an_unexpected_error_over_one_record_is_told_and_stops_neither_the_others_nor_the_agent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        store = make_store(f"memory://{uuid4().hex}")
        await store.open()
        bad, good = (saga_id_at(1, bytes([n]) * 10) for n in (1, 2))
        async with store.transaction() as transaction:
            await transaction.save([_due(bad), _due(good)])
            await transaction.commit()
        worked = asyncio.Event()

        async def work(key: RecordKey) -> bool:
            if key.saga_id == bad:
                raise ZeroDivisionError
            worked.set()
            await asyncio.sleep(0.01)
            return False

        timers = Timers("s", store, SystemClock(), Limits(), work)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            loop = group.create_task(timers.run(group))
            await worked.wait()
            loop.cancel()
            await timers.stop(0.0)
        assert str(bad) in caplog.text

    asyncio.run(scenario())


class _VirtualClock(SystemClock):
    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def _announced(count: int, seconds: float, took_s: float = 0.0, fresh_every_s: float = 0.0) -> tuple[int, int]:
    """Runs the loop over a backlog of repeated announcements in virtual time. Returns how many were made, and how many records that
    became due meanwhile were worked on."""
    announced, fresh = 0, set[RecordKey]()

    async def scenario() -> None:
        store = make_store(f"memory://{uuid4().hex}")
        await store.open()

        async def save(*records: Record) -> None:
            async with store.transaction() as transaction:
                await transaction.save(records)
                await transaction.commit()

        async def work(key: RecordKey) -> bool:
            nonlocal announced
            if key.saga_id.int >> 80 > 1:
                fresh.add(key)
                return False
            announced += 1
            await asyncio.sleep(took_s)
            return True

        await save(*(_due(saga_id_at(1, n.to_bytes(10))) for n in range(count)))
        timers = Timers("s", store, _VirtualClock(), Limits(), work)
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(timers.run(group))
            for n in range(int(seconds / fresh_every_s) if fresh_every_s else 0):
                await asyncio.sleep(fresh_every_s)
                await save(replace(_due(saga_id_at(2, n.to_bytes(10))), due_ms=2))
            await asyncio.sleep(1.0 if fresh_every_s else seconds)
            loop.cancel()
            await timers.stop(0.0)

    VirtualLoop(Streams(1).named("schedule")).run(scenario())
    return announced, len(fresh)


def test_repeated_announcements_keep_to_their_budget() -> None:
    announced, _ = _announced(60, 5)
    budget = Limits().nudges_per_s * 5
    assert 0.9 * budget <= announced <= budget + Limits().slow_at_once


def test_repeated_announcements_that_take_long_become_fewer() -> None:
    announced, _ = _announced(60, 5, took_s=0.05)
    most = Limits().slow_at_once * (5 + 1)  # one a second and place
    assert 0.7 * most <= announced <= most


def test_what_becomes_due_does_not_wait_behind_a_backlog_of_repeated_announcements() -> None:
    _, fresh = _announced(60, 5, fresh_every_s=0.5)
    assert fresh == 10
