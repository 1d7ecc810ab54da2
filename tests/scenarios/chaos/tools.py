"""How each broker's queues and messages are broken behind its agents' backs: the tools of the conformance suite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, cast

from saga_choreo.testing.kafka_server import KafkaServer
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from tests.conformance import kafka_tools, nats_tools, rabbitmq_tools
from tests.scenarios.chaos.place import Place

__all__ = ["Tools", "tools_of"]


@dataclass(frozen=True)
class Tools:
    """See `BrokerTools`, out of which these are."""

    drop_bindings: Callable[[], Awaitable[None]]
    drop_channels: Callable[[], Awaitable[None]]
    drop_letters: Callable[[], Awaitable[None]]
    purge: Callable[[], Awaitable[None]]
    blocked: Callable[[], AbstractAsyncContextManager[object]]
    put_aside: Callable[[], Awaitable[list[bytes]]] | None = None


def tools_of(place: Place) -> Tools:
    server: Any = place.broker_server
    prefix = place.prefix
    if place.broker == "nats":
        url = str(server.url)
        return Tools(
            drop_bindings=lambda: nats_tools.drop_bindings(url),
            drop_channels=lambda: nats_tools.drop_channels(url),
            drop_letters=lambda: nats_tools.drop_letters(url),
            purge=lambda: nats_tools.purge(url),
            blocked=lambda: nats_tools.blocked(url),
        )
    if place.broker == "rabbitmq":
        rabbit = cast(RabbitMqServer, server)
        return Tools(
            drop_bindings=lambda: rabbitmq_tools.drop(rabbit, prefix, channels=False),
            drop_channels=lambda: rabbitmq_tools.drop(rabbit, prefix, channels=True),
            drop_letters=lambda: rabbitmq_tools.drop_queue(rabbit, f"{prefix}.dlq"),
            purge=lambda: rabbitmq_tools.purge(rabbit, prefix),
            blocked=lambda: rabbitmq_tools.blocked(rabbit),
            put_aside=lambda: rabbitmq_tools.put_aside(rabbit, prefix),
        )
    assert place.broker == "kafka"
    kafka = kafka_tools.KafkaTools(cast(KafkaServer, server), prefix)
    return Tools(
        drop_bindings=kafka.drop_groups,
        drop_channels=kafka.drop_topics,
        drop_letters=lambda: kafka.drop_topics(f"{prefix}.dlq"),
        purge=kafka.purge,
        blocked=kafka.blocked,
    )
