"""The Kafka adapter against bare aiokafka doing the same durable work. Run: python tests/benchmarks/broker_kafka.py [--count n]

The bare side publishes with an idempotent producer, acks from all replicas and one future per message, as its documentation shows;
it consumes as a member of a group and commits after each batch, without waiting for the commit of the one before.
"""

from __future__ import annotations

import asyncio
from tempfile import TemporaryDirectory
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from saga_choreo.testing.kafka_jars import KAFKA_VERSION
from saga_choreo.testing.kafka_server import KafkaServer
from saga_choreo_kafka.broker import KafkaBroker
from tests.benchmarks.broker_workload import AdapterSide, Workload, arguments, compare, tell

_PARTITIONS = 6


class _Bare:
    def __init__(self, workload: Workload) -> None:
        self._work = workload
        self._headers = [(name, value.encode()) for name, value in workload.headers.items()]
        self._producer: Any = None
        self._consumer: Any = None
        self._committing: asyncio.Future[None] | None = None

    async def open(self, address: str) -> None:
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        await admin.create_topics([NewTopic("bare", _PARTITIONS, 1)])
        await admin.close()
        self._producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", enable_idempotence=True, max_batch_size=512 * 1024)
        self._consumer = AIOKafkaConsumer(
            "bare", bootstrap_servers=address, group_id="bare", auto_offset_reset="earliest", enable_auto_commit=False
        )
        await self._producer.start()
        await self._consumer.start()

    async def publish(self, count: int) -> None:
        work = self._work
        sent = [
            await self._producer.send("bare", work.body, key=f"k{number % 64}".encode(), headers=self._headers)
            for number in range(count)
        ]
        await asyncio.gather(*sent)

    async def consume(self, count: int) -> None:
        left = count
        while left > 0:
            found = await self._consumer.getmany(timeout_ms=1000, max_records=min(left, self._work.batch))
            left -= sum(len(records) for records in found.values())
            if self._committing is not None:
                await self._committing
            self._committing = asyncio.ensure_future(self._consumer.commit())
        if self._committing is not None:
            await self._committing
            self._committing = None

    async def close(self) -> None:
        await self._producer.stop()
        await self._consumer.stop()


async def _main(work: Workload) -> None:
    with TemporaryDirectory(prefix="saga-bench-") as folder, KafkaServer(folder) as server:
        broker, bare = KafkaBroker(f"{server.url}?partitions={_PARTITIONS}"), _Bare(work)
        adapter = AdapterSide(broker, work)
        await adapter.open()
        await bare.open(f"127.0.0.1:{server.port}")
        tell(await compare("kafka", adapter, bare, work, server="apache-kafka", version=KAFKA_VERSION))
        await broker.close()
        await bare.close()


if __name__ == "__main__":
    asyncio.run(_main(arguments(__doc__ or "")))
