"""Every broker adapter against every behaviour of the suite; a behaviour that an adapter does not claim is skipped by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import nats
import pytest

from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.ports import Broker, BrokerFeatures
from saga_choreo.testing.brokers import BROKER_BEHAVIOURS, BrokerBehaviour, BrokerHarness
from saga_choreo.testing.servers import NatsServer
from saga_choreo_nats.broker import NatsBroker


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


@contextmanager
def harness_for(adapter: str, folder: Path) -> Iterator[BrokerHarness]:
    if adapter == "memory":
        yield MemoryHarness()
        return
    with NatsServer(folder) as server:
        yield NatsHarness(server)


FEATURES = {"memory": MemoryBroker().features, "nats": NatsBroker("nats://127.0.0.1").features}


@pytest.mark.parametrize("behaviour", BROKER_BEHAVIOURS, ids=str)
@pytest.mark.parametrize("adapter", FEATURES)
def test_a_broker_keeps_its_promises(adapter: str, behaviour: BrokerBehaviour, tmp_path: Path) -> None:
    if reason := behaviour.missing(FEATURES[adapter]):
        pytest.skip(reason)
    with harness_for(adapter, tmp_path) as harness:
        asyncio.run(behaviour.run(harness))
