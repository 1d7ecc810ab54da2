"""How each broker adapter is made and broken for the conformance suite. One entry in `HARNESSES` per adapter.

NATS starts in no time: each behaviour has a server of its own. RabbitMQ takes seconds: behaviours share one, each with its prefix.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.ports import Broker, BrokerFeatures
from saga_choreo.testing.brokers import BrokerHarness, BrokerTools
from saga_choreo.testing.kafka_server import KafkaServer
from saga_choreo.testing.proxy import FaultProxy
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo.testing.servers import NatsServer
from saga_choreo_kafka.broker import KafkaBroker
from saga_choreo_nats.broker import NatsBroker
from saga_choreo_rabbitmq.broker import RabbitMqBroker
from tests.conformance import kafka_tools, rabbitmq_tools
from tests.conformance.nats_tools import blocked, cramped, disconnect, drop_bindings, drop_channels, guarded, purge
from tests.conformance.rabbitmq_tools import Guarded

__all__ = ["HARNESSES", "Adapter", "fresh_prefix"]

_numbers = itertools.count()
# The RabbitMQ server is shared; a look at its queues takes half a second.
_cleanings = itertools.count()
_CLEAN_EVERY = 8


def fresh_prefix() -> str:
    """For servers that behaviours share: nobody else uses it."""
    return f"t{os.getpid()}-{next(_numbers)}"


@dataclass(frozen=True)
class Adapter:
    """`make` gives the harness of one behaviour; it may ask pytest for a shared server. `features` are known without a server."""

    features: BrokerFeatures
    make: Callable[[pytest.FixtureRequest, Path], AbstractContextManager[BrokerHarness]]


class _Memory:
    ack_wait_s = 0.3
    tools = BrokerTools()

    def __init__(self) -> None:
        self._bus = fresh_prefix()
        # As long as one broker lives, so does the bus.
        self._keep = [self.broker(), self.broker(prefix="one"), self.broker(prefix="two")]
        self.features: BrokerFeatures = self._keep[0].features

    def broker(self, port: int | None = None, *, prefix: str = "") -> Broker:
        return MemoryBroker(f"memory://{self._bus}?ack_wait={self.ack_wait_s}", prefix=f"saga{prefix}")


class _Nats:
    ack_wait_s = 1.0

    def __init__(self, server: NatsServer, folder: Path) -> None:
        self._server = server
        self.features: BrokerFeatures = self.broker().features
        self.tools = BrokerTools(
            server=server,
            proxy=lambda: FaultProxy(server.port),
            drop_bindings=lambda: drop_bindings(server.url),
            drop_channels=lambda: drop_channels(server.url),
            purge=lambda: purge(server.url),
            cramped=lambda: cramped(server.url),
            blocked=lambda: blocked(server.url),
            guarded=lambda: guarded(folder / "guarded"),
            disconnect=lambda: disconnect(server),
        )

    def broker(self, port: int | None = None, *, prefix: str = "") -> Broker:
        url = f"nats://127.0.0.1:{port or self._server.port}?ack_wait={self.ack_wait_s}&publish_timeout=3&open_timeout=4"
        return NatsBroker(url, prefix=f"saga{prefix}")


class _Kafka:
    ack_wait_s = 1.0

    def __init__(self, server: KafkaServer, guarded: Callable[[], kafka_tools.Guarded]) -> None:
        self._server, self._prefix = server, fresh_prefix()
        self.features: BrokerFeatures = self.broker().features
        tools = kafka_tools.KafkaTools(server, self._prefix)
        self.tools = BrokerTools(
            server=server,
            proxy=lambda: FaultProxy(server.port),
            drop_bindings=tools.drop_groups,
            drop_channels=tools.drop_topics,
            purge=tools.purge,
            blocked=tools.blocked,
            rewind=tools.rewind,
            expire=tools.expire,
            guarded=lambda: guarded().entered(self._prefix),
            disconnect=tools.restart,
        )
        self.clean = tools.drop_topics

    def broker(self, port: int | None = None, *, prefix: str = "") -> Broker:
        url = f"kafka://127.0.0.1:{port or self._server.port}?ack_wait={self.ack_wait_s}&{kafka_tools.QUICK}"
        return KafkaBroker(url, prefix=f"{self._prefix}{prefix}")


class _RabbitMq:
    ack_wait_s = 1.0

    def __init__(self, server: RabbitMqServer, guarded: Callable[[], Guarded]) -> None:
        self._server = server
        self._prefix = prefix = fresh_prefix()
        self.features: BrokerFeatures = self.broker().features
        self.tools = BrokerTools(
            server=server,
            proxy=lambda: FaultProxy(server.port),
            drop_bindings=lambda: rabbitmq_tools.drop(server, prefix, channels=False),
            drop_channels=lambda: rabbitmq_tools.drop(server, prefix, channels=True),
            purge=lambda: rabbitmq_tools.purge(server, prefix),
            cramped=lambda: self._with("&queue_max_bytes=100000&prefetch=2&in_flight=4"),
            blocked=lambda: rabbitmq_tools.blocked(server),
            guarded=lambda: guarded().entered(prefix),
            disconnect=lambda: rabbitmq_tools.disconnect(server),
            impatient=lambda: self._with("&delivery_limit=5"),
            put_aside=lambda: rabbitmq_tools.put_aside(server, prefix),
        )

    def broker(self, port: int | None = None, *, prefix: str = "") -> Broker:
        return self._with("", port, prefix)

    def _with(self, more: str, port: int | None = None, prefix: str = "") -> Broker:
        options = f"ack_wait={self.ack_wait_s}&publish_timeout=3&open_timeout=5&settle=0&heartbeat=3{more}"
        return RabbitMqBroker(f"amqp://127.0.0.1:{port or self._server.port}?{options}", prefix=f"{self._prefix}{prefix}")


@contextmanager
def _rabbitmq(request: pytest.FixtureRequest, folder: Path) -> Iterator[BrokerHarness]:
    server: RabbitMqServer = request.getfixturevalue("shared_rabbitmq")
    server.start()
    if next(_cleanings) % _CLEAN_EVERY == 0:
        asyncio.run(rabbitmq_tools.clean(server))
    yield _RabbitMq(server, lambda: request.getfixturevalue("guarded_rabbitmq"))


@contextmanager
def _memory(request: pytest.FixtureRequest, folder: Path) -> Iterator[BrokerHarness]:
    yield _Memory()


@contextmanager
def _nats(request: pytest.FixtureRequest, folder: Path) -> Iterator[BrokerHarness]:
    with NatsServer(folder) as server:
        yield _Nats(server, folder)


@contextmanager
def _kafka(request: pytest.FixtureRequest, folder: Path) -> Iterator[BrokerHarness]:
    """It takes seconds to start: one for all, and each behaviour has a prefix of its own."""
    server: KafkaServer = request.getfixturevalue("shared_kafka")
    server.start()
    harness = _Kafka(server, lambda: request.getfixturevalue("guarded_kafka"))
    yield harness
    asyncio.run(harness.clean())


HARNESSES: dict[str, Adapter] = {
    "memory": Adapter(MemoryBroker().features, _memory),
    "kafka": Adapter(KafkaBroker("kafka://127.0.0.1").features, _kafka),
    "nats": Adapter(NatsBroker("nats://127.0.0.1").features, _nats),
    "rabbitmq": Adapter(RabbitMqBroker("amqp://127.0.0.1").features, _rabbitmq),
}
