"""The NATS adapter against bare nats-py doing the same durable work. Run: python tests/benchmarks/broker_nats.py [--count n]

The bare side publishes with one future per message and an inbox of its own (nats-py's own way to wait for many confirmations
at once), and fetches from a durable pull consumer, acknowledging each message.
"""

from __future__ import annotations

import asyncio
from tempfile import TemporaryDirectory
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig

from saga_choreo.testing.servers import NatsServer
from saga_choreo_nats.broker import NatsBroker
from tests.benchmarks.broker_workload import AdapterSide, Workload, arguments, compare, tell


async def settled(js: Any, stream: str, durable: str) -> None:
    """An acknowledgement is only sent; the work is done when the server has taken the last one."""
    while (await js.consumer_info(stream, durable)).num_ack_pending:  # noqa: ASYNC110  (the caller bounds it)
        await asyncio.sleep(0.002)


class _Adapter(AdapterSide):
    """The same end of work as the bare side, seen through the same client."""

    def __init__(self, broker: NatsBroker, work: Workload, bare: _Bare) -> None:
        super().__init__(broker, work)
        self._bare = bare

    async def consume(self, count: int) -> None:
        await super().consume(count)
        await settled(self._bare.js, "saga_events", "bench")


class _Bare:
    def __init__(self, workload: Workload) -> None:
        self._work = workload
        self._client: Any = None
        self._subscription: Any = None

    async def open(self, url: str) -> None:
        self._client = await nats.connect(url)
        self.js = self._client.jetstream(publish_async_max_pending=100_000)
        await self.js.add_stream(StreamConfig(name="bare", subjects=["bare.>"], retention=RetentionPolicy.INTEREST))
        durable = ConsumerConfig(durable_name="bare", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=8192)
        await self.js.add_consumer("bare", durable)
        self._subscription = await self.js.pull_subscribe_bind(durable="bare", stream="bare")

    @property
    def version(self) -> str:
        return str(self._client._server_info["version"])

    async def publish(self, count: int) -> None:
        work = self._work
        sent = [await self.js.publish_async("bare.event", work.body, headers=work.headers) for _ in range(count)]
        await asyncio.gather(*sent)

    async def consume(self, count: int) -> None:
        left = count
        while left > 0:
            messages = await self._subscription.fetch(min(left, self._work.batch), timeout=10)
            for message in messages:
                await message.ack()
            left -= len(messages)
        await settled(self.js, "bare", "bare")

    async def close(self) -> None:
        await self._client.close()


async def _main(work: Workload) -> None:
    with TemporaryDirectory(prefix="saga-bench-") as folder, NatsServer(folder) as server:
        broker, bare = NatsBroker(server.url), _Bare(work)
        adapter = _Adapter(broker, work, bare)
        await adapter.open()
        await bare.open(server.url)
        tell(await compare("nats", adapter, bare, work, server="nats-server", version=bare.version))
        await broker.close()
        await bare.close()


if __name__ == "__main__":
    asyncio.run(_main(arguments(__doc__ or "")))
