"""What only the Kafka adapter has: offsets, groups, topics and their settings, SASL. Real Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition

from saga_choreo.errors import ConfigurationError, PublishRefused
from saga_choreo.ports import Notice, Topology
from saga_choreo.testing.behaviours import bodies, collect, control, event, publish, topology
from saga_choreo.testing.broker_publishing import first_notices
from saga_choreo.testing.kafka_server import KafkaServer
from saga_choreo_kafka.broker import KafkaBroker
from tests.conformance.kafka_tools import QUICK, admin

_numbers = itertools.count()


class Kafka:
    """The shared server, and a prefix of its own for each test."""

    def __init__(self, server: KafkaServer) -> None:
        self.server = server
        self.prefix = f"k{next(_numbers)}x{server.port}"
        self.address = f"127.0.0.1:{server.inner_port}"

    def broker(self, **options: object) -> KafkaBroker:
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return KafkaBroker(f"{self.server.url}?{QUICK}&partitions=1{more}".replace("partitions=3&", ""), prefix=self.prefix)

    @contextlib.asynccontextmanager
    async def opened(self, agent: str = "a1", **options: object) -> AsyncIterator[KafkaBroker]:
        broker = self.broker(**options)
        await broker.open(topology(agent=agent))
        try:
            yield broker
        finally:
            await broker.close()

    async def committed(self, event_name: str = "order.created") -> tuple[int, str]:
        async with admin(self.address) as client:
            found = await client.list_consumer_group_offsets(f"{self.prefix}.payment")
        one = found.get(TopicPartition(f"{self.prefix}.event.{event_name}", 0))
        return (one.offset, one.metadata) if one is not None else (-1, "")

    async def settings(self, topic: str) -> dict[str, str]:
        async with admin(self.address) as client:
            (answer,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, f"{self.prefix}.{topic}")])
        return {entry[0]: entry[1] for entry in answer.resources[0][4]}


@pytest.fixture
def kafka(shared_kafka: KafkaServer) -> Kafka:
    shared_kafka.start()
    return Kafka(shared_kafka)


def run(scenario: Any, within_s: float = 90.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(within_s):
            await scenario

    asyncio.run(bounded())


def test_the_committed_offset_never_passes_a_message_that_is_not_acknowledged(kafka: Kafka) -> None:
    async def scenario() -> None:
        async with kafka.opened(ack_wait=60) as broker:
            await publish(broker, *(event(number) for number in range(6)))
            held = await collect(broker, 6, ack=False)
            await broker.ack([held[0], held[2], held[3], held[5]])
            await _reaches(kafka, 1)
            await broker.ack([held[1]])
            await _reaches(kafka, 4)
            await broker.release([held[4]], 60.0)
            await publish(broker, event(b"more"))
            await broker.ack(await collect(broker, 1, ack=False))
            await asyncio.sleep(0.3)  # several commits: none of them may pass the message that waits
            assert (await kafka.committed())[0] == 4
        async with kafka.opened("a2") as broker:
            assert bodies(await collect(broker, 3)) == [b"4", b"5", b"more"], "done as well, but above the one that was not"

    run(scenario())


async def _reaches(kafka: Kafka, offset: int) -> None:
    async with asyncio.timeout(15):
        while (found := (await kafka.committed())[0]) != offset:
            assert found < offset, f"{found} was committed, although {offset} is not done"
            await asyncio.sleep(0.05)


def test_a_message_that_kills_its_agents_is_counted_over_their_deaths(kafka: Kafka) -> None:
    """What is known of it beside the offset outlives the agents: closing here is as good as dying, nothing is acknowledged."""

    async def scenario() -> None:
        attempts = []
        for turn in range(4):
            async with kafka.opened(f"a{turn}") as broker:
                if not turn:
                    await publish(broker, event(b"poison"))
                (delivery,) = await collect(broker, 1, ack=False)
                attempts.append((delivery.attempt, delivery.redelivered))
                if turn == 3:
                    await broker.ack([delivery])
        assert attempts == [(1, False), (2, True), (3, True), (4, True)]
        async with kafka.opened("last") as broker:
            await publish(broker, event(b"well"))
            (delivery,) = await collect(broker, 1)
            assert (delivery.body, delivery.attempt) == (b"well", 1)

    run(scenario())


def test_a_partition_that_holds_too_much_is_asked_for_no_more_and_the_others_go_on(kafka: Kafka) -> None:
    async def scenario() -> None:
        async with kafka.opened(prefetch=40, ack_wait=60) as broker:
            await publish(broker, *(event(number) for number in range(100)))
            stuck: list[Any] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while True:
                        stuck += await broker.receive(10, 0.0)
            assert 10 <= len(stuck) <= 50, "a quarter of the window, and what came in one go with it"
            await publish(broker, control("payment", b"urgent"))
            assert bodies(await collect(broker, 1)) == [b"urgent"]
            await broker.ack(stuck)
            assert len(await collect(broker, 100 - len(stuck))) == 100 - len(stuck)

    run(scenario())


def test_an_agent_that_stalls_gives_its_partitions_up_and_takes_part_again_later(kafka: Kafka) -> None:
    async def scenario() -> None:
        async with kafka.opened("stalls", stall=1, ack_wait=1) as stalls:
            await publish(stalls, *(event(number) for number in range(20)))
            assert await stalls.receive(5, 0.0)
            async with kafka.opened("busy") as busy:
                assert len(await collect(busy, 20)) == 20
            await publish(stalls, event(b"after"))
            assert b"after" in bodies(await collect(stalls, 1))

    run(scenario())


def test_work_under_way_survives_a_rebalance_without_being_done_twice(kafka: Kafka) -> None:
    async def scenario() -> None:
        async with kafka.opened("stays", partitions=4, ack_wait=60) as stays:
            await publish(stays, *(event(number) for number in range(40)))
            held = await collect(stays, 40, ack=False)
            joining = asyncio.ensure_future(_stay_a_while(kafka))
            await asyncio.wait((joining,), timeout=0.3)
            await stays.ack(held)
            again = await joining
        assert not again, "acknowledged before the rebalance was over, and yet delivered to another"

    run(scenario())


async def _stay_a_while(kafka: Kafka) -> list[Any]:
    found: list[Any] = []
    async with kafka.opened("visits", partitions=4) as broker:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while True:
                    found += await broker.receive(10, 0.0)
    return found


def test_topics_are_made_with_settings_that_lose_nothing(kafka: Kafka) -> None:
    async def scenario() -> None:
        async with kafka.opened(horizon=86400):
            pass
        events, defs, dead = [await kafka.settings(name) for name in ("event.order.created", "defs", "dlq")]
        assert (events["cleanup.policy"], events["retention.ms"]) == ("delete", "86400000")
        assert (defs["cleanup.policy"], defs["max.compaction.lag.ms"]) == ("compact", "600000")
        assert dead["retention.ms"] == "-1"

    run(scenario())


def test_a_topic_that_keeps_too_little_is_widened_and_its_other_settings_stay(kafka: Kafka) -> None:
    async def scenario() -> None:
        topic = f"{kafka.prefix}.event.order.created"
        async with admin(kafka.address) as client:
            own = {"retention.ms": "60000", "max.message.bytes": "5000"}
            await client.create_topics([NewTopic(topic, 1, 1, topic_configs=own)])
        async with kafka.opened() as broker:
            async with asyncio.timeout(10):
                while (found := await kafka.settings("event.order.created"))["retention.ms"] == "60000":  # noqa: ASYNC110  (a poll with a deadline)
                    await asyncio.sleep(0.05)
            assert (found["retention.ms"], found["max.message.bytes"]) == ("604800000", "5000")
            answers = await broker.publish([event(b"x" * 6000), event(b"small")])
            assert [type(answer) for answer in answers] == [PublishRefused, type(None)]

    run(scenario())


def test_a_topic_that_would_be_compacted_is_refused(kafka: Kafka) -> None:
    async def scenario() -> None:
        topic = f"{kafka.prefix}.event.order.created"
        async with admin(kafka.address) as client:
            await client.create_topics([NewTopic(topic, 1, 1, topic_configs={"cleanup.policy": "compact"})])
        with pytest.raises(ConfigurationError, match=r"would lose messages.*compact"):
            await kafka.broker().open(topology())

    run(scenario())


def test_without_leave_to_create_the_report_names_all_that_is_missing_and_nothing_is_made(kafka: Kafka) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigurationError) as report:
            await kafka.broker().open(Topology(service="payment", agent="a1", events=("order.created",), create=False))
        for topic in ("event.order.created", "control.payment", "outcome", "defs", "dlq"):
            assert f"{kafka.prefix}.{topic}' is missing" in str(report.value)
        async with admin(kafka.address) as client:
            assert not [topic for topic in await client.list_topics() if topic.startswith(kafka.prefix)]

    run(scenario())


def test_more_replicas_than_there_are_servers_are_refused_with_what_to_correct(kafka: Kafka) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match="InvalidReplicationFactor"):
            await kafka.broker(replicas=3).open(topology())

    run(scenario())


def test_a_limit_that_was_lowered_meanwhile_refuses_the_large_message_only(kafka: Kafka) -> None:
    """The adapter learns it from the answer: messages that were sent together are tried each for itself."""

    async def scenario() -> None:
        async with kafka.opened() as broker:
            await publish(broker, event(b"before"))
            topic = f"{kafka.prefix}.event.order.created"
            async with admin(kafka.address) as client:
                resource = ConfigResource(
                    ConfigResourceType.TOPIC, topic, {"max.message.bytes": "3000", "retention.ms": "604800000"}
                )
                await client.alter_configs([resource])
            refused: list[Any] = []

            async def is_in_force() -> bool:
                refused[:] = await broker.publish([event(b"x" * 5000)])
                return isinstance(refused[0], PublishRefused)

            async with asyncio.timeout(15):
                while not await is_in_force():  # noqa: ASYNC110  (a poll with a deadline)
                    await asyncio.sleep(0.1)
            await publish(broker, *(event(b"%d" % number + b"y" * 900) for number in range(10)))
            found: set[bytes] = set()
            while len([body for body in found if body.endswith(b"yy")]) < 10:
                found |= set(bodies(await collect(broker, 1)))

    run(scenario())


def test_kept_notices_outlive_compaction(kafka: Kafka) -> None:
    async def scenario() -> None:
        async with kafka.opened() as broker:
            async with admin(kafka.address) as client:
                own = {
                    "cleanup.policy": "compact",
                    "segment.ms": "100",
                    "min.cleanable.dirty.ratio": "0.001",
                    "max.compaction.lag.ms": "100",
                }
                await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, f"{kafka.prefix}.defs", own)])
            for number in range(30):
                await broker.notify(Notice("often", b"%d" % number))
                await broker.notify(Notice(f"once-{number}", b"1"))
                await asyncio.sleep(0.02)
            wanted = ("often", *(f"once-{number}" for number in range(30)))
            found = await first_notices(broker, *wanted)
            assert found == {"often": b"29", **dict.fromkeys(wanted[1:], b"1")}

    run(scenario())


def test_records_of_others_are_taken_for_what_they_are(kafka: Kafka) -> None:
    """A plain producer without key or headers, and a tombstone."""

    async def scenario() -> None:
        async with kafka.opened() as broker:
            producer: Any = AIOKafkaProducer(bootstrap_servers=kafka.address)
            await producer.start()
            topic = f"{kafka.prefix}.event.order.created"
            await producer.send_and_wait(topic, b"plain", headers=[("odd", b"\xff\xfe")])
            await producer.send_and_wait(topic, None, key=b"gone")
            await producer.stop()
            assert bodies(await collect(broker, 2)) == [b"", b"plain"]

    run(scenario())


def test_what_is_published_can_be_read_by_a_plain_consumer_in_the_order_of_its_key(kafka: Kafka) -> None:
    async def scenario() -> None:
        async with kafka.opened(partitions=3) as broker:
            await publish(broker, *(event(b"same") for _ in range(3)), event(b"other", **{"ce-type": "order.created"}))
        consumer: Any = AIOKafkaConsumer(
            f"{kafka.prefix}.event.order.created", bootstrap_servers=kafka.address, auto_offset_reset="earliest"
        )
        await consumer.start()
        found: list[Any] = []
        async with asyncio.timeout(15):
            while len(found) < 4:
                found += [record for records in (await consumer.getmany(timeout_ms=500)).values() for record in records]
        await consumer.stop()
        assert len({record.partition for record in found if record.value == b"same"}) == 1
        assert dict(found[0].headers)["ce-type"] == b"order.created"

    run(scenario())


def test_a_user_with_a_scram_password_gets_in_and_one_with_another_password_does_not(tmp_path: Path) -> None:
    settings = {
        "listener.name.clients.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.clients.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    }

    async def scenario(server: KafkaServer) -> None:
        url = f"127.0.0.1:{server.port}?mechanism=SCRAM-SHA-512&{QUICK}"
        broker = KafkaBroker(f"kafka://agent:s3cret@{url}")
        await broker.open(topology())
        await publish(broker, event(b"1"))
        assert bodies(await collect(broker, 1)) == [b"1"]
        await broker.close()
        with pytest.raises(ConfigurationError, match="refused the credentials") as refusal:
            await KafkaBroker(f"kafka://agent:wrong-s3cret@{url}").open(topology())
        assert "s3cret" not in str(refusal.value)

    with KafkaServer(tmp_path, protocol="SASL_PLAINTEXT", settings=settings, scram={"agent": "s3cret"}) as server:
        run(scenario(server))


def test_offsets_that_are_gone_are_reported_and_the_rest_comes(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with kafka.opened() as broker:
            await publish(broker, event(b"read"))
            await collect(broker, 1)
            async with asyncio.timeout(10):
                while (await kafka.committed())[0] != 1:  # noqa: ASYNC110  (a poll with a deadline)
                    await asyncio.sleep(0.05)
        publisher = kafka.broker()
        await publisher.open(Topology(service="payment", agent="cli", events=(), receives=False))
        await publish(publisher, *(event(number) for number in range(5)))
        async with admin(kafka.address) as client:
            partition = TopicPartition(f"{kafka.prefix}.event.order.created", 0)
            await client.delete_records({partition: RecordsToDelete(before_offset=4)})
        async with kafka.opened("later") as broker:
            assert bodies(await collect(broker, 2)) == [b"3", b"4"]
        await publisher.close()

    run(scenario())
    assert "3 offsets of partition 0" in caplog.text


def test_the_server_started_again_has_what_was_confirmed_before_it_was_killed(kafka: Kafka) -> None:
    async def scenario() -> None:
        async with kafka.opened() as broker:
            await publish(broker, *(event(number) for number in range(50)))
        kafka.server.kill()
        kafka.server.start()
        found: set[bytes] = set()
        async with kafka.opened("a2") as broker:
            while len(found) < 50:
                found |= set(bodies(await collect(broker, 1)))

    run(scenario())
