"""Publishing with confirmation: a batch is written at once, and one future waits for all its answers.

There is no future, task or time-out per message. A reply subject ends in a number that leads back to batch and position.
No message id is sent: duplicates are told apart in the participant's database, and the server need not remember ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nats import errors as nats_errors

from saga_choreo.errors import BrokerUnavailable, PublishRefused
from saga_choreo.ports import ChannelKind, Outgoing
from saga_choreo_nats.link import Link
from saga_choreo_nats.names import Names
from saga_choreo_nats.options import Options
from saga_choreo_nats.sink import Sink

__all__ = ["Publisher"]

_OBSERVE = ChannelKind.OBSERVE
# Above this, best-effort messages are dropped rather than queued behind the ones that matter.
_OBSERVE_BYTES_MAX = 1024 * 1024
# JetStream's "maximum messages/bytes exceeded" (stream full) comes as a 503 although trying at once cannot help.
_STREAM_FULL = 10077
_HEADER_LINE_BYTES = 12
# However steadily the answers drip in, a batch ends after this many time-outs.
_EXTENSIONS_MAX = 11


class StreamFull(PublishRefused):
    """No room in the stream for the message."""


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


@dataclass(slots=True)
class _Ready:
    """Messages of a batch that are ready for one write."""

    client: Any
    commands: list[bytes] = field(default_factory=list[bytes])
    numbers: list[int] = field(default_factory=list[int])
    payload_bytes: int = 0


class Publisher:
    """One per broker. `attach` on every fresh client, `fail` when a client is lost."""

    def __init__(self, link: Link, names: Names, options: Options) -> None:
        self._link = link
        self._names = names
        self._options = options
        self._inbox = ""
        self._number = 0
        self._pending: dict[int, tuple[_Batch, int, int]] = {}
        self._pending_bytes = 0
        self._room: asyncio.Future[None] | None = None
        # Set when a stream refuses a message for want of room.
        self.full = asyncio.Event()

    async def attach(self, client: Any) -> None:
        self._inbox = f"{client.new_inbox()}."
        await client.subscribe(f"{self._inbox}*", future=Sink(self._take))

    def fail(self, reason: str) -> None:
        """The connection is gone: whether the server has these is unknown."""
        error = BrokerUnavailable(f"connection to NATS lost before the confirmation came ({reason}); publish it again")
        for number in list(self._pending):
            self._answer(number, error)

    async def publish(self, messages: Sequence[Outgoing]) -> list[Exception | None]:
        client = self._link.client
        if client is None or not self._link.up.is_set() or self._link.busy:
            return [None if message.channel.kind is ChannelKind.OBSERVE else self._link.down() for message in messages]
        batch = _Batch(len(messages), self._options.publish_timeout)
        numbers: list[int] = []
        ready = _Ready(client)
        try:
            for index, message in enumerate(messages):
                if self._full:
                    await self._write(ready)
                if self._full and not await self._wait_for_room(batch):
                    batch.answer(index, BrokerUnavailable("NATS confirms too slowly; this message was not sent, publish it again"))
                elif client is not self._link.client:
                    batch.answer(index, BrokerUnavailable("connection to NATS lost before this message was sent; publish it again"))
                else:
                    await self._send(ready, batch, index, message, numbers)
            await self._write(ready)
            batch.missing -= 1
            loop = asyncio.get_running_loop()
            while batch.missing and (left := batch.deadline - loop.time()) > 0:
                await asyncio.wait((batch.done,), timeout=left)
        finally:
            late = self._late()
            for number in numbers:
                if number in self._pending:
                    self._answer(number, late)
        return batch.answers

    async def _send(self, ready: _Ready, batch: _Batch, index: int, message: Outgoing, numbers: list[int]) -> None:
        """Write it down to be sent with the others of the batch, or send it at once where there is anything strange in it."""
        client, channel, body, headers = ready.client, message.channel, message.body, message.headers
        if channel.kind is _OBSERVE:
            if client.pending_data_size + ready.payload_bytes < _OBSERVE_BYTES_MAX:
                with contextlib.suppress(nats_errors.Error, OSError):
                    await client.publish(self._names.subject(channel), body, headers=headers)
            batch.answer(index, None)
            return
        size = self._size(headers, body)
        if size > client.max_payload:
            batch.answer(index, self._too_large(message, size, client.max_payload))
            return
        number = self._number = self._number + 1
        self._pending[number] = (batch, index, size)
        self._pending_bytes += size
        numbers.append(number)
        subject, reply = self._names.subject(channel), f"{self._inbox}{number}"
        command = client.prepared(subject, body, reply, headers)
        if command is not None:
            ready.commands.append(command)
            ready.numbers.append(number)
            ready.payload_bytes += len(body)
            return
        await self._write(ready)
        try:
            await client.publish(subject, body, reply, headers)
        except nats_errors.BadHeaderError as exc:
            self._answer(number, PublishRefused(f"message for {str(channel)!r} has an impossible header ({exc}); correct it"))
        except (nats_errors.Error, OSError) as exc:
            self._answer(number, BrokerUnavailable(f"NATS did not take the message for {str(channel)!r} ({exc}); publish it again"))

    async def _write(self, ready: _Ready) -> None:
        commands, numbers, payload_bytes = ready.commands, ready.numbers, ready.payload_bytes
        if not commands:
            return
        ready.commands, ready.numbers, ready.payload_bytes = [], [], 0
        try:
            await ready.client.send(commands, payload_bytes)
        except (nats_errors.Error, OSError) as exc:
            for number in numbers:
                self._answer(
                    number,
                    BrokerUnavailable(f"NATS did not take a batch of {len(numbers)} messages ({exc}); publish this one again"),
                )

    @staticmethod
    def _size(headers: Mapping[str, str], body: bytes) -> int:
        """What the server counts against its limit: it closes the whole connection over a message that is too large."""
        values = "".join(headers.values())
        size = len(values) if values.isascii() else len(values.encode())
        return _HEADER_LINE_BYTES + len(body) + 4 * len(headers) + len("".join(headers)) + size

    @staticmethod
    def _too_large(message: Outgoing, size: int, limit: int) -> PublishRefused:
        return PublishRefused(
            f"message for {str(message.channel)!r} is too large: {size} bytes with its headers, the NATS server takes {limit};"
            f" send less, or raise max_payload on the server"
        )

    def _late(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"NATS did not confirm within {self._options.publish_timeout:g} s; publish it again")

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

    def _answer(self, number: int, error: Exception | None) -> None:
        found = self._pending.pop(number, None)
        if found is None:
            return  # answered already: a late confirmation after the time-out
        batch, index, size = found
        self._pending_bytes -= size
        if self._room is not None and not self._room.done() and not self._full:
            self._room.set_result(None)
        batch.answer(index, error)

    def _take(self, subject: str, _reply: str, body: bytes, _headers: Mapping[str, str] | None) -> None:
        number = int(subject[len(self._inbox) :])
        if body and b'"error"' not in body:
            self._answer(number, None)
        elif body:
            refusal = self._refusal(body)
            if isinstance(refusal, StreamFull):
                self.full.set()
            self._answer(number, refusal)
        else:
            # No responders: no stream listens on the subject.
            self._link.damaged.set()
            self._answer(number, BrokerUnavailable("NATS has no stream for this message; it is being declared, publish it again"))

    @staticmethod
    def _refusal(body: bytes) -> Exception | None:
        answer = json.loads(body)
        error = answer.get("error")
        if not error:
            return None
        text = f"NATS refused the message: {error.get('description', error)}"
        if error.get("err_code") == _STREAM_FULL:
            return StreamFull(f"{text}; the stream is full, give it more space or work off its backlog")
        if error.get("code") == 400:
            return PublishRefused(f"{text}; correct the message or the stream's limits")
        return BrokerUnavailable(f"{text}; publish it again")
