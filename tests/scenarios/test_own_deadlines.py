"""A step's own deadline: of a pending step, of one that keeps failing or is parked, with and without an event for it."""

from __future__ import annotations

from typing import Any

import pytest

from saga_choreo import Retry, SagaState, StepContext
from saga_choreo.errors import Refused
from tests.scenarios.outside import Charged, Outside, form, token_of
from tests.scenarios.world import Go, World, run


@pytest.mark.parametrize("restart", [False, True])
def test_a_pending_step_that_is_not_answered_in_time_takes_the_branch_of_its_deadline(
    nats_url: str, store: str, *, restart: bool
) -> None:
    async def scenario() -> None:
        world = Outside(form(late=True), nats_url, store, options={"charge": {"deadline": 1.2}})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            token = await token_of(world, cluster, handle)
            if restart:
                await cluster.stop("payment")
                await cluster.start("payment")
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "apologise"]
            with pytest.raises(Refused, match="own deadline has passed"):
                await cluster["payment"].complete_step(token, Charged())
            assert len(world.outside) == 1

    run(scenario())


def test_a_plain_step_that_keeps_failing_takes_the_branch_of_its_deadline(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        options = {"charge": {"deadline": 0.8, "retry": Retry(attempts=50, delay_s=0.1, delay_max_s=0.1)}}
        world = World(form(late=True, external=False), nats_url, store, options=options, on={("charge", "do"): _fail})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "apologise"]

    run(scenario())


def test_a_plain_step_that_is_parked_takes_the_branch_of_its_deadline(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        options = {"charge": {"deadline": 0.8, "retry": Retry(attempts=1)}}
        world = World(form(late=True, external=False), nats_url, store, options=options, on={("charge", "do"): _fail})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert world.tried.count(("charge", "do")) == 1
            assert await world.did(cluster, handle) == ["reserve", "apologise"]

    run(scenario())


async def _fail(ctx: StepContext) -> Any:
    raise RuntimeError("the service is down")


def test_the_own_deadline_of_a_step_without_an_event_is_a_refusal(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        options = {"charge": {"deadline": 0.7, "retry": Retry(attempts=50, delay_s=0.1, delay_max_s=0.1)}}
        world = World(form(external=False), nats_url, store, options=options, on={("charge", "do"): _fail})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.TIMED_OUT
            assert (await handle.view()).reason == "step 'charge' was not done by its own deadline"
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())


def test_an_optional_step_is_skipped_at_its_own_deadline(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        options = {"charge": {"deadline": 0.7, "retry": Retry(attempts=50, delay_s=0.1, delay_max_s=0.1)}}
        world = World(form(external=False, optional=True), nats_url, store, options=options, on={("charge", "do"): _fail})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve"]

    run(scenario())
