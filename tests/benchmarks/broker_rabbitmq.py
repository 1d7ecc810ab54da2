"""The RabbitMQ adapter against bare aio-pika doing the same durable work. Run: python tests/benchmarks/broker_rabbitmq.py [--count n]

The bare side publishes persistent messages to a quorum queue with publisher confirms, a batch under way at once, and consumes with
the same prefetch, acknowledging a batch with one call.
"""

from __future__ import annotations

import asyncio
from tempfile import TemporaryDirectory

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange, AbstractIncomingMessage, AbstractQueue

from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo_rabbitmq.broker import RabbitMqBroker
from tests.benchmarks.broker_workload import AdapterSide, Workload, arguments, compare, tell

PREFETCH = 300


class _Bare:
    """aio-pika as its own documentation shows it."""

    def __init__(self, work: Workload) -> None:
        self._work = work
        self._connections: list[AbstractConnection] = []
        self._exchange: AbstractExchange | None = None
        self._queue: AbstractQueue | None = None
        self._arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    async def open(self, url: str) -> None:
        self._connections = [await aio_pika.connect(url) for _ in range(2)]
        publishing, consumer = self._connections
        channel = await publishing.channel(publisher_confirms=True)
        self._exchange = await channel.declare_exchange("bare", aio_pika.ExchangeType.TOPIC, durable=True)
        arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": 100}
        consuming = await consumer.channel(publisher_confirms=False)
        await consuming.set_qos(PREFETCH)
        self._queue = await consuming.declare_queue("bare", durable=True, arguments=arguments)
        await self._queue.bind(self._exchange, "event.#")

    async def publish(self, count: int) -> None:
        work, exchange = self._work, self._exchange
        assert exchange is not None

        def message() -> aio_pika.Message:
            return aio_pika.Message(work.body, headers=dict(work.headers), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)

        await asyncio.gather(*(exchange.publish(message(), f"event.{work.event}", mandatory=True) for _ in range(count)))

    async def consume(self, count: int) -> None:
        assert self._queue is not None
        tag = await self._queue.consume(self._arrived.put)
        left = count
        while left > 0:
            batch = [await self._arrived.get()]
            while not self._arrived.empty() and len(batch) < min(left, self._work.batch):
                batch.append(self._arrived.get_nowait())
            await batch[-1].ack(multiple=True)
            left -= len(batch)
        await self._queue.cancel(tag)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


async def _main(work: Workload) -> None:
    with TemporaryDirectory(prefix="saga-bench-") as folder, RabbitMqServer(folder) as server:
        broker, bare = RabbitMqBroker(f"{server.url}?prefetch={PREFETCH}"), _Bare(work)
        adapter = AdapterSide(broker, work)
        await adapter.open()
        await bare.open(server.url)
        version = server.ctl("eval", "rabbit_misc:version().").strip().strip('"')
        tell(await compare("rabbitmq", adapter, bare, work, server="rabbitmq-server", version=version))
        await broker.close()
        await bare.close()


if __name__ == "__main__":
    asyncio.run(_main(arguments(__doc__ or "")))
