"""A message over which the agent fails unexpectedly, whatever it does: it must neither be lost nor come for ever. Memory places."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from saga_choreo import Limits, SagaState
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.states import State
from saga_choreo.runtime import session as sessions
from saga_choreo.runtime.hopeless import later_s
from saga_choreo.runtime.operations import Broke, Save
from saga_choreo.runtime.pipeline import Pipeline
from tests.scenarios.world import Go, World, chain, eventually, run
from tests.unit.runtime.rig import NOW_MS, Rig, envelope


def test_it_is_handed_back_later_and_later_so_that_twenty_deliveries_take_some_minutes() -> None:
    waits = [later_s(delivered) for delivered in range(1, Limits().deliveries_max)]
    assert waits[:4] == [5.0, 10.0, 20.0, 40.0]
    assert waits == sorted(waits)
    assert max(waits) == 60.0
    assert 600 < sum(waits) < 1200


def test_one_that_always_meets_a_bug_is_quarantined_loudly_and_whole_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The bug is planted in the pipeline: whatever comes of the bad saga ends in a ZeroDivisionError."""
    real, bad, met = Pipeline.handle, set[str](), list[int]()

    def buggy(self: Pipeline, arrivals: Any) -> Any:
        for one in arrivals:
            if any(name in str(one.headers) for name in bad) and self.service == "payment":
                met.append(one.delivery.attempt)
                raise ZeroDivisionError("planted")
        return real(self, arrivals)

    async def scenario() -> None:
        limits = Limits(ready_timeout_s=10.0, deliveries_max=4, reannounce=False)
        world = World(chain(), f"memory://{uuid4().hex}", f"memory://{uuid4().hex}-{{service}}", limits=limits)
        async with world.cluster() as cluster:
            good = await cluster["shop"].start_saga(Go())
            assert await good.wait(10) is SagaState.COMPLETED
            monkeypatch.setattr(Pipeline, "handle", buggy)
            monkeypatch.setattr(sessions, "later_s", lambda delivered: 0.01 * delivered)
            bad.add("a-bad-one")
            handle = await cluster["shop"].start_saga(Go(), key="a-bad-one")
            store = cluster["payment"]._opened().store
            (kept,) = await eventually(lambda: store.quarantined("payment"))
            assert (kept.code, kept.saga_id, kept.channel) == ("unexpected_error", str(handle.saga_id), "event.stock.reserved")
            assert "ZeroDivisionError: planted" in kept.detail
            assert kept.body == b"{}"
            await asyncio.sleep(0.3)
            assert met == [1, 2, 3, 4], "it came again though it was acknowledged"
            assert (await store.counters("payment"))["quarantined"] == 1
            again = await cluster["shop"].start_saga(Go())
            assert await again.wait(10) is SagaState.COMPLETED

    run(scenario())
    (loud,) = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert "quarantined" in loud.getMessage()


def test_an_edge_within_the_service_that_is_past_the_horizon_ends_in_quarantine_with_its_own_copy() -> None:
    """A saga that is older than the horizon goes on where it has a record; the next step of the same service has none, and gets none."""
    rig = Rig(limits=Limits(horizon_s=60.0))
    old = saga_id_at(NOW_MS - 120_000, bytes(10))
    rig.now_ms = NOW_MS - 100_000
    rig.answers = [Broke("down")]
    rig.handle(envelope(rig.choreography, saga_id=old))
    (record,) = rig.records.values()
    rig.now_ms = NOW_MS
    rig.drive(rig.pipeline.work(record.record_key))
    assert [one.row.state for one in rig.records.values()] == [State.DONE], "only the step that had a record"
    (done,) = [one for one in rig.said() if one.kind is MessageKind.DONE]
    assert done.channel.name == "one.done"
    rig.handle(done)
    (kept,) = [one for save in rig.of(Save) for one in save.quarantined]
    assert (kept.code, kept.saga_id) == ("stale", str(old))
