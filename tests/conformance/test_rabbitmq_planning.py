"""`saga-choreo broker` on RabbitMQ: the plan, what the server has against it, and what is declared. Against the real server."""

from __future__ import annotations

import asyncio

import pytest

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo.ports import Difference, Notice, Planning, Topology
from saga_choreo.testing.behaviours import bodies, collect, event, publish
from saga_choreo.testing.broker_publishing import first_notices
from saga_choreo_rabbitmq.broker import RabbitMqBroker
from tests.conformance.rabbitmq_tools import Place, channel_of

SHOP = [
    Topology(service="payment", agent="cli", events=("order.created", "stock.reserved"), receives=False),
    Topology(service="stock", agent="cli", events=("order.created",), create=False),
]


def rows(found: list[Difference]) -> set[tuple[str, str, str]]:
    return {(one.verdict, one.kind, one.name) for one in found if one.verdict != "unseen"}


async def surveyed(broker: RabbitMqBroker) -> list[Difference]:
    return list(await broker.survey(SHOP))


def queues_of(place: Place) -> set[str]:
    return {line for line in place.server.ctl("--silent", "list_queues", "name").splitlines() if line.startswith(place.prefix)}


def bound(place: Place) -> set[tuple[str, str]]:
    lines = place.server.ctl("--silent", "list_bindings", "source_name", "destination_name", "routing_key").splitlines()
    found = (line.split("\t") for line in lines)
    return {(words[1], words[2]) for words in found if words[0].startswith(place.prefix)}


def test_the_plan_is_what_apply_makes_with_every_argument_and_binding(place: Place) -> None:
    broker = place.broker("&horizon=1000")
    assert isinstance(broker, Planning)
    planned = broker.plan(SHOP)
    queues = {one.name: one.settings for one in planned if one.kind == "queue"}
    asyncio.run(broker.apply(SHOP))
    assert queues_of(place) == queues.keys()
    assert bound(place) == {(name, key) for name, settings in queues.items() for key in list(settings["bindings"])}  # type: ignore[arg-type]
    for name in ("service.payment", "service.stock", "defs", "dlq", "undeliverable", "delay.2000"):
        assert f"{place.prefix}.{name}" in queues
    assert queues[f"{place.prefix}.service.payment"]["x-message-ttl"] == 1_000_000
    exchanges = place.server.ctl("--silent", "list_exchanges", "name", "type").splitlines()
    made = {tuple(line.split("\t")) for line in exchanges if line.startswith(place.prefix)}
    assert made == {(one.name, one.settings["type"]) for one in planned if one.kind == "exchange"}


def test_a_survey_names_what_is_missing_and_makes_nothing_and_after_apply_only_bindings_are_unseen(place: Place) -> None:
    async def scenario() -> None:
        broker = place.broker()
        queues = [f"{place.prefix}.{name}" for name in ("undeliverable", "dlq", "service.payment", "service.stock", "defs")]
        missing = {("missing", "queue", queue) for queue in queues} | {("missing", "exchange", place.prefix)}
        assert rows(await surveyed(broker)) == missing
        assert queues_of(place) == set()
        await broker.apply(SHOP)
        (unseen,) = await surveyed(broker)
        assert (unseen.verdict, unseen.kind) == ("unseen", "binding")
        assert "rabbitmqctl list_bindings" in unseen.message
        async with channel_of(place.server) as channel:
            await channel.queue_delete(f"{place.prefix}.service.stock")
            await channel.queue_delete(f"{place.prefix}.delay.2000")
        assert rows(await surveyed(broker)) == {("missing", "queue", f"{place.prefix}.service.stock")}  # agents make the other one
        await broker.apply(SHOP)
        assert rows(await surveyed(broker)) == set()

    asyncio.run(scenario())


