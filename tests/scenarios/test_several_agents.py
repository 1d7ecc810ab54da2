"""Several agents of one service on one store: what one of them has published, no other publishes again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from saga_choreo import StepContext
from saga_choreo.testing.harness import Cluster
from tests.scenarios.world import QUICK, Go, World, chain, run

# They hear of each other soon; the rest is as by default, but for the wait before a record of a dead agent is published.
_LIMITS = replace(QUICK, alive_every_s=0.1, unannounced_after_s=2.0)


async def _takes_long(_ctx: StepContext) -> None:
    await asyncio.sleep(3)


def test_a_start_is_published_once_by_the_agents_of_its_service(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        name = uuid4().hex
        world = World(chain(), f"memory://{name}", f"memory://{name}-{{service}}", limits=_LIMITS)
        world.on["reserve", "do"] = _takes_long  # the starts stay as they are
        first, second = world.agents["shop"], world.agent("shop")
        async with Cluster(*world.agents.values(), store=world.store), second.serving():
            await asyncio.sleep(0.5)
            handles = [await agent.start_saga(Go()) for _ in range(5) for agent in (first, second)]
            await asyncio.sleep(1.5)
            assert [await handle.state() for handle in handles] == ["pending"] * 10

    with caplog.at_level("INFO", logger="saga_choreo.relay"):
        run(scenario())
    assert not [record for record in caplog.records if "not announced by the process" in record.getMessage()]
