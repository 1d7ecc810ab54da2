"""Publishing with confirmation: one future waits for all answers of a call, and batches go out by partition (see `lanes`).

aiokafka gives a future per message, or one per batch; a batch costs half. The producer is idempotent: what it repeats by itself is
stored once. It never gives up, though, and once a batch was refused its numbers do not fit any more: so a producer that let anything
wait too long, or had a batch refused, is replaced by a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from saga_choreo.errors import BrokerUnavailable, ConfigurationError, PublishRefused
from saga_choreo.ports import Channel, ChannelKind, Outgoing
from saga_choreo_kafka.bare import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    KafkaError,
    TopicAuthorizationFailedError,
    TopicPartition,
    murmur2,
)
from saga_choreo_kafka.clients import Pace, discard, fail_batches, make_producer
from saga_choreo_kafka.lanes import BATCH_BYTES, TOO_LARGE, Headers, Lanes, Sending
from saga_choreo_kafka.names import Names
from saga_choreo_kafka.options import Options
from saga_choreo_kafka.topology import BODY_MAX

__all__ = ["Publisher"]

# Above this, best-effort messages are dropped rather than queued behind the ones that matter.
_OBSERVED_MAX = 256
# Of a record in a batch of its own: lengths, offsets, checksums.
_RECORD_BYTES, _HEADER_BYTES = 32, 10
# However steadily the answers drip in, a call ends after this many time-outs.
_EXTENSIONS_MAX = 11
_REFUSED = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError, InvalidTimestampError)
_START_S = 10.0
_ASKED_MAX = 3
_RESTART_S = 0.5


class _Unanswered(Exception):
    pass


_UNANSWERED = _Unanswered()


class _Call:
    """One `publish`. `deadline` moves with every answer: it is over only when nothing comes any more."""

    __slots__ = ("_at_last", "_loop", "_timeout_s", "answers", "deadline", "done", "missing", "over", "queued_by")

    def __init__(self, size: int, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self.deadline = self.queued_by = self._loop.time() + timeout_s
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


@lru_cache(maxsize=8192)
def _hashed(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


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
        self._sick = asyncio.Event()
        self._lanes = Lanes(self._answer, self._sick.set)
        self._pending = 0
        self._pending_bytes = 0
        self._observed = 0
        self._room: asyncio.Future[None] | None = None
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
                    async with asyncio.timeout(_START_S):
                        await producer.start()
                        await producer.client.force_metadata_update()
                except (OSError, TimeoutError, KafkaError):
                    await discard(producer, politely=False)
                    await asyncio.sleep(_RESTART_S)
                    continue
                except BaseException:
                    await discard(producer, politely=False)
                    raise
                self._producer = producer
                self.up.set()
                sending = asyncio.ensure_future(self._lanes.run(producer))
                sick = asyncio.ensure_future(self._sick.wait())
                try:
                    await asyncio.wait((sending, sick), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._retire()
                    sending.cancel()
                    sick.cancel()
                    await asyncio.gather(sending, sick, return_exceptions=True)
                    self._lanes.empty(self.down())
        finally:
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
        count = self._partitions(topic) or await self._missing(call, topic, message)
        if not count:
            self._finish(call, index, None)
            return
        if is_observation:  # answered now; what becomes of it interests nobody
            self._finish(call, index, None)
            self._observed += 1
            call, index = _Call(1, self._options.publish_timeout), 0
        self._pending += 1
        self._pending_bytes += size
        sending = Sending(call, index, channel, key, headers, message.body, size)
        self._lanes.put(TopicPartition(topic, _hashed(key) % count), sending, min(limit, self._options.batch_bytes))

    def _partitions(self, topic: str) -> int:
        if self._producer is None:
            raise self.down()
        return len(self._producer.client.cluster.partitions_for_topic(topic) or ())

    async def _missing(self, call: _Call, topic: str, message: Outgoing) -> int:
        """Not known yet, or not there. 0: it is not there and need not be. All messages of a call share one time to wait."""
        try:
            async with asyncio.timeout_at(call.queued_by):
                if (count := await self._ask_for(topic)) or (
                    await self._make_topic(topic) and (count := await self._ask_for(topic))
                ):
                    return count
        except TimeoutError:
            raise BrokerUnavailable(f"Kafka does not say where topic {topic!r} is; publish it again") from None
        if not message.must_route:
            return 0
        raise ConfigurationError(f"topic {topic!r} is missing and this agent may not make it; make it, or open with create=True")

    async def _ask_for(self, topic: str) -> int:
        """How many partitions the topic has; it may not be known at once to whoever is asked."""
        for _ in range(_ASKED_MAX):
            producer = self._producer
            if producer is None:
                raise self.down()
            producer.client.add_topic(topic)
            if not await producer.client.force_metadata_update():
                raise self.down()
            if count := self._partitions(topic):
                return count
        return 0

    def _answer(self, sending: Sending, error: Exception | None) -> None:
        self._free(sending)
        if not sending.call.over:
            self._finish(sending.call, sending.place, self._meaning(sending, error))

    def _meaning(self, sending: Sending, error: Exception | None) -> Exception | None:
        if error is None or isinstance(error, BrokerUnavailable):
            return error
        if isinstance(error, TOO_LARGE):
            return _too_large(sending.channel, sending.size, None)
        if isinstance(error, _REFUSED):
            return PublishRefused(
                f"Kafka refused the message for {str(sending.channel)!r} ({error!r}); correct it, or the rights of this user"
            )
        return BrokerUnavailable(f"Kafka did not confirm the message for {str(sending.channel)!r} ({error!r}); publish it again")

    def _free(self, sending: Sending) -> None:
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


def _size(key: bytes, headers: Iterable[tuple[str, bytes]], body: bytes) -> int:
    """At least what the record takes in a batch of its own."""
    return BATCH_BYTES + _RECORD_BYTES + len(key) + len(body) + sum(len(n) * 3 + len(v) + _HEADER_BYTES for n, v in headers)


def _too_large(channel: Channel, size: int, limit: int | None) -> PublishRefused:
    takes = f"the topic takes {limit}" if limit is not None else "which is more than the topic takes"
    return PublishRefused(
        f"message for {str(channel)!r} is too large: {size} bytes with its headers, {takes}; send less, or raise the topic's max.message.bytes"
    )
