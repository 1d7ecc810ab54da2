"""The loop over due records, on a real (memory) store."""

from __future__ import annotations

import asyncio
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


def test_repeated_announcements_keep_to_their_budget() -> None:
    limits, seconds, announced = Limits(), 10, list[RecordKey]()

    async def work(key: RecordKey) -> bool:
        announced.append(key)
        return True

    async def scenario() -> None:
        store = make_store(f"memory://{uuid4().hex}")
        await store.open()
        async with store.transaction() as transaction:
            await transaction.save([_due(saga_id_at(1, bytes([n]) * 10)) for n in range(200)])
            await transaction.commit()
        timers = Timers("s", store, SystemClock(), limits, work)
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(timers.run(group))
            await asyncio.sleep(seconds)
            loop.cancel()
            await timers.stop(0.0)

    VirtualLoop(Streams(1).named("schedule")).run(scenario())
    budget = limits.nudges_per_s * seconds
    assert 0.9 * budget <= len(announced) <= budget + limits.slow_at_once
