"""Publishing with confirmation: messages are put together by partition, and one future waits for all answers of a call.

aiokafka gives a future per message, or one per batch; a batch costs half. A lane per partition sends one batch at a time and fills the
next one meanwhile. The producer is idempotent: what it repeats by itself is stored once. It never gives up, though, and once a batch was
refused its numbers do not fit any more: so a producer that let anything wait too long, or refused a batch, is replaced by a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.partitioner import murmur2

from saga_choreo.errors import BrokerUnavailable, ConfigurationError, PublishRefused
from saga_choreo.ports import Channel, ChannelKind, Outgoing
from saga_choreo_kafka.clients import Pace, discard, fail_batches, make_producer
from saga_choreo_kafka.names import Names
from saga_choreo_kafka.options import Options
from saga_choreo_kafka.topology import BODY_MAX

__all__ = ["Publisher"]

_log = logging.getLogger("saga_choreo.kafka")

# Above this, best-effort messages are dropped rather than queued behind the ones that matter.
_OBSERVED_MAX = 256
# Of a record in a batch of its own: lengths, offsets, checksums.
_BATCH_BYTES, _RECORD_BYTES, _HEADER_BYTES = 61, 32, 10
# However steadily the answers drip in, a call ends after this many time-outs.
_EXTENSIONS_MAX = 11
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_REFUSED = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError, InvalidTimestampError)
_RESTART_S = 0.5

Headers = list[tuple[str, bytes]]


class _Unanswered(Exception):  # noqa: N818  (a placeholder, never raised)
    pass


_UNANSWERED = _Unanswered()


class _Call:
    """One `publish`. `deadline` moves with every answer: it is over only when nothing comes any more."""

    __slots__ = ("_at_last", "_loop", "_timeout_s", "answers", "deadline", "done", "missing", "over")

    def __init__(self, size: int, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self.deadline = self._loop.time() + timeout_s
        self._at_last = self.deadline + _EXTENSIONS_MAX * timeout_s
        self.answers: list[Exception | None] = [_UNANSWERED] * size
        # One more than the messages, so that the call cannot be done before all are queued.
        self.missing = size + 1
        self.over = False
        self.done: asyncio.Future[None] = self._loop.create_future()

    def answered(self, count: int = 1) -> None:
        self.deadline = min(self._loop.time() + self._timeout_s, self._at_last)
        self.missing -= count
        if not self.missing and not self.done.done():
            self.done.set_result(None)


class _Sending(NamedTuple):
    call: _Call
    index: int
    channel: Channel
    key: bytes
    headers: Headers
    body: bytes
    size: int


@lru_cache(maxsize=8192)
def _hashed(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


class _Lane:
    """One partition. `alone` says how many of the next messages go each in a batch of its own."""

    __slots__ = ("alone", "queue", "task")

    def __init__(self) -> None:
        self.queue: deque[_Sending] = deque()
        self.task: asyncio.Task[None] | None = None
        self.alone = 0


class Publisher:
    """`make_topic` makes a topic that is missing, or says False. `run` keeps a producer up until it is cancelled."""

    def __init__(
        self,
        options: Options,
        names: Names,
        pace: Pace,
        make_topic: Callable[[str], Awaitable[bool]],
        on_metadata: Callable[[Any], None],
    ) -> None:
        self._options = options
        self._names = names
        self._pace = pace
        self._make_topic = make_topic
        self._on_metadata = on_metadata
        self._producer: Any = None
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._pending = 0
        self._pending_bytes = 0
        self._observed = 0
        self._room: asyncio.Future[None] | None = None
        self._sick = asyncio.Event()
        self._retired: set[asyncio.Task[None]] = set()
        self.up = asyncio.Event()
        self.limits: dict[str, int] = {}
        self.topics: tuple[str, ...] = ()

    async def run(self) -> None:
        """A producer after the other, each until it is sick."""
        try:
            while True:
                name = f"saga-choreo {self._names.prefix}"
                producer = make_producer(self._options, name, self._pace, self.topics, self._on_metadata)
                self._sick.clear()
                try:
                    async with asyncio.timeout(self._options.publish_timeout):
                        await producer.start()
                except (OSError, TimeoutError, KafkaError):
                    await discard(producer, politely=False)
                    await asyncio.sleep(_RESTART_S)
                    continue
                except BaseException:
                    await discard(producer, politely=False)
                    raise
                self._producer = producer
                self.up.set()
                try:
                    await self._sick.wait()
                finally:
                    self._retire()
        finally:
            self.up.clear()
            for lane in self._lanes.values():
                if lane.task is not None:
                    lane.task.cancel()
            await asyncio.gather(*self._retired, return_exceptions=True)

    def _retire(self) -> None:
        producer, self._producer = self._producer, None
        self.up.clear()
        fail_batches(producer, KafkaError("the producer was replaced"))
        task = asyncio.ensure_future(discard(producer, politely=False))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def down(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"Kafka at {self._options.shown!r} is not connected; it is being reconnected, try again")

    async def publish(self, messages: Sequence[Outgoing]) -> list[Exception | None]:
        if self._producer is None:
            return [None if message.channel.kind is ChannelKind.OBSERVE else self.down() for message in messages]
        call = _Call(len(messages), self._options.publish_timeout)
        try:
            await self._queue_all(call, messages)
            call.answered()
            loop = asyncio.get_running_loop()
            while call.missing > 0 and (left := call.deadline - loop.time()) > 0:
                await asyncio.wait((call.done,), timeout=left)
        finally:
            call.over = True
            if call.missing > 0:
                self._sick.set()
        return [_late(self._options) if isinstance(answer, _Unanswered) else answer for answer in call.answers]

    async def _queue_all(self, call: _Call, messages: Sequence[Outgoing]) -> None:
        for index, message in enumerate(messages):
            if self._full and not await self._wait_for_room(call):
                self._finish(
                    call, index, BrokerUnavailable("Kafka confirms too slowly; this message was not sent, publish it again")
                )
                continue
            try:
                await self._queue(call, index, message)
            except ConfigurationError as exc:
                self._finish(call, index, PublishRefused(str(exc)))
            except BrokerUnavailable as exc:
                self._finish(call, index, exc)

    def _finish(self, call: _Call, index: int, error: Exception | None) -> None:
        call.answers[index] = error
        call.answered()

    async def _queue(self, call: _Call, index: int, message: Outgoing) -> None:
        channel = message.channel
        topic = self._names.topic(channel)
        is_observation = channel.kind is ChannelKind.OBSERVE
        if is_observation and self._observed >= _OBSERVED_MAX:
            self._finish(call, index, None)
            return
        headers: Headers = [(name, value.encode()) for name, value in message.headers.items()]
        key = (channel.name if channel.kind is ChannelKind.DEFS else message.key).encode()
        size = _size(key, headers, message.body)
        limit = self.limits.get(topic, BODY_MAX)
        if size > limit:
            self._finish(call, index, _too_large(channel, size, limit))
            return
        count = self._partitions(topic) or await self._missing(topic, message)
        if not count:
            self._finish(call, index, None)
            return
        if is_observation:  # answered now; what becomes of it interests nobody
            self._finish(call, index, None)
            self._observed += 1
            call, index = _Call(1, self._options.publish_timeout), 0
        lane = self._lanes.setdefault((topic, _hashed(key) % count), _Lane())
        lane.queue.append(_Sending(call, index, channel, key, headers, message.body, size))
        self._pending += 1
        self._pending_bytes += size
        if lane.task is None:
            lane.task = asyncio.ensure_future(self._drain(topic, _hashed(key) % count, lane))

    def _partitions(self, topic: str) -> int:
        if self._producer is None:
            raise self.down()
        return len(self._producer.client.cluster.partitions_for_topic(topic) or ())

    async def _missing(self, topic: str, message: Outgoing) -> int:
        """Not known yet, or not there. 0: it is not there and need not be. Bounded like a publish."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(asyncio.timeout(self._options.publish_timeout))
                made = False
                while True:
                    producer = self._producer
                    if producer is None:
                        raise self.down()
                    await producer.client.add_topic(topic)
                    await producer.client.force_metadata_update()
                    if count := self._partitions(topic):
                        return count
                    if not made:
                        made = True
                        if not await self._make_topic(topic):
                            break
            except TimeoutError:
                raise BrokerUnavailable(f"Kafka does not say where topic {topic!r} is; publish it again") from None
        if not message.must_route:
            return 0
        raise ConfigurationError(f"topic {topic!r} is missing and this agent may not make it; make it, or open with create=True")

    async def _drain(self, topic: str, partition: int, lane: _Lane) -> None:
        try:
            while lane.queue:
                batch = await self._send(topic, partition, lane)
                if batch is not None:
                    self._answer(lane, *batch)
        finally:
            lane.task = None
            if lane.queue:
                rest = list(lane.queue)
                lane.queue.clear()
                self._answer(lane, rest, KafkaError("the producer was stopped"))

    async def _send(self, topic: str, partition: int, lane: _Lane) -> tuple[list[_Sending], Exception | None] | None:
        """One batch and what became of it. None: there was nothing left to send."""
        producer = self._producer
        if producer is None:
            rest = list(lane.queue)
            lane.queue.clear()
            return rest, self.down()
        builder, batch, size = producer.create_batch(), [], _BATCH_BYTES
        largest = min(self._options.batch_bytes, self.limits.get(topic, BODY_MAX))
        while lane.queue and (not batch or (size + lane.queue[0].size <= largest and not lane.alone)):
            sending = lane.queue.popleft()
            lane.alone -= lane.alone > 0
            if sending.call.over:
                self._free(sending)
                continue
            builder.append(timestamp=None, key=sending.key, value=sending.body, headers=sending.headers)
            batch.append(sending)
            size += sending.size
        if not batch:
            return None
        try:
            sent = await producer.send_batch(builder, topic, partition=partition)
            sent.add_done_callback(_look)
            await asyncio.wait((sent,))
            return batch, sent.exception()
        except (KafkaError, AssertionError) as exc:  # asserted: the partition is still there
            return batch, exc

    def _answer(self, lane: _Lane, batch: list[_Sending], error: Exception | None) -> None:
        if error is not None and not isinstance(error, BrokerUnavailable):
            # Its numbers do not fit any more: all that comes after a batch that failed would be refused as out of order.
            self._sick.set()
        if isinstance(error, _TOO_LARGE) and len(batch) > 1:
            lane.queue.extendleft(reversed(batch))
            lane.alone += len(batch)
            return
        for sending in batch:
            self._free(sending)
            if not sending.call.over:
                self._finish(sending.call, sending.index, self._meaning(sending, error))

    def _meaning(self, sending: _Sending, error: Exception | None) -> Exception | None:
        if error is None or isinstance(error, BrokerUnavailable):
            return error
        if isinstance(error, _TOO_LARGE):
            return _too_large(sending.channel, sending.size, None)
        if isinstance(error, _REFUSED):
            return PublishRefused(
                f"Kafka refused the message for {str(sending.channel)!r} ({error!r}); correct it, or the rights of this user"
            )
        return BrokerUnavailable(f"Kafka did not confirm the message for {str(sending.channel)!r} ({error!r}); publish it again")

    def _free(self, sending: _Sending) -> None:
        self._pending -= 1
        self._pending_bytes -= sending.size
        if sending.channel.kind is ChannelKind.OBSERVE:
            self._observed -= 1
        if self._room is not None and not self._room.done() and not self._full:
            self._room.set_result(None)

    @property
    def _full(self) -> bool:
        return self._pending >= self._options.in_flight or self._pending_bytes >= self._options.in_flight_bytes

    async def _wait_for_room(self, call: _Call) -> bool:
        loop = asyncio.get_running_loop()
        while self._full:
            left = call.deadline - loop.time()
            if left <= 0:
                return False
            if self._room is None or self._room.done():
                self._room = loop.create_future()
            await asyncio.wait((self._room,), timeout=left)
        return True


def _late(options: Options) -> BrokerUnavailable:
    return BrokerUnavailable(f"Kafka did not confirm within {options.publish_timeout:g} s; publish it again")


def _look(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()


def _size(key: bytes, headers: Iterable[tuple[str, bytes]], body: bytes) -> int:
    """At least what the record takes in a batch of its own."""
    return _BATCH_BYTES + _RECORD_BYTES + len(key) + len(body) + sum(len(n) * 3 + len(v) + _HEADER_BYTES for n, v in headers)


def _too_large(channel: Channel, size: int, limit: int | None) -> PublishRefused:
    takes = f"the topic takes {limit}" if limit is not None else "which is more than the topic takes"
    return PublishRefused(
        f"message for {str(channel)!r} is too large: {size} bytes with its headers, {takes}; send less, or raise the topic's max.message.bytes"
    )