def test_each_argument_that_differs_is_told_and_nothing_is_changed(place: Place) -> None:
    async def scenario() -> None:
        await place.broker("&horizon=1000&delivery_limit=50&queue_max_bytes=1000000").apply(SHOP)
        async with channel_of(place.server) as channel:
            await channel.queue_delete(f"{place.prefix}.dlq")
            await channel.queue_delete(f"{place.prefix}.defs")
            await channel.exchange_delete(place.prefix)
            await channel.declare_queue(f"{place.prefix}.dlq", durable=True)
            await channel.declare_queue(f"{place.prefix}.defs", durable=True)
            await channel.declare_exchange(place.prefix, "fanout", durable=True)
        found = await surveyed(place.broker())
        payment = [one.message for one in found if one.name.endswith("service.payment")]
        for said in (
            "x-message-ttl 1000000 instead of 604800000",
            "x-delivery-limit 50",
            "x-max-length-bytes 1000000 instead of None",
        ):
            assert sum(said in message for message in payment) == 1, payment
        assert len(payment) == 3
        refused = {one.name: one.message for one in found if "agents refuse it" in one.message}
        assert refused.keys() == {f"{place.prefix}.dlq", f"{place.prefix}.defs", place.prefix}
        assert "is not a durable topic exchange" in refused[place.prefix]
        assert {one.verdict for one in found} == {"different", "unseen"}
        with pytest.raises(ConfigurationError, match="is not a durable topic exchange"):
            await place.broker().apply(SHOP)

    asyncio.run(scenario())


def test_a_queue_that_is_deleted_while_it_is_compared_is_not_made_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def is_there(*_: object) -> bool:
        return True

    monkeypatch.setattr("saga_choreo_rabbitmq.topology.is_there", is_there)
    found = asyncio.run(surveyed(place.broker()))
    assert queues_of(place) == set()
    assert {one.verdict for one in found} == {"missing", "unseen"}
    assert sum(one.message == "it was deleted a moment ago" for one in found) > 5
    assert place.prefix not in {
        line.partition(".")[0] for line in place.server.ctl("--silent", "list_exchanges", "name").splitlines()
    }


def test_an_account_that_may_not_configure_is_told_what_it_cannot_see_and_works_on_what_was_applied(place: Place) -> None:
    async def scenario() -> None:
        await place.broker().apply(SHOP)
        place.server.ctl("add_user", "reader", "reader-s3cret")
        ours = rf"^({place.prefix}(\..*)?|amq\.default)$"
        place.server.ctl("set_permissions", "reader", "^$", ours, ours)
        url = f"amqp://reader:reader-s3cret@127.0.0.1:{place.server.port}?settle=0&publish_timeout=3"
        found = await surveyed(RabbitMqBroker(url, prefix=place.prefix))
        assert {one.verdict for one in found} == {"unseen"}
        assert f"{place.prefix}.service.payment" in {one.name for one in found}
        with pytest.raises(ConfigurationError, match="does not permit this"):
            await RabbitMqBroker(url, prefix=place.prefix).apply(SHOP)
        agent = RabbitMqBroker(url, prefix=place.prefix)
        await agent.open(Topology(service="payment", agent="a1", events=("order.created",), create=False))
        await publish(agent, event(b"1"))
        await agent.release(await collect(agent, 1, ack=False), 0.1)
        assert bodies(await collect(agent, 1)) == [b"1"]
        await agent.notify(Notice("a", b"1"))
        assert await first_notices(agent, "a") == {"a": b"1"}
        await agent.close()

    asyncio.run(scenario())


def test_a_server_that_is_not_there_is_unavailable(place: Place) -> None:
    async def scenario() -> None:
        broker = RabbitMqBroker("amqp://127.0.0.1:1?open_timeout=0.5", prefix=place.prefix)
        with pytest.raises(BrokerUnavailable, match="cannot be reached"):
            await broker.survey(SHOP)
        with pytest.raises(BrokerUnavailable, match="cannot be reached"):
            await broker.apply(SHOP)

    asyncio.run(scenario())
