"""Every broker adapter against every behaviour of the suite; a behaviour that an adapter does not claim is skipped by name."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import aio_pika
import nats
import pytest

from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.ports import Broker, BrokerFeatures
from saga_choreo.testing.brokers import BROKER_BEHAVIOURS, BrokerBehaviour, BrokerHarness
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo.testing.servers import NatsServer
from saga_choreo_nats.broker import NatsBroker
from saga_choreo_rabbitmq.broker import RabbitMqBroker

_numbers = itertools.count()


class MemoryHarness:
    ack_wait_s = 0.3
    server = None

    def __init__(self) -> None:
        self.keep = self.broker()
        self.features: BrokerFeatures = self.keep.features

    def broker(self, port: int | None = None) -> Broker:
        return MemoryBroker(f"memory://conformance?ack_wait={self.ack_wait_s}")

    async def destroy(self, what: Literal["bindings", "channels"]) -> None:
        raise NotImplementedError


class NatsHarness:
    ack_wait_s = 1.0

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.features: BrokerFeatures = self.broker().features

    def broker(self, port: int | None = None) -> Broker:
        return NatsBroker(
            f"nats://127.0.0.1:{port or self.server.port}?ack_wait={self.ack_wait_s}&publish_timeout=3&open_timeout=4"
        )

    async def destroy(self, what: Literal["bindings", "channels"]) -> None:
        client = await nats.connect(self.server.url)
        js = client.jetstream()
        for stream in await js.streams_info():
            name = stream.config.name or ""
            if what == "channels":
                await js.delete_stream(name)
                continue
            for consumer in await js.consumers_info(name):
                await js.delete_consumer(name, consumer.name)
        await client.close()


class RabbitMqHarness:
    """One server for all behaviours, each with a prefix of its own: it takes seconds to start."""

    ack_wait_s = 1.0

    def __init__(self, server: RabbitMqServer) -> None:
        self.server = server.start()
        self.prefix = f"c{next(_numbers)}"
        self.features: BrokerFeatures = self.broker().features

    def broker(self, port: int | None = None) -> Broker:
        options = f"ack_wait={self.ack_wait_s}&publish_timeout=3&open_timeout=15&settle=0"
        return RabbitMqBroker(f"amqp://127.0.0.1:{port or self.server.port}?{options}", prefix=self.prefix)

    async def destroy(self, what: Literal["bindings", "channels"]) -> None:
        own = f"{self.prefix}." if what == "channels" else f"{self.prefix}.service."
        queues = [queue for queue in self.server.ctl("list_queues", "name").splitlines() if queue.startswith(own)]
        async with await aio_pika.connect(self.server.url) as connection:
            channel = await connection.channel()
            for queue in queues:
                await channel.queue_delete(queue)
            if what == "channels":
                await channel.exchange_delete(self.prefix)


@contextmanager
def harness_for(adapter: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[BrokerHarness]:
    if adapter == "memory":
        yield MemoryHarness()
        return
    if adapter == "rabbitmq":
        harness = RabbitMqHarness(request.getfixturevalue("shared_rabbitmq"))
        yield harness
        harness.server.start()
        asyncio.run(harness.destroy("channels"))
        return
    with NatsServer(folder) as server:
        yield NatsHarness(server)


FEATURES = {
    "memory": MemoryBroker().features,
    "nats": NatsBroker("nats://127.0.0.1").features,
    "rabbitmq": RabbitMqBroker("amqp://127.0.0.1").features,
}


@pytest.mark.parametrize("behaviour", BROKER_BEHAVIOURS, ids=str)
@pytest.mark.parametrize("adapter", FEATURES)
def test_a_broker_keeps_its_promises(
    adapter: str, behaviour: BrokerBehaviour, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if reason := behaviour.missing(FEATURES[adapter]):
        pytest.skip(reason)
    with harness_for(adapter, tmp_path, request) as harness:
        asyncio.run(behaviour.run(harness))
