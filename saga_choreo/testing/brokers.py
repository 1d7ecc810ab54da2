"""The conformance suite for brokers. An adapter is one when `BROKER_BEHAVIOURS` hold against its real server.

@pytest.mark.parametrize("behaviour", BROKER_BEHAVIOURS, ids=str)
def test_my_broker(behaviour, tmp_path):
    harness = MyHarness(tmp_path)  # see BrokerHarness
    if reason := behaviour.missing(harness.features): pytest.skip(reason)
    asyncio.run(behaviour.run(harness))
"""

from __future__ import annotations

from saga_choreo.testing.behaviours import BrokerBehaviour, BrokerHarness, ServerControl
from saga_choreo.testing.broker_delivery import DELIVERY
from saga_choreo.testing.broker_faults import FAULTS
from saga_choreo.testing.broker_publishing import PUBLISHING

__all__ = ["BROKER_BEHAVIOURS", "BrokerBehaviour", "BrokerHarness", "ServerControl"]

BROKER_BEHAVIOURS: tuple[BrokerBehaviour, ...] = (*DELIVERY, *PUBLISHING, *FAULTS)
