"""How logical channels are called in RabbitMQ: one scheme for exchange, queues and routing keys, so that operators can find them.

With prefix `saga`: topic exchange `saga`; routing keys `event.order.created`, `control.payment`, `outcome`, `defs`, `dlq`,
`observe`; queues `saga.service.payment`, `saga.defs`, `saga.dlq`, `saga.undeliverable` and `saga.delay.2000` (milliseconds).
A character other than a letter, digit, `_`, `-` or `.` is written as `:` and two hex digits per byte, so that nothing collides
and nothing is a wildcard.
"""

from __future__ import annotations

import re
from functools import lru_cache

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Channel, ChannelKind

__all__ = ["Names", "escape", "unescape"]

_UNSAFE = re.compile(r"[^A-Za-z0-9_\-.]")
_ESCAPED = re.compile(r"(?::[0-9A-F]{2})+")
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,32}")
# What AMQP can say in a routing key or a queue's name, less what the scheme itself adds.
_NAME_BYTES_MAX = 200


def _hex(found: re.Match[str]) -> str:
    return "".join(f":{byte:02X}" for byte in found.group().encode())


def escape(name: str) -> str:
    """A name as part of a routing key or of a queue's name. Raises ConfigurationError when it is empty or far too long."""
    escaped = _UNSAFE.sub(_hex, name)
    if not 0 < len(escaped) <= _NAME_BYTES_MAX:
        raise ConfigurationError(f"the name {name[:40]!r} cannot be a channel's; use 1 to {_NAME_BYTES_MAX} letters and digits")
    return escaped


def unescape(text: str) -> str:
    """The name that `escape` was given."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found.group().replace(":", "")).decode("utf-8", "replace"), text)


class Names:
    """The names of one prefix. Keys and channels are cached: the hot path asks for the same few again and again."""

    def __init__(self, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(f"prefix {prefix!r} is not valid; use 1 to 32 letters, digits, '_' or '-'")
        self.exchange = prefix
        self.defs, self.dlq, self.undeliverable = (f"{prefix}.{part}" for part in ("defs", "dlq", "undeliverable"))
        # Bounded: a broken peer that invents names must not fill the memory.
        self.key = lru_cache(maxsize=4096)(self._key)
        self.channel = lru_cache(maxsize=4096)(self._channel)

    def service(self, service: str) -> str:
        return f"{self.exchange}.service.{escape(service)}"

    def delay(self, delay_ms: int) -> str:
        """The queue, and the exchange before it, of messages that wait so long."""
        return f"{self.exchange}.delay.{delay_ms}"

    def _key(self, channel: Channel) -> str:
        match channel.kind:
            case ChannelKind.EVENT | ChannelKind.CONTROL:
                return f"{channel.kind.value}.{escape(channel.name)}"
            case ChannelKind.OUTCOME | ChannelKind.DEFS | ChannelKind.DLQ | ChannelKind.OBSERVE:
                return channel.kind.value

    def _channel(self, key: str, service: str) -> Channel:
        """A key that is not of this scheme came from somebody's hand: its message is treated as one to the service itself."""
        kind, _, name = key.partition(".")
        if kind in (ChannelKind.EVENT, ChannelKind.CONTROL) and name:
            return Channel(ChannelKind(kind), unescape(name))
        if key == ChannelKind.OUTCOME:
            return Channel(ChannelKind.OUTCOME)
        return Channel(ChannelKind.CONTROL, service)
