"""Messages on their way, put together by partition: a lane per partition, and one pump that fills all of them at once.

aiokafka sends one request to a server at a time, with one batch of each partition that has one by then. So all lanes are filled in one go,
and while a batch is under way the next one is closed and waits in aiokafka already; the rest waits here and makes the batch after it larger.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from saga_choreo.ports import Channel
from saga_choreo_kafka.bare import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError, TopicPartition
from saga_choreo_kafka.clients import has_batch_waiting

__all__ = ["BATCH_BYTES", "TOO_LARGE", "Headers", "Lanes", "Sending"]

# What a batch takes besides its records.
BATCH_BYTES = 61
TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
# One that the server works on, and one that is sent as soon as it answers.
_UNDER_WAY = 2

Headers = list[tuple[str, bytes]]


class Sending(NamedTuple):
    """`call` is whoever waits for the answer; once that is `over` the message need not be sent. `place` is the publisher's."""

    call: Any
    place: int
    channel: Channel
    key: bytes
    headers: Headers
    body: bytes
    size: int


class _Lane:
    """`alone` says how many of the next messages go each in a batch of its own."""

    __slots__ = ("alone", "limit", "partition", "queue", "under_way")

    def __init__(self, partition: TopicPartition) -> None:
        self.partition = partition
        self.queue: deque[Sending] = deque()
        self.under_way = 0
        self.alone = 0
        self.limit = 0


class Lanes:
    """`answer` is called once for every message that was put in, with what became of it; `failed` when a batch was refused."""

    def __init__(self, answer: Callable[[Sending, Exception | None], None], failed: Callable[[], None]) -> None:
        self._answer = answer
        self._failed = failed
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._waiting: dict[TopicPartition, _Lane] = {}
        self._work = asyncio.Event()

    def put(self, partition: TopicPartition, sending: Sending, limit: int) -> None:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane(partition)
        lane.limit = limit
        lane.queue.append(sending)
        self._waiting[partition] = lane
        self._work.set()

    async def run(self, producer: Any) -> None:
        """Send until cancelled. A lane that waits for its batch under way is looked at again with every answer."""
        while True:
            await self._work.wait()
            self._work.clear()
            for lane in list(self._waiting.values()):
                while lane.queue and lane.under_way < _UNDER_WAY and not has_batch_waiting(producer, lane.partition):
                    await self._send(producer, lane)
                if not lane.queue:
                    del self._waiting[lane.partition]

    def empty(self, error: Exception) -> None:
        """Answer all that has not been sent."""
        self._waiting.clear()
        for lane in self._lanes.values():
            lane.under_way = 0
            while lane.queue:
                self._answer(lane.queue.popleft(), error)

    async def _send(self, producer: Any, lane: _Lane) -> None:
        builder, batch = producer.create_batch(), self._next(lane)
        if not batch:
            return
        for sending in batch:
            builder.append(timestamp=None, key=sending.key, value=sending.body, headers=sending.headers)
        lane.under_way += 1
        try:
            sent = await producer.send_batch(builder, lane.partition.topic, partition=lane.partition.partition)
        except (KafkaError, AssertionError) as exc:  # asserted: the partition is still there
            self._over(lane, batch, exc)
        except BaseException:
            self._over(lane, batch, KafkaError("the producer was stopped"))
            raise
        else:
            sent.add_done_callback(partial(self._sent, lane, batch))

    def _next(self, lane: _Lane) -> list[Sending]:
        batch: list[Sending] = []
        size = BATCH_BYTES
        while lane.queue and (not batch or (size + lane.queue[0].size <= lane.limit and not lane.alone)):
            sending = lane.queue.popleft()
            lane.alone -= lane.alone > 0
            if sending.call.over:
                self._answer(sending, None)
                continue
            batch.append(sending)
            size += sending.size
        return batch

    def _sent(self, lane: _Lane, batch: Sequence[Sending], sent: asyncio.Future[Any]) -> None:
        self._over(lane, batch, KafkaError("the producer was stopped") if sent.cancelled() else sent.exception())

    def _over(self, lane: _Lane, batch: Sequence[Sending], error: BaseException | None) -> None:
        lane.under_way = max(0, lane.under_way - 1)
        self._work.set()
        if error is not None:
            self._failed()
        if isinstance(error, TOO_LARGE) and len(batch) > 1:
            # Together they are: each for itself, then.
            lane.queue.extendleft(reversed(batch))
            lane.alone += len(batch)
            self._waiting[lane.partition] = lane
            return
        for sending in batch:
            self._answer(sending, error if isinstance(error, Exception) else None)
