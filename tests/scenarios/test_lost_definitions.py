"""The channel of definitions is lost and declared again, empty: agents fill it, so that whoever starts after that can work."""

from __future__ import annotations

import nats
import pytest

from saga_choreo import SagaState
from saga_choreo.runtime import directory
from tests.scenarios.parts import serving
from tests.scenarios.world import Go, World, chain, eventually, run


def test_an_origin_that_starts_after_the_definitions_were_lost_hears_of_all_agents(
    nats_url: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "_AGAIN_S", 0.5)

    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        client = await nats.connect(nats_url)
        js = client.jetstream()

        async def is_filled() -> bool:
            try:
                state = (await js.stream_info(f"{world.prefix}_defs", subjects_filter=">")).state
            except nats.js.errors.NotFoundError:
                return False
            # The definition, what inventory and payment do in it, and that they hold it.
            told = [subject.removeprefix(f"{world.prefix}.defs.").partition(".")[0] for subject in state.subjects or {}]
            return sum(word not in ("alive", "epoch", "epoch-asked") for word in told) == 5

        async with serving(world.agents["inventory"], world.agents["payment"]):
            await eventually(is_filled)
            await js.delete_stream(f"{world.prefix}_defs")
            await eventually(is_filled, 20)
            async with serving(world.agents["shop"]):
                handle = await world.agents["shop"].start_saga(Go())
                assert await handle.wait(20) is SagaState.COMPLETED
        await client.close()

    run(scenario(), 60)
