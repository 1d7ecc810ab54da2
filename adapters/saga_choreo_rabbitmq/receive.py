"""Consuming: one consumer on the service's queue, one bounded buffer, and an account of what is not settled yet.

The server sends at most `prefetch` messages that are not settled, and takes them back when the connection ends. Two things it
does not do are done here. A delivery that was handed out and not settled within `ack_wait` is handed back. And an agent that
does not ask for messages any more gives back what it has in its buffer, and stops consuming until it asks again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pamqp import commands

from saga_choreo.ports import Delivery
from saga_choreo_rabbitmq import frames
from saga_choreo_rabbitmq.errors import WireError
from saga_choreo_rabbitmq.link import Link
from saga_choreo_rabbitmq.names import Names
from saga_choreo_rabbitmq.options import Options
from saga_choreo_rabbitmq.wire import Channel, Wire

__all__ = ["ATTEMPTS", "KEY", "Receiver", "Token"]

# Headers of a copy that this adapter sent on (see `later`): the routing key it first came with, and its deliveries until then.
KEY, ATTEMPTS = "saga-rabbitmq-key", "saga-rabbitmq-deliveries"
_CONSUMER = "saga"
# What the server writes into the headers of a message that it delivers again or moves.
_OF_THE_SERVER = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-opt-deaths")


class Token(NamedTuple):
    """`in_queue` counts the deliveries that the server itself has counted, for its own limit."""

    channel: Channel
    tag: int
    key: str
    in_queue: int


class Receiver:
    """One per broker. `attach` on every fresh connection."""

    def __init__(self, link: Link, names: Names, options: Options) -> None:
        self._link = link
        self._names = names
        self._ack_wait = options.ack_wait
        self._prefetch = options.prefetch
        self._service = ""
        self._channel: Channel | None = None
        self._is_consuming = False
        self._buffer: deque[Delivery] = deque()
        # Every tag that is not settled, oldest first; and since when it is in somebody's hands (0: in the buffer).
        self._unsettled: dict[int, float] = {}
        self._one_at_a_time = asyncio.Lock()
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 1
        self._asked = 0.0
        self._tick: asyncio.TimerHandle | None = None

    def bind(self, service: str) -> None:
        self._service = service

    async def attach(self, wire: Wire) -> None:
        if not self._service:
            return
        self._forget()
        channel = wire.channel()
        channel.on_deliver = lambda arrived, content, body: self._arrived(channel, arrived, content, body)
        # The queue was deleted, or the channel failed: the next connection declares and begins anew.
        channel.on_cancel = lambda: wire.lose(WireError(f"the queue of service {self._service!r} was deleted"))
        channel.on_closed = wire.lose
        await channel.call(commands.Basic.Qos(0, self._prefetch, False), commands.Basic.QosOk)
        self._channel = channel
        await self._consume(channel)
        self._asked = asyncio.get_running_loop().time()
        if self._tick is None:
            self._watch()

    async def _consume(self, channel: Channel) -> None:
        if not self._service:  # withdrawn meanwhile
            return
        self._is_consuming = True
        await channel.call(commands.Basic.Consume(0, self._names.service(self._service), _CONSUMER), commands.Basic.ConsumeOk)

    def _forget(self) -> None:
        """What came over a connection that is gone is the server's again."""
        self._channel = None
        self._buffer.clear()
        self._unsettled.clear()

    def lost(self) -> None:
        self._forget()

    def close(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        self._forget()
        self._service = ""

    def _arrived(self, channel: Channel, arrived: frames.Arrived, content: frames.Content, body: bytes) -> None:
        if not self._is_consuming:  # was under way when we stopped consuming
            channel.wire.write(frames.nack(channel.number, arrived.tag))
            return
        table = content.table
        headers = {
            name: value if isinstance(value, str) else _text(value)
            for name, value in table.items()
            if not name.startswith(_OF_THE_SERVER)
        }
        if content.properties is not None and content.properties.content_type:
            headers.setdefault("content-type", content.properties.content_type)
        key = headers.pop(KEY, "") or arrived.key
        before = headers.pop(ATTEMPTS, "0")
        counted = table.get("x-delivery-count", 0)
        in_queue = 1 + (counted if isinstance(counted, int) else 0)
        attempt = in_queue + (int(before) if before.isdecimal() else 0)
        if not arrived.exchange and key == self._names.service(self._service):
            key = _first_key(table)
        delivery = Delivery(
            channel=self._names.channel(key, self._service),
            headers=headers,
            body=body,
            redelivered=arrived.redelivered or attempt > 1,
            attempt=attempt,
            token=Token(channel, arrived.tag, key, in_queue),
        )
        self._unsettled[arrived.tag] = 0.0
        self._buffer.append(delivery)
        if len(self._buffer) >= self._wanted:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self, max_messages: int, max_wait_s: float) -> list[Delivery]:
        async with self._one_at_a_time:
            loop = asyncio.get_running_loop()
            while not self._buffer:
                await self._resume()
                await self._wait(1, self._ack_wait / 2)
            until = loop.time() + max_wait_s
            while len(self._buffer) < max_messages and (left := until - loop.time()) > 0:
                await self._wait(max_messages, left)
                if not self._buffer:  # the connection was lost meanwhile
                    return []
            batch = [self._buffer.popleft() for _ in range(min(max_messages, len(self._buffer)))]
            now = self._asked = loop.time()
            for delivery in batch:
                self._unsettled[delivery.token.tag] = now
            return batch

    async def _resume(self) -> None:
        self._asked = asyncio.get_running_loop().time()
        channel = self._channel
        if channel is not None and not self._is_consuming and self._link.up.is_set():
            try:
                await self._consume(channel)
            except WireError as exc:
                channel.wire.lose(exc)

    async def _wait(self, wanted: int, timeout_s: float) -> None:
        self._wanted = wanted
        self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._waiter,), timeout=timeout_s)
        self._waiter = None

    def ours(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Those that came over the present connection and are not settled; the others are the server's again already."""
        return [one for one in deliveries if one.token.channel is self._channel and one.token.tag in self._unsettled]

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """One frame for all up to the oldest that is still open, one for each of the rest."""
        channel, tags = self._settle(deliveries)
        if channel is None or not tags:
            return
        oldest = next(iter(self._unsettled), tags[-1] + 1)
        together = [tag for tag in tags if tag < oldest]
        parts = [frames.ack(channel.number, together[-1], multiple=True)] if together else []
        parts += [frames.ack(channel.number, tag) for tag in tags[len(together) :]]
        channel.wire.write(b"".join(parts))

    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        channel, tags = self._settle(deliveries)
        if channel is not None and tags:
            channel.wire.write(b"".join(frames.nack(channel.number, tag) for tag in tags))

    def _settle(self, deliveries: Iterable[Delivery]) -> tuple[Channel | None, list[int]]:
        tags = sorted({one.token.tag for one in self.ours(deliveries)})
        for tag in tags:
            del self._unsettled[tag]
        return self._channel, tags

    def _watch(self) -> None:
        """Four times within `ack_wait`."""
        loop = asyncio.get_running_loop()
        now, channel = loop.time(), self._channel
        if channel is not None:
            late = [tag for tag, since in self._unsettled.items() if since and now - since >= self._ack_wait]
            for tag in late:
                del self._unsettled[tag]
                channel.wire.write(frames.nack(channel.number, tag))
            if self._buffer and self._is_consuming and now - self._asked >= self._ack_wait and not self._one_at_a_time.locked():
                self._stall(channel)
        self._tick = loop.call_later(self._ack_wait / 4, self._watch)

    def withdraw(self) -> None:
        """Also from the connections that come."""
        self._service = ""
        if self._channel is not None and self._is_consuming:
            self._stall(self._channel)

    def _stall(self, channel: Channel) -> None:
        """Others of the service shall have what nobody here asks for."""
        self._is_consuming = False
        channel.expect(asyncio.get_running_loop().create_future())
        channel.wire.write(frames.cancel(channel.number, _CONSUMER))
        buffered = list(self._buffer)
        self._buffer.clear()
        self.hand_back(buffered)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)


def _first_key(table: Mapping[str, object]) -> str:
    """Of a message that somebody moved back into the queue: what it was first published with, if the server has noted it."""
    deaths: Any = table.get("x-death")
    try:
        return str(deaths[-1]["routing-keys"][0])
    except (TypeError, LookupError):
        return ""
