"""Steps that hold SQLite's only writer for too long: each is found out itself, and none is blamed for another."""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

from saga_choreo import Retry, SagaState, StepContext, StepState
from saga_choreo.model.choreography import Choreography
from tests.scenarios.world import Go, World, eventually, run, step

_AGAIN = Retry(attempts=2, delay_s=0.01)


async def _block(_ctx: StepContext) -> None:
    time.sleep(1.1)  # noqa: ASYNC251  the fault that is shown: it holds the writer past its limit


def test_a_retried_step_is_not_blamed_for_the_step_after_it_that_blocks(store: str) -> None:
    async def scenario() -> None:
        form = (
            Choreography("blocking")
            .starts_with(Go)
            .step(step("pick", "inventory", Go, "stock.picked"), step("weigh", "inventory", "stock.picked"))
        )
        world = World(form, f"memory://{uuid4().hex}", store, options={"pick": {"retry": _AGAIN}, "weigh": {"retry": _AGAIN}})

        async def fail_first(_ctx: StepContext) -> None:
            if world.tried.count(("pick", "do")) == 1:
                raise OSError("once")

        world.on[("pick", "do")] = fail_first
        world.on[("weigh", "do")] = _block
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())

            async def parked() -> list[str]:
                known = await cluster["inventory"].sagas()
                return [one.step for view in known for one in view.steps if one.parked]

            assert await eventually(parked, 20) == ["weigh"]
            states = {one.step: one.state for one in (await cluster["inventory"].saga(handle.saga_id).view()).steps}
            assert states["pick"] is StepState.COMPLETED

    run(scenario())


def test_a_deadline_is_kept_though_an_undo_that_follows_from_it_blocks(store: str) -> None:
    async def scenario() -> None:
        form = (
            Choreography("late")
            .starts_with(Go)
            .step(step("confirm", "shop", Go), step("charge", "payment", Go, undo=False, read_only=True, retriable=True))
        )
        world = World(form, f"memory://{uuid4().hex}", store, options={"charge": {"retry": Retry(attempts=100, delay_s=0.2)}})

        async def fail(_ctx: StepContext) -> None:
            raise OSError("always")

        world.on[("charge", "do")] = fail
        world.on[("confirm", "undo")] = _block
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), deadline=timedelta(seconds=1))

            async def undoing() -> bool:
                return await handle.state() in (SagaState.COMPENSATING, SagaState.TIMED_OUT)

            await eventually(undoing, 15)

    run(scenario())
