"""The `defs` channel: a compacted topic of one partition, read from its beginning by every watcher, with no group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from saga_choreo.ports import Notice
from saga_choreo_kafka.bare import KafkaError, TopicPartition
from saga_choreo_kafka.clients import Pace, discard, make_consumer
from saga_choreo_kafka.names import Names
from saga_choreo_kafka.options import Options

__all__ = ["watch"]

_log = logging.getLogger("saga_choreo.kafka")
_POLL_S = 5.0
_RETRY_S = 1.5


async def watch(options: Options, names: Names, pace: Pace) -> AsyncIterator[Notice]:
    """After a breakdown the kept notices come again; a notice replaces the last one of its subject, so that is harmless."""
    partition = TopicPartition(names.defs, 0)
    while True:
        consumer = make_consumer(options, f"saga-choreo {names.prefix} defs", pace)
        try:
            # Assigned before the start: with no topic to look for, aiokafka would ask for those of the whole cluster.
            consumer.assign([partition])
            await consumer.start()
            consumer.seek(partition, 0)  # what was compacted away since is passed over
            for notice in await _kept(consumer, partition):
                yield notice
            while True:
                for notice in await _more(consumer):
                    yield notice
        except (OSError, TimeoutError, KafkaError) as exc:
            _log.info("watching %r broke off (%r); beginning again", names.defs, exc)
            await asyncio.sleep(_RETRY_S)
        finally:
            await discard(consumer)


async def _kept(consumer: Any, partition: TopicPartition) -> list[Notice]:
    """The last notice of each subject so far: compaction comes late, so the topic still holds older ones."""
    end = (await consumer.end_offsets([partition]))[partition]
    found: dict[str, Notice] = {}
    while await consumer.position(partition) < end:
        for notice in await _more(consumer):
            found.pop(notice.subject, None)
            found[notice.subject] = notice
    return list(found.values())


async def _more(consumer: Any) -> list[Notice]:
    found = await consumer.getmany(timeout_ms=int(_POLL_S * 1000))
    return [
        Notice(record.key.decode("utf-8", "replace"), record.value)
        for records in found.values()
        for record in records
        if record.key is not None and record.value is not None
    ]
