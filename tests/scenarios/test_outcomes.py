"""What is told of a saga's end, and to whom. Real NATS and SQLite."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from saga_choreo import SagaOutcome, SagaState
from tests.scenarios.world import QUICK, Go, World, chain, eventually, run


def test_everybody_is_told_of_the_end_and_again_when_the_callback_raises(
    nats_url: str, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        told: list[tuple[str, SagaOutcome]] = []

        async def at_shop(outcome: SagaOutcome) -> None:
            told.append(("shop", outcome))

        async def at_payment(outcome: SagaOutcome) -> None:
            told.append(("payment", outcome))
            if len([one for one in told if one[0] == "payment"]) == 1:
                raise RuntimeError("mail server down")

        world.agents["shop"].on_outcome(at_shop)
        world.agents["payment"].on_outcome(at_payment)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), key="told")
            assert await handle.wait(10) is SagaState.COMPLETED
            await eventually(lambda: _told(told, "payment", 2))
            await eventually(lambda: _told(told, "shop", 1))
        outcomes = {outcome for _, outcome in told}
        assert len(outcomes) == 1
        (outcome,) = outcomes
        assert (outcome.saga_id, outcome.key, outcome.origin) == (handle.saga_id, "told", "shop")
        assert outcome.state is SagaState.COMPLETED

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert "will be called again" in caplog.text


async def _told(told: list[tuple[str, SagaOutcome]], service: str, times: int) -> bool:
    return len([one for one in told if one[0] == service]) >= times


def test_a_callback_that_hangs_does_not_stop_the_agent(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        limits = replace(QUICK, outcome_timeout_s=0.3)
        world = World(chain(), nats_url, store, limits=limits)

        async def hang(outcome: SagaOutcome) -> None:
            await asyncio.sleep(3600)

        world.agents["payment"].on_outcome(hang)
        async with world.cluster() as cluster:
            for _ in range(3):
                handle = await cluster["shop"].start_saga(Go())
                assert await handle.wait(5) is SagaState.COMPLETED
                await asyncio.sleep(0.3)

    run(scenario())
