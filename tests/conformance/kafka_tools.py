"""What breaks a Kafka server for the conformance suite, behind the adapter's back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import GroupIdNotFound, MessageSizeTooLargeError
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from saga_choreo.ports import Broker
from saga_choreo.testing.behaviours import started
from saga_choreo.testing.brokers import Certificate
from saga_choreo.testing.kafka_server import KafkaServer
from saga_choreo_kafka.broker import KafkaBroker
from tests.conformance.certificates import Certificates

__all__ = ["QUICK", "Guarded", "KafkaTools", "admin"]

# A dead agent is noticed after three seconds, a rebalance takes a fraction of one; few partitions keep the shared server quick.
QUICK = "publish_timeout=3&request_timeout=5&open_timeout=8&session=3&heartbeat=0.2&commit_every=0.05&partitions=3"


@asynccontextmanager
async def admin(address: str) -> AsyncIterator[Any]:
    client: Any = AIOKafkaAdminClient(bootstrap_servers=address)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


class KafkaTools:
    def __init__(self, server: KafkaServer, prefix: str) -> None:
        self._server = server
        self._address = f"127.0.0.1:{server.inner_port}"
        self._prefix = prefix

    def _admin(self) -> contextlib.AbstractAsyncContextManager[Any]:
        return admin(self._address)

    async def _topics(self, client: Any) -> list[str]:
        return [topic for topic in await client.list_topics() if topic.startswith(self._prefix)]

    async def restart(self) -> None:
        self._server.stop()
        await started(self._server)

    async def drop_topics(self, only: str = "") -> None:
        async with self._admin() as client:
            topics = [topic for topic in await self._topics(client) if only in ("", topic)]
            if topics:
                await client.delete_topics(topics)

    async def drop_groups(self) -> None:
        """All members are put out, and all that the groups have read is forgotten."""
        async with self._admin() as client:
            for group, _ in await client.list_consumer_groups():
                if group.startswith(self._prefix):
                    await self._delete_group(client, group)

    async def _delete_group(self, client: Any, group: str) -> None:
        """A member may be back before the group is deleted: it is put out again then."""
        coordinator = await client.find_coordinator(group)
        async with asyncio.timeout(10):
            while True:
                (described,) = await client.describe_consumer_groups([group])
                for member in described.groups[0][5]:
                    await client._client.send(coordinator, LeaveGroupRequest(group, member[0]))
                deleted = await client._client.send(coordinator, DeleteGroupsRequest([group]))
                if deleted.results[0][1] in (0, GroupIdNotFound.errno):
                    return

    async def purge(self) -> None:
        async with self._admin() as client:
            topics = [topic for topic in await self._topics(client) if not topic.endswith(".defs")]
            described = await client.describe_topics(topics)
            everything = {
                TopicPartition(topic["topic"], partition["partition"]): RecordsToDelete(before_offset=-1)
                for topic in described
                for partition in topic["partitions"]
            }
            await client.delete_records(everything)

    @asynccontextmanager
    async def blocked(self) -> AsyncIterator[None]:
        """Every record is too large. (A node that is alone always has enough replicas, whatever is asked of it.)"""
        async with self._admin() as client:
            topics = [topic for topic in await self._topics(client) if ".event." in topic]
            await self._limit(client, topics, 1)
            await self._until_refused(topics)
            yield
            await self._limit(client, topics, 1_048_588)

    async def _limit(self, client: Any, topics: list[str], record_bytes: int) -> None:
        wanted = {"max.message.bytes": str(record_bytes)}
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted) for topic in topics])

    async def _until_refused(self, topics: list[str]) -> None:
        """A new setting is in force a moment after it was confirmed."""
        producer: Any = AIOKafkaProducer(bootstrap_servers=self._address)
        await producer.start()
        try:
            async with asyncio.timeout(10):
                for topic in topics:
                    with contextlib.suppress(MessageSizeTooLargeError):
                        while True:
                            await producer.send_and_wait(topic, b"is it in force?")
        finally:
            await producer.stop()

    async def rewind(self, where: Literal["start", "end"]) -> None:
        async with self._consumer() as (consumer, partitions):
            offsets = await (consumer.beginning_offsets if where == "start" else consumer.end_offsets)(partitions)
            await consumer.commit({partition: OffsetAndMetadata(offset, "") for partition, offset in offsets.items()})

    async def expire(self) -> None:
        """What the server does with offsets that nobody renews for a week: it forgets them."""
        async with self._admin() as client:
            await self._delete_group(client, f"{self._prefix}.payment")

    @asynccontextmanager
    async def _consumer(self) -> AsyncIterator[tuple[Any, list[TopicPartition]]]:
        async with self._admin() as client:
            described = await client.describe_topics(await self._topics(client))
        partitions = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in described
            if ".event." in topic["topic"] or topic["topic"].endswith((".outcome", ".control.payment"))
            for partition in topic["partitions"]
        ]
        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=self._address, group_id=f"{self._prefix}.payment", enable_auto_commit=False
        )
        consumer.assign(partitions)
        await consumer.start()
        try:
            yield consumer, partitions
        finally:
            await consumer.stop()


class Guarded:
    """One server for all behaviours. Certificate and password are read when it starts: it starts again for each change, which also ends
    all sessions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._certificates = Certificates(folder)
        self._password: Literal["first", "second"] = "first"
        self._certificate: Certificate = "good"
        self._prefix = ""
        self.server = KafkaServer(folder / "server", protocol="SASL_SSL", settings=self._settings())

    def _settings(self) -> dict[str, str]:
        key, certificate = self._certificates.of(self._certificate)
        both = self._folder / "server.pem"
        both.write_text(key.read_text() + certificate.read_text())
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        return {
            "listener.name.clients.ssl.keystore.type": "PEM",
            "listener.name.clients.ssl.keystore.location": str(both),
            "listener.name.clients.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.clients.plain.sasl.jaas.config": f'{login} user_agent="{self._password}-s3cret";',
        }

    @asynccontextmanager
    async def entered(self, prefix: str) -> AsyncIterator[Guarded]:
        self._prefix = prefix
        if (self._password, self._certificate) != ("first", "good"):
            self._password, self._certificate = "first", "good"
            await self._begin_again()
        yield self

    def broker(self, which: Literal["first", "second"] = "first") -> Broker:
        options = f"ca_file={self._certificates.issuer}&ack_wait=1&{QUICK}"
        return KafkaBroker(f"kafka+ssl://agent:{which}-s3cret@127.0.0.1:{self.server.port}?{options}", prefix=self._prefix)

    async def accept(self, which: Literal["first", "second"]) -> None:
        self._password = which
        await self._begin_again()

    async def present(self, certificate: Certificate) -> None:
        self._certificate = certificate
        await self._begin_again()

    async def put_out(self) -> None:
        """Each change does."""

    async def _begin_again(self) -> None:
        self.server.stop()
        self.server.settings = self._settings()
        await started(self.server)
