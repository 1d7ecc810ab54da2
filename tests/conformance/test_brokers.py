"""Every broker adapter against every behaviour of the suite; a behaviour that an adapter does not claim is skipped by name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from saga_choreo.testing.brokers import BROKER_BEHAVIOURS, BrokerBehaviour
from tests.conformance.harnesses import HARNESSES


@pytest.mark.parametrize("behaviour", BROKER_BEHAVIOURS, ids=str)
@pytest.mark.parametrize("adapter", HARNESSES)
def test_a_broker_keeps_its_promises(
    adapter: str, behaviour: BrokerBehaviour, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = HARNESSES[adapter]
    if reason := behaviour.unclaimed(found.features):
        pytest.skip(reason)
    with found.make(request, tmp_path) as harness:
        if reason := behaviour.missing(harness):
            pytest.skip(reason)
        asyncio.run(behaviour.run(harness))


def test_the_suite_has_no_two_behaviours_of_one_name() -> None:
    names = [behaviour.name for behaviour in BROKER_BEHAVIOURS]
    assert len(set(names)) == len(names) >= 60
