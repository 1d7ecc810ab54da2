"""A record that cannot be told of, whatever the reason: it is in nobody's way."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from saga_choreo import SagaState
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import ORIGIN
from saga_choreo.runtime.plugins import make_store
from tests.scenarios.world import Go, World, chain, eventually, run


def test_a_record_that_cannot_be_written_as_a_message_keeps_neither_the_agent_nor_the_others_from_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        world = World(chain(), f"memory://{uuid4().hex}", f"memory://{uuid4().hex}-{{service}}")
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            store = make_store(cluster.store_url("shop"))
            await store.open()
            (record,) = [one for one in await store.records(handle.saga_id) if one.step == ORIGIN]
            # Past the year 9999, which no time on the wire can say.
            damaged = replace(
                record,
                saga_id=saga_id_at(record.saga_id.int >> 80, bytes(10)),
                deadline_ms=10**17,
                version=1,
                announced=0,
                due_ms=None,
            )
            async with store.transaction() as transaction:
                await transaction.save([damaged])
                await transaction.commit()

            async def told() -> bool:
                return "cannot be written" in caplog.text

            await eventually(told)
            later = await cluster["shop"].start_saga(Go())
            assert [await handle.wait(10), await later.wait(10)] == [SagaState.COMPLETED] * 2
            await store.close()

    run(scenario())
