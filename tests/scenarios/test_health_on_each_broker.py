"""What an agent's health says while its broker is out of reach, on each broker: readiness, and counters of what was not taken."""

from __future__ import annotations

import pytest

from saga_choreo import Agent, SagaState
from saga_choreo.testing.proxy import FaultProxy
from tests.scenarios.world import Go, World, chain, eventually, run


@pytest.mark.parametrize("broker", ["nats", "rabbitmq", "kafka"])
def test_an_agent_is_not_ready_while_its_broker_is_away_and_counts_what_was_not_confirmed(
    broker: str, store: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(f"{broker}_url")
    port = int(url.rpartition(":")[2].partition("/")[0])

    async def scenario() -> None:
        async with FaultProxy(port) as proxy:
            world = World(chain(), url.replace(f":{port}", f":{proxy.port}"), store)
            async with world.cluster() as cluster:
                shop = cluster["shop"]
                first = await shop.start_saga(Go())
                assert await first.wait(20) is SagaState.COMPLETED
                await eventually(lambda: _is_ready(shop))
                with proxy.refusing():
                    second = await shop.start_saga(Go())
                    await eventually(lambda: _is_away(shop))
                await eventually(lambda: _is_ready(shop))
                assert shop.health().connection_losses >= 1
                assert await second.wait(30) is SagaState.COMPLETED

    run(scenario(), 90)


async def _is_ready(agent: Agent) -> bool:
    health = agent.health()
    return health.is_connected and health.is_consuming


async def _is_away(agent: Agent) -> bool:
    health = agent.health()
    return health.is_open and not health.is_connected and not health.is_consuming and health.unconfirmed > 0
