"""Every participant may start the choreography: the one that does is the saga's origin. Real NATS and SQLite."""

from __future__ import annotations

from typing import Any

import pytest

from saga_choreo import Reject, SagaState, StepContext
from saga_choreo.errors import SagaNotFound
from tests.scenarios.world import Go, World, chain, run


async def refuse(ctx: StepContext) -> Any:
    if ctx.key.endswith("refused"):
        raise Reject("no, thank you")


def test_two_services_start_the_same_choreography_and_each_is_the_origin_of_its_own_sagas(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, on={("confirm", "do"): refuse})
        async with world.cluster() as cluster:
            for service in ("shop", "payment"):
                # The same key in two services names two sagas: a key is unique where it was given.
                good = await cluster[service].start_saga(Go(), key="o-1")
                bad = await cluster[service].start_saga(Go(), key="o-refused")
                assert await good.wait(10) is SagaState.COMPLETED
                assert await bad.wait(10) is SagaState.COMPENSATED
                assert (await good.view()).origin == service
                assert await world.did(cluster, good) == ["reserve", "charge", "confirm"]
                assert await world.did(cluster, bad) == ["reserve", "charge", "undo charge", "undo reserve"]
            with pytest.raises(SagaNotFound, match="keys are known where the saga was started"):
                await cluster["inventory"].saga("o-1").state()

    run(scenario())
