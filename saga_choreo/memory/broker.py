"""`MemoryBroker`: the reference broker. What the port promises, and nothing more, in one process.

Time comes from an injected Clock, so that redelivery and delays run in virtual time under the simulator.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from saga_choreo.errors import ConfigurationError, PublishRefused
from saga_choreo.memory.bus import Entry, Queue, Watch, bus_of
from saga_choreo.memory.clock import SystemClock
from saga_choreo.ports import BrokerFeatures, ChannelKind, Clock, Delivery, Notice, Outgoing, Topology

__all__ = ["MemoryBroker"]

_BODY_BYTES_MAX = 1_000_000


class _Token(NamedTuple):
    entry: Entry
    attempt: int


class MemoryBroker:
    """URL: `memory://[name][?ack_wait=seconds]`. Brokers of one name and prefix share a bus, as long as one of them lives."""

    def __init__(self, url: str = "memory://", *, prefix: str = "saga", clock: Clock | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "memory":
            raise ConfigurationError(
                f"broker URL with scheme {parts.scheme[:16]!r} is not for the memory broker; write memory://name"
            )
        self._ack_wait_s = _ack_wait(parts.query)
        self._bus = bus_of(parts.netloc, prefix)
        self._clock: Clock = clock or SystemClock()
        self._queue: Queue | None = None
        self._held: dict[_Token, None] = {}

    @property
    def features(self) -> BrokerFeatures:
        return BrokerFeatures(name="memory", single_copy=True, survives_restart=False, real=False, body_bytes_max=_BODY_BYTES_MAX)

    async def open(self, topology: Topology) -> None:
        if self._queue is not None:
            raise ConfigurationError("this memory broker is open already; make one object per agent")
        events = tuple(dict.fromkeys(topology.events))
        if not topology.receives:
            self._queue = Queue()  # nobody puts anything into it
        elif not topology.create:
            self._check(topology.service, events)
            self._queue = self._bus.queues[topology.service]
        else:
            self._queue = self._bus.bind(topology.service, events)

    def _check(self, service: str, events: tuple[str, ...]) -> None:
        faults = [f"event {event!r} is not bound" for event in events if event not in self._bus.readers.get(service, ())]
        if service not in self._bus.queues:
            faults.insert(0, f"queue {service!r} is missing")
        if faults:
            raise ConfigurationError(
                f"the memory broker lacks what service {service!r} needs: {'; '.join(faults)}; let an agent create it (create=True)"
            )

    def _open_queue(self) -> Queue:
        if self._queue is None:
            raise ConfigurationError("this memory broker is not open; call open() first")
        return self._queue

    async def receive(self, max_messages: int, max_wait_s: float) -> Sequence[Delivery]:
        queue = self._open_queue()
        if queue.size:  # a caller that never finds the queue empty must still let others run
            await self._clock.sleep(0)
        taken = queue.take(max_messages, self._clock.monotonic(), self._ack_wait_s)
        while not taken:
            await self._wait(queue, None)
            taken = queue.take(max_messages, self._clock.monotonic(), self._ack_wait_s)
        # What is taken already must not be lost when the caller is cancelled while waiting for more.
        batch = [self._delivery(entry) for entry in taken]
        until = self._clock.monotonic() + max_wait_s
        try:
            while len(batch) < max_messages and (left := until - self._clock.monotonic()) > 0:
                await self._wait(queue, left)
                more = queue.take(max_messages - len(batch), self._clock.monotonic(), self._ack_wait_s)
                batch += [self._delivery(entry) for entry in more]
        except asyncio.CancelledError:
            await self.release(batch)
            raise
        return batch

    async def _wait(self, queue: Queue, at_most_s: float | None) -> None:
        """Until something may have become visible, or the time is over."""
        due = queue.next_due()
        waits = [at_most_s] if at_most_s is not None else []
        if due is not None:
            waits.append(max(0.0, due - self._clock.monotonic()))
        waiter = asyncio.get_running_loop().create_future()
        queue.waiting.append(waiter)
        timer = asyncio.ensure_future(self._clock.sleep(min(waits))) if waits else None
        try:
            if timer is None:
                await waiter
            else:
                await asyncio.wait((waiter, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            queue.waiting.remove(waiter)
            if timer is not None:
                timer.cancel()

    def _delivery(self, entry: Entry) -> Delivery:
        token = _Token(entry, entry.attempt)
        self._held[token] = None
        message = entry.message
        return Delivery(
            channel=message.channel,
            headers=message.headers,
            body=message.body,
            redelivered=entry.attempt > 1,
            attempt=entry.attempt,
            token=token,
        )

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        queue = self._open_queue()
        for delivery in deliveries:
            self._held.pop(delivery.token, None)
            queue.ack(delivery.token.entry)

    async def release(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        queue = self._open_queue()
        for delivery in deliveries:
            self._hand_back(queue, delivery.token, delay_s)

    def _hand_back(self, queue: Queue, token: _Token, delay_s: float) -> None:
        self._held.pop(token, None)
        queue.release(token.entry, token.attempt, self._clock.monotonic(), delay_s)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        self._open_queue()
        return [self._publish(message) for message in messages]

    def _publish(self, message: Outgoing) -> PublishRefused | None:
        where = str(message.channel)
        if len(message.body) > _BODY_BYTES_MAX:
            return PublishRefused(f"message for {where!r} is too large: {len(message.body)} bytes of {_BODY_BYTES_MAX}; send less")
        if message.channel.kind is ChannelKind.DEFS:
            self._bus.notify(Notice(message.channel.name, message.body))
        if message.channel.kind is ChannelKind.DLQ:
            if len(self._bus.dead_letters) >= self._bus.limit:
                return PublishRefused(f"channel {where!r} is full with {self._bus.limit} messages; work them off first")
            self._bus.dead_letters.append(message)
        targets = self._bus.targets(message.channel)
        if any(queue.size >= self._bus.limit for queue in targets):
            return PublishRefused(f"channel {where!r} is full with {self._bus.limit} messages; work them off first")
        for queue in targets:
            queue.put(message)
        return None

    async def notify(self, notice: Notice) -> None:
        self._open_queue()
        self._bus.notify(notice)

    async def notices(self) -> AsyncIterator[Notice]:
        self._open_queue()
        watch = Watch(self._bus.notices)
        self._bus.watches.append(watch)
        try:
            while True:
                for notice in watch.take():
                    yield notice
                await watch.news.wait()
        finally:
            self._bus.watches.remove(watch)

    async def close(self) -> None:
        queue, self._queue = self._queue, None
        if queue is not None:
            for token in list(self._held):
                self._hand_back(queue, token, 0.0)
        self._held.clear()


def _ack_wait(query: str) -> float:
    options = dict(parse_qsl(query))
    text = options.pop("ack_wait", "4")
    if options:
        raise ConfigurationError(f"broker URL has unknown options {sorted(options)!r}; the memory broker knows: ack_wait")
    try:
        seconds = float(text)
    except ValueError as exc:
        raise ConfigurationError(f"broker URL option 'ack_wait' is {text!r}; give seconds") from exc
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(f"broker URL option 'ack_wait' is {text!r}; give seconds above zero")
    return seconds
