"""`saga-choreo broker`: plan, apply and check, on a real NATS and RabbitMQ and, for adapters that do not plan, on the memory broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from process import in_process

from examples.order_processing.choreography import order_processing
from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Topology
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo.testing.servers import NatsServer
from saga_choreo_nats.broker import NatsBroker

SHARED = "examples.order_processing.choreography"
PAYMENT = "examples.order_processing.payment:agent"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


def _rows(*words: str, code: int = 0) -> list[dict[str, Any]]:
    done = in_process("broker", *words, "--json")
    assert done.returncode == code, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_the_plan_names_everything_by_the_prefix_and_asks_no_server() -> None:
    rows = _rows("plan", "--broker", "nats://127.0.0.1:1", "--prefix", "shop", SHARED)
    names = [row["name"] for row in rows]
    assert names[:4] == ["shop_events", "shop_control", "shop_defs", "shop_dlq"]
    durables = {row["name"]: row["settings"] for row in rows if row["kind"] == "durable"}
    assert {name.partition("/")[2] for name in durables} == set(order_processing.owners)
    assert durables["shop_events/payment"]["filter_subjects"] == ["shop.event.order.created", "shop.event.stock.reserved"]


def test_an_agent_stands_for_its_own_service_only() -> None:
    rows = _rows("plan", "--broker", "nats://127.0.0.1:1", PAYMENT)
    assert [row["name"] for row in rows if row["kind"] == "durable"] == ["saga_events/payment", "saga_control/payment"]


def test_what_check_misses_apply_declares_and_then_an_agent_that_may_not_declare_opens(server: NatsServer) -> None:
    broker = ("--broker", server.url, "--prefix", "applied")
    missing = _rows("check", *broker, SHARED, code=6)
    assert {row["verdict"] for row in missing} == {"missing"}
    assert len(missing) == len(_rows("plan", *broker, SHARED))
    assert _rows("apply", *broker, SHARED) == []
    assert _rows("check", *broker, SHARED) == []

    async def opens() -> None:
        agent = NatsBroker(server.url, prefix="applied")
        await agent.open(Topology(service="payment", agent="a", events=("order.created",), create=False))
        await agent.close()

    asyncio.run(opens())


def test_an_agent_that_may_not_declare_says_which_command_does(server: NatsServer) -> None:
    async def opens() -> None:
        await NatsBroker(server.url, prefix="bare").open(Topology(service="payment", agent="a", events=(), create=False))

    with pytest.raises(ConfigurationError, match=r"run `saga-choreo broker apply --prefix bare APP`"):
        asyncio.run(opens())


def test_what_differs_is_told_and_what_is_extra_is_no_finding(server: NatsServer) -> None:
    broker = ("--broker", server.url, "--prefix", "other")
    _rows("apply", *broker, SHARED)
    (extra,) = {row["name"].partition("/")[2] for row in _rows("check", *broker, PAYMENT) if row["name"].endswith("/shipping")}
    assert extra == "shipping"
    assert {row["verdict"] for row in _rows("check", *broker, PAYMENT)} == {"extra"}

    async def narrow() -> None:
        client = await nats.connect(server.url)
        js = client.jetstream()
        config = (await js.stream_info("other_events")).config
        await js.update_stream(config, max_age=200.0)
        await js.delete_consumer("other_control", "payment")
        await client.close()

    asyncio.run(narrow())
    found = {(row["verdict"], row["name"]) for row in _rows("check", *broker, SHARED, code=6)}
    assert found == {("different", "other_events"), ("missing", "other_control/payment")}
    assert _rows("apply", *broker, SHARED) == []


def test_where_only_reading_is_permitted_nothing_is_declared(server: NatsServer) -> None:
    done = in_process("broker", "apply", "--broker", server.url, "--prefix", "read", SHARED, SAGA_READ_ONLY="1")
    assert done.returncode == 8
    assert _rows("check", "--broker", server.url, "--prefix", "read", SHARED, code=6)


def test_what_a_broker_does_not_show_is_told_and_is_no_finding(shared_rabbitmq: RabbitMqServer) -> None:
    broker = ("--broker", f"{shared_rabbitmq.start().url}?settle=0", "--prefix", "cli")
    assert {row["verdict"] for row in _rows("check", *broker, PAYMENT, code=6)} == {"missing", "unseen"}
    (unseen,) = _rows("apply", *broker, PAYMENT)
    assert (unseen["verdict"], unseen["kind"], unseen["name"]) == ("unseen", "binding", "cli")
    assert _rows("check", *broker, PAYMENT) == [unseen]


@pytest.mark.parametrize(
    ("url", "name"), [("amqp://127.0.0.1:1", "shop.service.payment"), ("kafka://127.0.0.1:1", "shop.control.payment")]
)
def test_every_adapter_with_channels_of_its_own_plans_them_without_a_server(url: str, name: str) -> None:
    rows = {row["name"]: row for row in _rows("plan", "--broker", url, "--prefix", "shop", PAYMENT)}
    assert rows[name]["kind"] in ("queue", "topic")


def test_an_adapter_that_does_not_plan_is_asked_service_by_service() -> None:
    rows = _rows("plan", "--broker", "memory://cli", SHARED)
    assert {row["name"] for row in rows} == set(order_processing.owners)
    (one, *_) = _rows("check", "--broker", "memory://cli", SHARED, code=6)
    assert one["verdict"] == "missing"
    assert "lacks what service" in one["message"]


def test_a_broker_that_is_not_there_or_not_named_is_an_error_of_its_own(tmp_path: Path) -> None:
    done = in_process("broker", "check", "--broker", "nats://127.0.0.1:1?open_timeout=0.5", SHARED)
    assert (done.returncode, done.stdout) == (4, "")
    done = in_process("broker", "check", SHARED)
    assert done.returncode == 2
    assert "--broker URL" in done.stderr
