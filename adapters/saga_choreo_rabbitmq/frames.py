"""Message frames of AMQP 0-9-1 as bytes: what the hot path writes and reads, many thousand times a second.

All other methods go through pamqp. Reading never fails over what a publisher put into a message: text that is not UTF-8 and header
tables that cannot be read must not cost the connection, or one such message, delivered again for ever, would stop its queue.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from pamqp import commands, decode

from saga_choreo_rabbitmq.errors import Unwritable

__all__ = [
    "Arrived",
    "Content",
    "Settled",
    "ack",
    "cancel",
    "content",
    "nack",
    "publish",
    "read_deliver",
    "read_return",
    "read_settled",
]

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_FRAME = struct.Struct(">BHI")
_PUBLISH = struct.Struct(">HHH")
_CONTENT = struct.Struct(">HHQ")
_SETTLE = struct.Struct(">HHQB")
_LONG = struct.Struct(">I")
_FRAME_EXTRA_BYTES = 8
# Flags of the properties that we write.
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _CORRELATION_ID, _MESSAGE_ID = 1 << 15, 1 << 13, 1 << 12, 1 << 10, 1 << 7
_PERSISTENT, _TRANSIENT = b"\x02", b"\x01"
_MULTIPLE, _REQUEUE = 1, 2


class Arrived(NamedTuple):
    """Basic.Deliver or Basic.Return; of a Return the tag is 0 and `redelivered` says nothing."""

    tag: int
    redelivered: bool
    exchange: str
    key: str


class Content(NamedTuple):
    """`table` is the header table as it came; `properties` are None where they could not be read."""

    body_size: int
    properties: commands.Basic.Properties | None

    @property
    def table(self) -> Mapping[str, object]:
        return (self.properties.headers if self.properties is not None else None) or {}


class Settled(NamedTuple):
    """The server's confirmation of a publish."""

    tag: int
    multiple: bool


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"".join((_FRAME.pack(kind, channel, len(payload)), payload, _END))


def _short(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 255:
        raise Unwritable(f"{text[:40]!r}... is longer than the 255 bytes that AMQP allows here")
    return b"%c" % len(raw) + raw


def _table(headers: Mapping[str, str]) -> bytes:
    parts: list[bytes] = []
    for name, value in headers.items():
        raw = value.encode()
        parts += (_short(name), b"S", _LONG.pack(len(raw)), raw)
    table = b"".join(parts)
    return _LONG.pack(len(table)) + table


def publish(
    channel: int,
    exchange: str,
    key: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    frame_max: int,
    mandatory_id: str = "",
    persistent: bool = True,
) -> bytes:
    """The frames of one message. `mandatory_id` makes it mandatory, and comes back with it when it is returned.

    Raises Unwritable for names that AMQP cannot carry and text that is no text.
    """
    try:
        kind, message_id = headers.get("content-type", ""), headers.get("ce-id", "")
        flags, values = _HEADERS | _DELIVERY_MODE, [_table(headers), _PERSISTENT if persistent else _TRANSIENT]
        if kind:
            flags, values = flags | _CONTENT_TYPE, [_short(kind), *values]
        if mandatory_id:
            flags, values = flags | _CORRELATION_ID, [*values, _short(mandatory_id)]
        if message_id:
            flags, values = flags | _MESSAGE_ID, [*values, _short(message_id)]
        method = _PUBLISH.pack(60, 40, 0) + _short(exchange) + _short(key) + (b"\x01" if mandatory_id else b"\x00")
    except UnicodeEncodeError as exc:
        raise Unwritable(f"a header is no text ({exc})") from exc
    header = _CONTENT.pack(60, 0, len(body)) + flags.to_bytes(2, "big") + b"".join(values)
    if len(header) > frame_max - _FRAME_EXTRA_BYTES:
        raise Unwritable(f"its headers take {len(header)} bytes, more than the {frame_max} of one AMQP frame")
    room = frame_max - _FRAME_EXTRA_BYTES
    parts = [_frame(_METHOD, channel, method), _frame(_HEADER, channel, header)]
    parts += [_frame(_BODY, channel, body[start : start + room]) for start in range(0, len(body), room)]
    return b"".join(parts)


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    return _frame(_METHOD, channel, _SETTLE.pack(60, 80, tag, _MULTIPLE if multiple else 0))


def nack(channel: int, tag: int) -> bytes:
    """Hand back: the message goes to the queue again."""
    return _frame(_METHOD, channel, _SETTLE.pack(60, 120, tag, _REQUEUE))


def _text(payload: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + payload[at]
    return payload[at + 1 : end].decode("utf-8", "replace"), end


def read_deliver(payload: bytes) -> Arrived:
    _, at = _text(payload, 4)
    tag = int.from_bytes(payload[at : at + 8], "big")
    exchange, after = _text(payload, at + 9)
    return Arrived(tag, bool(payload[at + 8]), exchange, _text(payload, after)[0])


def read_return(payload: bytes) -> Arrived:
    _, at = _text(payload, 6)
    exchange, at = _text(payload, at)
    return Arrived(0, False, exchange, _text(payload, at)[0])


def read_settled(payload: bytes) -> Settled:
    return Settled(int.from_bytes(payload[4:12], "big"), bool(payload[12] & _MULTIPLE))


def content(payload: bytes) -> Content:
    size = int.from_bytes(payload[4:12], "big")
    properties = commands.Basic.Properties()
    try:
        consumed, flags = decode.short_int(payload[12:14])
        properties.unmarshal(flags, payload[12 + consumed :])
    except (ValueError, struct.error, TypeError, OverflowError, OSError, IndexError):
        return Content(size, None)
    return Content(size, properties)


def cancel(channel: int, consumer: str) -> bytes:
    """Stop a consumer; the server answers Basic.CancelOk."""
    return _frame(_METHOD, channel, _PUBLISH.pack(60, 30, 0)[:4] + _short(consumer) + b"\x00")
