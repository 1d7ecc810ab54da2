"""`saga-choreo broker` on Kafka: the plan, what the server has against it, and what is declared. Against the real server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo.ports import Difference, Notice, Planning, Topology
from saga_choreo.testing.broker_publishing import first_notices
from saga_choreo.testing.kafka_server import KafkaServer
from saga_choreo_kafka import topology
from saga_choreo_kafka.broker import KafkaBroker
from tests.conformance.kafka_tools import QUICK, admin

_numbers = itertools.count()
SHOP = [
    Topology(service="payment", agent="cli", events=("order.created",), known_events=("order.created", "paid"), receives=False),
    Topology(
        service="stock", agent="cli", events=("order.created",), known_events=("order.created",), owners=("payment",), create=False
    ),
]
NAMES = ("event.order.created", "event.paid", "control.payment", "control.stock", "outcome", "defs", "dlq", "observe")


class Kafka:
    def __init__(self, server: KafkaServer) -> None:
        self.prefix = f"plan{next(_numbers)}x{server.port}"
        self.address = f"127.0.0.1:{server.inner_port}"
        self._url = f"{server.url}?{QUICK}"

    def broker(self, more: str = "") -> KafkaBroker:
        return KafkaBroker(f"{self._url}{more}", prefix=self.prefix)

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    async def topics(self) -> dict[str, int]:
        """Topic -> partitions."""
        async with admin(self.address) as client:
            found = await client.describe_topics()
        return {one["topic"]: len(one["partitions"]) for one in found if one["topic"].startswith(f"{self.prefix}.")}

    async def wait_for_topics(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(await self.topics()) != count:  # noqa: ASYNC110  (a poll with a deadline)
                await asyncio.sleep(0.05)


@pytest.fixture
def kafka(shared_kafka: KafkaServer) -> Kafka:
    shared_kafka.start()
    return Kafka(shared_kafka)


def rows(found: Sequence[Difference]) -> set[tuple[str, str]]:
    return {(one.verdict, one.name) for one in found}


def test_the_plan_is_what_apply_makes_with_partitions_and_settings(kafka: Kafka) -> None:
    async def scenario() -> None:
        broker = kafka.broker("&horizon=1000")
        assert isinstance(broker, Planning)
        planned = {one.name: dict(one.settings) for one in broker.plan(SHOP)}
        assert planned.keys() == {kafka.topic(name) for name in NAMES}
        await broker.apply(SHOP)
        assert await kafka.topics() == {name: settings["partitions"] for name, settings in planned.items()}
        async with admin(kafka.address) as client:
            answers = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in planned])
        for _code, _message, _kind, name, entries in (one for answer in answers for one in answer.resources):
            there = {entry[0]: entry[1] for entry in entries}
            wanted = {key: value for key, value in planned[name].items() if key not in ("partitions", "replicas")}
            assert {key: there[key] for key in wanted} == wanted
        assert planned[kafka.topic("defs")]["cleanup.policy"] == "compact"

    asyncio.run(scenario())


def test_a_survey_names_what_is_missing_and_makes_nothing_and_after_apply_nothing_is_left(kafka: Kafka) -> None:
    async def scenario() -> None:
        broker = kafka.broker()
        assert rows(await broker.survey(SHOP)) == {("missing", kafka.topic(name)) for name in NAMES}
        assert await kafka.topics() == {}
        await broker.apply(SHOP)
        assert await broker.survey(SHOP) == []
        assert rows(await broker.survey(SHOP[1:])) == {("extra", kafka.topic("event.paid"))}
        async with admin(kafka.address) as client:
            await client.delete_topics([kafka.topic("control.stock")])
        await kafka.wait_for_topics(len(NAMES) - 1)
        assert rows(await broker.survey(SHOP)) == {("missing", kafka.topic("control.stock"))}
        await broker.apply(SHOP)
        assert await broker.survey(SHOP) == []

    asyncio.run(scenario())


def test_what_differs_is_told_and_apply_widens_what_it_may(kafka: Kafka) -> None:
    async def scenario() -> None:
        await kafka.broker("&horizon=1000").apply(SHOP)
        found = await kafka.broker().survey(SHOP)
        assert rows(found) == {("different", kafka.topic(name)) for name in NAMES[:5]}
        assert all("keeps records for 1000000 ms, needed are 604800000" in one.message for one in found)
        await kafka.broker().apply(SHOP)
        assert await kafka.broker().survey(SHOP) == []
        more = await kafka.broker("&replicas=3&min_insync=2").survey(SHOP)
        for said in ("it has 1 replicas, planned are 3", "min.insync.replicas is 1, planned are 2"):
            assert sum(said in one.message for one in more) == len(NAMES)

    asyncio.run(scenario())


def test_fewer_partitions_are_told_and_not_added_and_a_compacted_topic_of_messages_is_refused(kafka: Kafka) -> None:
    async def scenario() -> None:
        async with admin(kafka.address) as client:
            few = NewTopic(kafka.topic("outcome"), 1, 1, topic_configs={"retention.ms": "-1"})
            lossy = NewTopic(kafka.topic("dlq"), 3, 1, topic_configs={"cleanup.policy": "compact", "retention.ms": "-1"})
            await client.create_topics([few, lossy])
        await kafka.wait_for_topics(2)
        found = {one.name: one.message for one in await kafka.broker().survey(SHOP) if one.verdict == "different"}
        assert "it has 1 partitions, planned are 3" in found.pop(kafka.topic("outcome"))
        assert "it would lose messages: its cleanup.policy is 'compact'" in found.pop(kafka.topic("dlq"))
        assert found == {}
        with pytest.raises(ConfigurationError, match=r"dlq' would lose messages: its cleanup\.policy is 'compact'"):
            await kafka.broker().apply(SHOP)
        async with admin(kafka.address) as client:
            await client.delete_topics([kafka.topic("dlq")])
        async with asyncio.timeout(10):
            while kafka.topic("dlq") in await kafka.topics():  # noqa: ASYNC110  (a poll with a deadline)
                await asyncio.sleep(0.05)
        await kafka.broker().apply(SHOP)
        assert (await kafka.topics())[kafka.topic("outcome")] == 1
        assert rows(await kafka.broker().survey(SHOP)) == {("different", kafka.topic("outcome"))}

    asyncio.run(scenario())


def test_a_topic_that_the_server_asked_does_not_know_of_yet_is_compared_all_the_same(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = topology.configs, itertools.count()

    async def at_first_nothing(admin: Any, topics: list[str]) -> tuple[dict[str, dict[str, str]], set[str]]:
        return await look(admin, topics) if next(looks) >= 2 else ({}, set())

    async def scenario() -> None:
        async with admin(kafka.address) as client:
            await client.create_topics([NewTopic(kafka.topic("outcome"), 3, 1, topic_configs={"retention.ms": "60000"})])
        await kafka.wait_for_topics(1)
        monkeypatch.setattr(topology, "configs", at_first_nothing)
        await kafka.broker().apply(SHOP)
        assert await kafka.broker().survey(SHOP) == []

    asyncio.run(scenario())


def test_a_server_that_is_not_there_is_unavailable() -> None:
    async def scenario() -> None:
        broker = KafkaBroker("kafka://127.0.0.1:1?open_timeout=0.5")
        with pytest.raises(BrokerUnavailable, match="cannot be reached"):
            await broker.survey(SHOP)
        with pytest.raises(BrokerUnavailable, match="cannot be reached"):
            await broker.apply(SHOP)

    asyncio.run(scenario())


def test_words_that_are_repeated_for_ever_do_not_pile_up_for_those_who_come_later(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the time is shortened: with Kafka's own settings the segment that is written to is not compacted for a week."""
    monkeypatch.setattr(topology, "_COMPACTED_WITHIN_MS", 200)

    async def kept() -> int:
        consumer: Any = AIOKafkaConsumer(bootstrap_servers=kafka.address)
        partition = TopicPartition(kafka.topic("defs"), 0)
        consumer.assign([partition])
        await consumer.start()
        try:
            end, count = (await consumer.end_offsets([partition]))[partition], 0
            consumer.seek(partition, 0)
            while await consumer.position(partition) < end:
                count += sum(map(len, (await consumer.getmany(timeout_ms=500)).values()))
            return count
        finally:
            await consumer.stop()

    async def scenario() -> None:
        broker = kafka.broker()
        await broker.open(replace(SHOP[0], receives=True))
        for number in range(300):
            await broker.notify(Notice("epoch.payment", b"%d" % number))
        async with asyncio.timeout(60):
            while await kept() > 100:
                await broker.notify(Notice("alive.payment", b"1"))  # a segment ends when something is written
                await asyncio.sleep(0.5)
        assert (await first_notices(broker, "epoch.payment"))["epoch.payment"] == b"299"
        await broker.close()

    asyncio.run(scenario())


def test_a_kafka_that_does_not_let_compaction_be_set_gets_a_topic_without(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(topology, "_COMPACTED_WITHIN_MS", -7)

    async def scenario() -> None:
        broker = kafka.broker()
        await broker.open(SHOP[0])
        await broker.close()
        assert (await kafka.topics()).keys() >= {kafka.topic("defs")}

    asyncio.run(scenario())
    assert "was made without max.compaction.lag.ms" in caplog.text
