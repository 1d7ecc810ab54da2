"""Publishing with confirmation: a batch is written at once, and one future waits for all its answers.

There is no future, task or time-out per message: the server's delivery tags lead back to batch and position. A message that was
returned (nobody is bound) is told apart by the number it carries as its correlation id: the return comes before its confirmation.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from pamqp import commands

from saga_choreo.errors import BrokerUnavailable, PublishRefused
from saga_choreo.ports import ChannelKind, Outgoing
from saga_choreo_rabbitmq import frames
from saga_choreo_rabbitmq.errors import Closed, Unwritable, WireError
from saga_choreo_rabbitmq.link import Link
from saga_choreo_rabbitmq.names import Names
from saga_choreo_rabbitmq.options import Options
from saga_choreo_rabbitmq.wire import Channel, Wire

__all__ = ["Letter", "Publisher", "Unroutable"]

# Above this, best-effort messages are dropped rather than queued behind the ones that matter.
_OBSERVE_BYTES_MAX = 1024 * 1024
# So much waiting to be written means that the connection cannot be healthy.
_BUSY_BYTES = 32 * 1024 * 1024
# However steadily the answers drip in, a batch ends after this many time-outs.
_EXTENSIONS_MAX = 11
# What properties, names and frames add to body and headers, generously.
_FRAMING_BYTES = 600
_SERVER_LIMIT = re.compile(r"max size '?(\d+)")


class Unroutable(PublishRefused):
    """No queue was there to take it: none is bound, or the one that is has not come back yet."""


class Letter(NamedTuple):
    """One message as AMQP sees it. `what` names it in errors."""

    exchange: str
    key: str
    headers: Mapping[str, str]
    body: bytes
    must_route: bool
    what: str


class _Batch:
    """`deadline` moves with every answer: a large batch on a slow disk is late only when nothing comes any more."""

    __slots__ = ("_at_last", "_loop", "_timeout_s", "answers", "deadline", "done", "missing")

    def __init__(self, size: int, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self.deadline = self._loop.time() + timeout_s
        self._at_last = self.deadline + _EXTENSIONS_MAX * timeout_s
        self.answers: list[Exception | None] = [None] * size
        # One more than the messages, so that the batch cannot be done before all are written.
        self.missing = size + 1
        self.done: asyncio.Future[None] = self._loop.create_future()

    def answer(self, index: int, error: Exception | None) -> None:
        self.answers[index] = error
        self.deadline = min(self._loop.time() + self._timeout_s, self._at_last)
        self.missing -= 1
        if not self.missing and not self.done.done():
            self.done.set_result(None)


class _Sent(NamedTuple):
    batch: _Batch
    position: int
    size: int
    what: str


class Publisher:
    """One per broker. `attach` on every fresh connection, `fail` when one is lost."""

    def __init__(self, link: Link, names: Names, options: Options) -> None:
        self._link = link
        self._names = names
        self._options = options
        self._limit = options.message_max_bytes
        self._channel: Channel | None = None
        self._aside: Channel | None = None
        self._tag = 0
        # By the server's delivery tag, in the order of sending.
        self._pending: dict[int, _Sent] = {}
        self._pending_bytes = 0
        self._returned: set[int] = set()
        self._room: asyncio.Future[None] | None = None

    async def attach(self, wire: Wire) -> None:
        channel = wire.channel()
        channel.on_confirm, channel.on_return = self._confirmed, self._take_return
        await channel.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
        channel.on_closed = lambda error: self._closed(wire, error)
        # Observations are not confirmed: on the other channel they would only use up its numbers.
        self._aside = wire.channel()
        self._aside.on_closed = wire.lose
        self._channel, self._tag = channel, 0

    def _closed(self, wire: Wire, error: WireError) -> None:
        """The exchange is missing, or a message was too large for the server: the next connection begins anew."""
        if isinstance(error, Closed) and (found := _SERVER_LIMIT.search(error.text)):
            self._limit = min(self._limit, int(found[1]))
        wire.lose(error)

    def fail(self, reason: str) -> None:
        """The connection is gone: whether the server has these is unknown."""
        self._channel = self._aside = None
        error = BrokerUnavailable(f"connection to RabbitMQ lost before the confirmation came ({reason}); publish it again")
        for tag in list(self._pending):
            self._answer(tag, error)

    async def publish(self, messages: Sequence[Outgoing]) -> list[Exception | None]:
        channel = self._usable()
        if isinstance(channel, Exception):
            return [None if message.channel.kind is ChannelKind.OBSERVE else channel for message in messages]
        letters: list[Letter | None] = []
        for message in messages:
            if message.channel.kind is ChannelKind.OBSERVE:
                self._observe(message)
                letters.append(None)
                continue
            what = str(message.channel)
            letters.append(
                Letter(
                    self._names.exchange, self._names.key(message.channel), message.headers, message.body, message.must_route, what
                )
            )
        return await self.send(letters)

    def _usable(self) -> Channel | BrokerUnavailable:
        channel, wire = self._channel, self._link.wire
        if channel is None or wire is None or not self._link.up.is_set() or wire.pending_bytes > _BUSY_BYTES:
            return self._link.down()
        if wire.blocked:
            return BrokerUnavailable(
                f"RabbitMQ at {self._options.shown!r} takes no messages at present ({wire.blocked}); give it room, and publish again"
            )
        return channel

    def _observe(self, message: Outgoing) -> None:
        """Dropped under pressure, and nobody waits for it."""
        channel = self._aside
        if channel is None or channel.wire.pending_bytes >= _OBSERVE_BYTES_MAX or self._size(message) > self._limit:
            return
        key, frame_max = self._names.key(message.channel), channel.wire.frame_max
        try:
            raw = frames.publish(
                channel.number, self._names.exchange, key, message.headers, message.body, frame_max=frame_max, persistent=False
            )
        except Unwritable:
            return
        channel.wire.write(raw)

    async def send(self, letters: Sequence[Letter | None]) -> list[Exception | None]:
        """One answer for each, in order; None in the place of a letter is answered with None."""
        channel = self._usable()
        if isinstance(channel, Exception):
            return [None if letter is None else channel for letter in letters]
        batch = _Batch(len(letters), self._options.publish_timeout)
        first = self._tag + 1
        sent: list[int] = []
        try:
            for index, letter in enumerate(letters):
                if letter is None:
                    batch.answer(index, None)
                elif self._full and not await self._wait_for_room(batch):
                    error = "RabbitMQ confirms too slowly; this message was not sent, publish it again"
                    batch.answer(index, BrokerUnavailable(error))
                elif channel is not self._channel:
                    batch.answer(
                        index, BrokerUnavailable("connection to RabbitMQ lost before this message was sent; publish it again")
                    )
                else:
                    self._send(channel, batch, index, letter, sent)
            batch.missing -= 1
            loop = asyncio.get_running_loop()
            while batch.missing and (left := batch.deadline - loop.time()) > 0:
                await asyncio.wait((batch.done,), timeout=left)
        finally:
            if batch.missing:
                late = self._late(channel)
                for tag in sent:
                    if tag >= first and (found := self._pending.get(tag)) is not None and found.batch is batch:
                        self._answer(tag, late)
        return batch.answers

    def _send(self, channel: Channel, batch: _Batch, index: int, letter: Letter, sent: list[int]) -> None:
        size = self._size(letter)
        if size > self._limit:
            batch.answer(index, self._too_large(letter, size))
            return
        tag = self._tag + 1
        try:
            raw = frames.publish(
                channel.number,
                letter.exchange,
                letter.key,
                letter.headers,
                letter.body,
                frame_max=channel.wire.frame_max,
                mandatory_id=str(tag) if letter.must_route else "",
            )
        except Unwritable as exc:
            batch.answer(index, PublishRefused(f"message for {letter.what!r} cannot be written: {exc}; correct it"))
            return
        self._tag = tag
        self._pending[tag] = _Sent(batch, index, size, letter.what)
        self._pending_bytes += size
        sent.append(tag)
        channel.wire.write(raw)

    @staticmethod
    def _size(message: Outgoing | Letter) -> int:
        total = _FRAMING_BYTES + len(message.body)
        for name, value in message.headers.items():
            total += len(name) + (len(value) if value.isascii() else 4 * len(value)) + 6
        return total

    def _too_large(self, letter: Letter, size: int) -> PublishRefused:
        return PublishRefused(
            f"message for {letter.what!r} is too large: {size} bytes with its headers, the limit is {self._limit};"
            " send less, or raise 'message_max_bytes' of the broker URL and max_message_size of the server"
        )

    def _late(self, channel: Channel) -> BrokerUnavailable:
        why = f" ({channel.wire.blocked})" if channel.wire.blocked else ""
        return BrokerUnavailable(f"RabbitMQ did not confirm within {self._options.publish_timeout:g} s{why}; publish it again")

    @property
    def _full(self) -> bool:
        return len(self._pending) >= self._options.in_flight or self._pending_bytes >= self._options.in_flight_bytes

    async def _wait_for_room(self, batch: _Batch) -> bool:
        loop = asyncio.get_running_loop()
        while self._full:
            left = batch.deadline - loop.time()
            if left <= 0:
                return False
            if self._room is None or self._room.done():
                self._room = loop.create_future()
            await asyncio.wait((self._room,), timeout=left)
        return True

    def _answer(self, tag: int, error: Exception | None) -> None:
        found = self._pending.pop(tag, None)
        if found is None:
            return  # answered already: a late confirmation after the time-out
        self._pending_bytes -= found.size
        if self._room is not None and not self._room.done() and not self._full:
            self._room.set_result(None)
        found.batch.answer(found.position, error)

    def _take_return(self, _where: frames.Arrived, content: frames.Content, _body: bytes) -> None:
        number = (content.properties.correlation_id if content.properties is not None else None) or ""
        if number.isdigit():
            self._returned.add(int(number))

    def _confirmed(self, settled: frames.Settled, is_taken: bool) -> None:
        tags = [settled.tag]
        if settled.multiple:
            tags = list(takewhile(lambda tag: tag <= settled.tag, self._pending))
        for tag in tags:
            self._answer(tag, self._verdict(tag, is_taken))
        if self._returned and not self._pending:
            self._returned.clear()

    def _verdict(self, tag: int, is_taken: bool) -> Exception | None:
        sent = self._pending.get(tag)
        if sent is None or (is_taken and tag not in self._returned):
            return None
        self._returned.discard(tag)
        if is_taken:
            return Unroutable(
                f"nobody is bound to {sent.what!r}, and somebody should be; start its readers once, and publish again"
            )
        return PublishRefused(
            f"RabbitMQ did not take the message for {sent.what!r}: a queue bound to it is full, or has no majority of its members;"
            " give it room or work off its backlog, and publish again"
        )
