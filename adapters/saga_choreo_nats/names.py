"""How logical channels are called in NATS: one scheme for streams, subjects and durables, so that operators can find them.

With prefix `saga`: streams `saga_events`, `saga_control`, `saga_defs`, `saga_dlq`; subjects `saga.event.order.created`,
`saga.control.payment`, `saga.outcome`, `saga.defs.<subject>`, `saga.dlq`, `saga.observe`; the durable is the service's name.
A character that a subject or a durable cannot hold is written as `=` and two hex digits per byte, so that nothing collides.
"""

from __future__ import annotations

import re
from functools import lru_cache

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Channel, ChannelKind

__all__ = ["Names", "escape", "unescape"]

_UNSAFE = re.compile(r"[^A-Za-z0-9_\-]")
_UNSAFE_DOTTED = re.compile(r"[^A-Za-z0-9_\-.]")
_ESCAPED = re.compile(r"(?:=[0-9A-F]{2})+")
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,32}")


def _hex(found: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in found.group().encode())


def escape(name: str, *, dotted: bool = False) -> str:
    """A name as one subject token (also a durable's name), or as several tokens where its dots may stay."""
    if not name:
        raise ConfigurationError("a channel's name is empty; give every service, event and notice a name")
    if dotted and all(name.split(".")):
        return _UNSAFE_DOTTED.sub(_hex, name)
    return _UNSAFE.sub(_hex, name)


def unescape(token: str) -> str:
    """The name that `escape` was given."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found.group().replace("=", "")).decode("utf-8", "replace"), token)


class Names:
    """The names of one prefix. Subjects and channels are cached: the hot path asks for the same few again and again."""

    def __init__(self, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(f"prefix {prefix!r} is not valid; use 1 to 32 letters, digits, '_' or '-'")
        self.prefix = prefix
        self.events, self.control, self.defs, self.dlq = (f"{prefix}_{part}" for part in ("events", "control", "defs", "dlq"))
        self.outcome = f"{prefix}.outcome"
        self.all_events = f"{prefix}.event.>"
        self.all_control = f"{prefix}.control.>"
        self.all_defs = f"{prefix}.defs.>"
        # Bounded: a broken peer that invents names must not fill the memory.
        self.subject = lru_cache(maxsize=4096)(self._subject)
        self.channel = lru_cache(maxsize=4096)(self._channel)

    def durable(self, service: str) -> str:
        return escape(service)

    def _subject(self, channel: Channel) -> str:
        match channel.kind:
            case ChannelKind.EVENT | ChannelKind.DEFS:
                return f"{self.prefix}.{channel.kind.value}.{escape(channel.name, dotted=True)}"
            case ChannelKind.CONTROL:
                return f"{self.prefix}.control.{escape(channel.name)}"
            case ChannelKind.OUTCOME | ChannelKind.DLQ | ChannelKind.OBSERVE:
                return f"{self.prefix}.{channel.kind.value}"

    def _channel(self, subject: str) -> Channel:
        kind, _, name = subject.removeprefix(f"{self.prefix}.").partition(".")
        return Channel(ChannelKind(kind), unescape(name))
