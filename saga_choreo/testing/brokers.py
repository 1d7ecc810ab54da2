"""The conformance suite for brokers. An adapter is one when `BROKER_BEHAVIOURS` hold against its real server.

@pytest.mark.parametrize("behaviour", BROKER_BEHAVIOURS, ids=str)
def test_my_broker(behaviour, tmp_path):
    harness = MyHarness(tmp_path)  # see BrokerHarness
    if reason := behaviour.missing(harness): pytest.skip(reason)
    asyncio.run(behaviour.run(harness))
"""

from __future__ import annotations

from saga_choreo.testing.behaviours import BrokerBehaviour
from saga_choreo.testing.broker_agents import AGENTS
from saga_choreo.testing.broker_delivery import DELIVERY
from saga_choreo.testing.broker_harness import BrokerHarness, BrokerTools, Certificate, GuardedServer, ServerControl
from saga_choreo.testing.broker_limits import LIMITS
from saga_choreo.testing.broker_network import NETWORK
from saga_choreo.testing.broker_publishing import PUBLISHING
from saga_choreo.testing.broker_servers import SERVERS

__all__ = [
    "BROKER_BEHAVIOURS",
    "BrokerBehaviour",
    "BrokerHarness",
    "BrokerTools",
    "Certificate",
    "GuardedServer",
    "ServerControl",
]

BROKER_BEHAVIOURS: tuple[BrokerBehaviour, ...] = (*DELIVERY, *PUBLISHING, *AGENTS, *LIMITS, *NETWORK, *SERVERS)
