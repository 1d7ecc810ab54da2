"""One AMQP 0-9-1 connection: handshake, heartbeats, channels, requests and answers. It lives as long as its TCP connection.

Written over pamqp's frames instead of a client with its own ideas: aio-pika keeps a task and a queue per channel and a task per
delivery, loses the connection over a property that is not UTF-8 (and again after each redelivery), and may wait long for a dead peer
when it closes. Here a frame goes right from the socket to whoever waits for it, and whatever is wrong ends in `on_lost`, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from pamqp import commands
from pamqp import exceptions as pamqp_errors
from pamqp import frame as pamqp_frame
from pamqp.base import Frame
from pamqp.header import ProtocolHeader
from pamqp.heartbeat import Heartbeat

from saga_choreo_rabbitmq import frames
from saga_choreo_rabbitmq.errors import Closed, WireError

__all__ = ["Channel", "Wire"]

Answer = TypeVar("Answer", bound=Frame)
Take = Callable[[frames.Arrived, frames.Content, bytes], None]
Confirm = Callable[[frames.Settled, bool], None]

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_DELIVER, _RETURN, _ACK, _NACK = (60 << 16) | 60, (60 << 16) | 50, (60 << 16) | 80, (60 << 16) | 120
_FRAME_MAX_BYTES = 131_072
# Two heartbeat intervals, in halves. Ticks, not seconds: a blocked event loop must not look like a dead server.
_MISSED_TICKS_MAX = 4
_CLOSE_S = 2.0
_CAPABILITIES = ("publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked", "authentication_failure_close")


class Channel:
    """Set `on_deliver`, `on_return`, `on_confirm` before anything can come. They run inside the parser: only file things away.

    `on_closed` is called once, when the channel or its connection is gone; `on_cancel` when the queue of a consumer is.
    """

    def __init__(self, wire: Wire, number: int) -> None:
        self.wire = wire
        self.number = number
        self.error: WireError | None = None
        self.on_deliver: Take | None = None
        self.on_return: Take | None = None
        self.on_confirm: Confirm | None = None
        self.on_cancel: Callable[[], None] | None = None
        self.on_closed: Callable[[WireError], None] | None = None
        self._calls: deque[asyncio.Future[Frame]] = deque()
        self._arriving: tuple[Take | None, frames.Arrived] | None = None
        self._content: frames.Content | None = None
        self._parts: list[bytes] = []
        self._missing = 0

    def send(self, request: Frame) -> asyncio.Future[Frame]:
        """Send without waiting. What is returned holds the answer in the end."""
        waiting: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self.expect(waiting)
        self.wire.write(pamqp_frame.marshal(request, self.number))
        return waiting

    async def call(self, request: Frame, answer: type[Answer]) -> Answer:
        """Send, and wait for the answer. Raises Closed when the server refuses, WireError when it does not answer in time."""
        (got,) = await self.call_all([request])
        if not isinstance(got, answer):
            raise WireError(f"the server answered {request.name} with {got.name}")
        return got

    async def call_all(self, requests: Sequence[Frame]) -> list[Frame]:
        """Send all at once, and wait for all answers. The first refusal is raised; what comes after it was not done."""
        if self.error is not None:
            raise self.error
        answers = [self.send(request) for request in requests]
        await asyncio.wait(answers, timeout=self.wire.answer_timeout_s)
        if not answers[-1].done():
            error = WireError(f"no answer to {requests[-1].name} for {self.wire.answer_timeout_s:g} s")
            self.wire.lose(error)
            raise error
        return [answer.result() for answer in answers]

    def expect(self, answer: asyncio.Future[Frame]) -> None:
        """Answers come in the order of the requests; one that nobody waits for any more still takes its turn."""
        self._calls.append(answer)

    def leave(self) -> None:
        """Close without waiting for the answer."""
        if self.error is None:
            self.send(commands.Channel.Close(200, "done", 0, 0))
            self.fail(WireError("this channel was closed"))

    def fail(self, error: WireError) -> None:
        if self.error is not None:
            return
        self.error = error
        for call in self._calls:
            if not call.done():
                call.set_exception(error)
                call.exception()  # whoever waited may be gone
        if self.on_closed is not None:
            self.on_closed(error)

    def method(self, index: int, payload: bytes, raw: bytes) -> None:
        if index == _DELIVER:
            self._arriving = (self.on_deliver, frames.read_deliver(payload))
        elif index in (_ACK, _NACK) and self.on_confirm is not None:
            self.on_confirm(frames.read_settled(payload), index == _ACK)
        elif index == _RETURN:
            self._arriving = (self.on_return, frames.read_return(payload))
        else:
            self.answered(cast("Frame", pamqp_frame.unmarshal(raw)[2]))

    def answered(self, method: Frame) -> None:
        match method:
            case commands.Channel.Close():
                self.wire.write(pamqp_frame.marshal(commands.Channel.CloseOk(), self.number))
                self.wire.forget(self.number)
                self.fail(Closed(method.reply_code or 0, method.reply_text or ""))
            case commands.Channel.CloseOk():
                self.wire.forget(self.number)
            case commands.Basic.Cancel():
                if self.on_cancel is not None:
                    self.on_cancel()
            case _:
                if self._calls and not (call := self._calls.popleft()).done():
                    call.set_result(method)

    def header(self, payload: bytes) -> None:
        self._content = frames.content(payload)
        self._missing = self._content.body_size
        self._parts = []
        if not self._missing:
            self._complete()

    def body(self, payload: bytes) -> None:
        self._parts.append(payload)
        self._missing -= len(payload)
        if self._missing <= 0:
            self._complete()

    def _complete(self) -> None:
        arriving, content = self._arriving, self._content
        self._arriving = self._content = None
        if arriving is not None and content is not None and arriving[0] is not None:
            arriving[0](arriving[1], content, self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))


class Wire(asyncio.Protocol):
    """`await Wire.connect(...)` gives a connection that is ready for channels, or raises WireError, OSError or TimeoutError."""

    def __init__(self, answer_timeout_s: float, on_lost: Callable[[WireError], None]) -> None:
        self.answer_timeout_s = answer_timeout_s
        self.frame_max = _FRAME_MAX_BYTES
        # Why the server takes no publishes at present (an alarm), or an empty text.
        self.blocked = ""
        self.error: WireError | None = None
        self._on_lost: Callable[[WireError], None] | None = on_lost
        self._transport: asyncio.Transport | None = None
        self._pending = b""
        self._control = Channel(self, 0)
        self._channels: dict[int, Channel] = {0: self._control}
        self._last_number = 0
        self._free: list[int] = []
        self._has_heard = self._has_written = False
        self._missed = 0
        self._tick_s = 0.0
        self._tick: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        mechanism: str,
        response: str,
        vhost: str,
        heartbeat_s: int,
        name: str,
        answer_timeout_s: float,
        on_lost: Callable[[WireError], None],
    ) -> Wire:
        loop = asyncio.get_running_loop()
        wire = cls(answer_timeout_s, on_lost)
        started: asyncio.Future[Frame] = loop.create_future()
        wire._control.expect(started)
        try:
            await loop.create_connection(lambda: wire, host, port, ssl=tls)
            await started
            properties: dict[str, Any] = {
                "product": "saga-choreo",
                "connection_name": name,
                "capabilities": dict.fromkeys(_CAPABILITIES, True),
            }
            start_ok = commands.Connection.StartOk(properties, mechanism, response, "en_US")
            tune = await wire._control.call(start_ok, commands.Connection.Tune)
            wire._tune(tune, heartbeat_s)
            await wire._control.call(commands.Connection.Open(vhost), commands.Connection.OpenOk)
        except BaseException:
            wire._on_lost = None
            wire.abort()
            raise
        return wire

    def _tune(self, tune: commands.Connection.Tune, heartbeat_s: int) -> None:
        offered, size = tune.heartbeat or 0, tune.frame_max or 0
        heartbeat_s = min(heartbeat_s, offered) if offered else heartbeat_s
        self.frame_max = min(size, _FRAME_MAX_BYTES) if size else _FRAME_MAX_BYTES
        tune_ok = commands.Connection.TuneOk(tune.channel_max or 0, self.frame_max, heartbeat_s)
        self.write(pamqp_frame.marshal(tune_ok, 0))
        self._tick_s = heartbeat_s / 2
        self._tick = asyncio.get_running_loop().call_later(self._tick_s, self._beat)

    def _beat(self) -> None:
        self._missed = 0 if self._has_heard else self._missed + 1
        if self._missed >= _MISSED_TICKS_MAX:
            self.lose(WireError(f"nothing was heard for {self._tick_s * _MISSED_TICKS_MAX:g} s"))
            return
        if not self._has_written:
            self.write(pamqp_frame.marshal(Heartbeat(), 0))
        self._has_heard = self._has_written = False
        self._tick = asyncio.get_running_loop().call_later(self._tick_s, self._beat)

    @property
    def pending_bytes(self) -> int:
        """Written, and not taken by the network yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def channel(self) -> Channel:
        """A fresh channel. Nobody waits for the server's answer: requests may follow at once, and are answered in order."""
        if self.error is not None:
            raise self.error
        if self._free:
            number = self._free.pop()
        else:
            number = self._last_number = self._last_number + 1
        channel = self._channels[number] = Channel(self, number)
        channel.send(commands.Channel.Open())
        return channel

    def forget(self, number: int) -> None:
        """Both sides have closed this channel: its number may be used again, of which there are few."""
        if self._channels.pop(number, None) is not None:
            self._free.append(number)

    def write(self, raw: bytes) -> None:
        """Never blocks; how much is waiting is bounded by those who write."""
        if self._transport is not None and self.error is None:
            self._has_written = True
            self._transport.write(raw)

    async def close(self) -> None:
        """A clean end in bounded time: the server gives back at once what is unacknowledged."""
        self._on_lost = None
        if self.error is None and self._transport is not None:
            with contextlib.suppress(WireError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._control.call(commands.Connection.Close(200, "done", 0, 0), commands.Connection.CloseOk)
        self.abort()

    def abort(self) -> None:
        self.lose(WireError("closed by this agent"))

    def lose(self, error: WireError) -> None:
        if self.error is not None:
            return
        self.error = error
        if self._tick is not None:
            self._tick.cancel()
        if self._transport is not None:
            self._transport.abort()
        for channel in list(self._channels.values()):
            channel.fail(error)
        if self._on_lost is not None:
            self._on_lost(error)

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.error is not None:
            self._transport.abort()
        self._transport.write(ProtocolHeader().marshal())

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(WireError(f"closed by the server or the network ({exc})" if exc else "closed by the server or the network"))

    def data_received(self, data: bytes) -> None:
        self._has_heard = True
        buffer = self._pending + data if self._pending else data
        at, end = 0, len(buffer)
        while end - at >= 8 and self.error is None:
            kind, number = buffer[at], int.from_bytes(buffer[at + 1 : at + 3], "big")
            after = at + 8 + int.from_bytes(buffer[at + 3 : at + 7], "big")
            if kind == 65 or after - at > _FRAME_MAX_BYTES + 8:
                self.lose(WireError("the server speaks another protocol"))
                return
            if after > end:
                break
            self._frame(kind, number, buffer[at:after])
            at = after
        self._pending = buffer[at:]

    def _frame(self, kind: int, number: int, raw: bytes) -> None:
        channel = self._channels.get(number)
        if channel is None or kind == _HEARTBEAT:
            return
        payload = raw[7:-1]
        try:
            if kind == _BODY:
                channel.body(payload)
            elif kind == _HEADER:
                channel.header(payload)
            elif number == 0:
                self._connection_method(cast("Frame", pamqp_frame.unmarshal(raw)[2]))
            else:
                channel.method(int.from_bytes(payload[:4], "big"), payload, raw)
        except (pamqp_errors.PAMQPException, ValueError, IndexError) as exc:
            self.lose(WireError(f"a frame of kind {kind} could not be read ({exc})"))

    def _connection_method(self, method: Frame) -> None:
        match method:
            case commands.Connection.Close():
                self.write(pamqp_frame.marshal(commands.Connection.CloseOk(), 0))
                self.lose(Closed(method.reply_code or 0, method.reply_text or ""))
            case commands.Connection.Blocked():
                self.blocked = method.reason or "an alarm"
            case commands.Connection.Unblocked():
                self.blocked = ""
            case _:
                self._control.answered(method)
