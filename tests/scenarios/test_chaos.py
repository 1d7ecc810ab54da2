"""The cheap part of `make chaos`: real processes, brokers and databases, hurt for seconds; judged by the services' own ledgers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from saga_choreo import SagaState
from tests.conftest import require_local
from tests.scenarios.chaos.judge import MAY_BE_UNDONE, Effect, judge
from tests.scenarios.chaos.scenarios import SCENARIOS, Servers, run

_BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
_CHEAP = [
    ("agents-killed", "nats", "postgres"),
    ("copies", "nats", "sqlite"),
    ("out-of-order", "nats", "sqlite"),
    ("broker-killed", "nats", "sqlite"),
    ("broker-wiped", "nats", "sqlite"),
    ("broker-killed", "rabbitmq", "sqlite"),
    ("queues-deleted", "rabbitmq", "sqlite"),
    ("broker-killed", "kafka", "sqlite"),
    ("rebalance-storm", "kafka", "sqlite"),
    ("commits-cut", "nats", "postgres"),
    ("serialization-failures", "nats", "postgres"),
    ("lagging-failover", "nats", "postgres"),
]
# Of what is enumerated, every commit tries a few points; `make chaos` tries all.
_ENUMERATED = [("killed-everywhere", "nats", "postgres"), ("cancelled-everywhere", "nats", "sqlite")]
_PART = (7, 40)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.mark.parametrize(("name", "broker", "store"), _CHEAP, ids=["-".join(one) for one in _CHEAP])
def test_nothing_is_lost_or_repeated(servers: Servers, name: str, broker: str, store: str) -> None:
    for server in (broker, store):
        if server != "sqlite":
            require_local(server)
    times, verdict = asyncio.run(run(_BY_NAME[name], broker, store, servers, sagas=40))
    assert times >= 1
    assert verdict.sagas >= 40
    assert (verdict.lost, verdict.repeated, verdict.violations) == (0, 0, [])


@pytest.mark.parametrize(("name", "broker", "store"), _ENUMERATED, ids=["-".join(one) for one in _ENUMERATED])
def test_nothing_is_lost_or_repeated_at_some_of_all_points(servers: Servers, name: str, broker: str, store: str) -> None:
    for server in (broker, store):
        if server != "sqlite":
            require_local(server)
    times, verdict = asyncio.run(run(_BY_NAME[name], broker, store, servers, part=_PART))
    assert times >= 4
    assert (verdict.lost, verdict.repeated, verdict.violations) == (0, 0, [])


def test_the_judge_sees_what_is_lost_repeated_and_undone_in_the_wrong_order() -> None:
    steps = ("reserve-stock", "charge-payment", "book-shipment", "confirm-order")
    ledger = [Effect("good", step, "do", 1) for step in steps] + [Effect("good", "charge-payment", "do", 2)]
    ledger += [Effect("back", step, "do", 1) for step in steps[:2]]
    ledger += [Effect("back", "reserve-stock", "undo", 2), Effect("back", "charge-payment", "undo", 3)]
    ledger += [Effect("cancelled", steps[0], "do", 1)]
    refused_at = {"good": "", "back": "book-shipment", "open": "", "empty": "", "cancelled": MAY_BE_UNDONE}
    states = {
        "good": SagaState.COMPLETED,
        "back": SagaState.COMPENSATED,
        "open": None,
        "empty": SagaState.COMPLETED,
        "cancelled": SagaState.CANCELLED,
    }
    verdict = judge(refused_at, states, [*ledger, Effect("whose", "reserve-stock", "do", 1)])
    assert (verdict.sagas, verdict.lost, verdict.repeated) == (5, 2, 1)
    assert verdict.violations == [
        "effects of a saga whose that nobody started",
        "saga back was not undone in reverse order",
        "saga cancelled was to be undone in reverse order; done: ['reserve-stock'], undone: [], at []",
    ]
