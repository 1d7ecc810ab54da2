"""How logical channels are called in Kafka: one scheme for topics and groups, so that operators can find them.

With prefix `saga`: topics `saga.event.order.created`, `saga.control.payment`, `saga.outcome`, `saga.defs`, `saga.dlq`, `saga.observe`;
the consumer group of a service is `saga.payment`. A character that a topic cannot hold is written as `-` and two hex digits per byte.
So is `_`: Kafka takes `a_b` and `a.b` for the same name and refuses the second one.
"""

from __future__ import annotations

import re
from functools import lru_cache

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Channel, ChannelKind

__all__ = ["Names", "escape", "unescape"]

# A dash is written out only where it would read as the beginning of an escape.
_UNSAFE = re.compile(r"[^A-Za-z0-9.\-]|-(?=[0-9A-F]{2})")
_ESCAPED = re.compile(r"(?:-[0-9A-F]{2})+")
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,32}")
_TOPIC_MAX = 249


def escape(name: str) -> str:
    """A name as part of a topic's name. Different names stay different."""
    if not name:
        raise ConfigurationError("a channel's name is empty; give every service and event a name")
    return _UNSAFE.sub(lambda found: "".join(f"-{byte:02X}" for byte in found.group().encode()), name)


def unescape(part: str) -> str:
    """The name that `escape` was given."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found.group().replace("-", "")).decode("utf-8", "replace"), part)


class Names:
    """The names of one prefix. Topics and channels are cached: the hot path asks for the same few again and again."""

    def __init__(self, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(f"prefix {prefix!r} is not valid; use 1 to 32 letters, digits, '_' or '-'")
        self.prefix = prefix
        self.outcome, self.defs, self.dlq, self.observe = (f"{prefix}.{part}" for part in ("outcome", "defs", "dlq", "observe"))
        # Bounded: a broken peer that invents names must not fill the memory.
        self.topic = lru_cache(maxsize=4096)(self._topic)
        self.channel = lru_cache(maxsize=4096)(self._channel)

    def group(self, service: str) -> str:
        return f"{self.prefix}.{escape(service)}"

    def _topic(self, channel: Channel) -> str:
        match channel.kind:
            case ChannelKind.EVENT | ChannelKind.CONTROL:
                topic = f"{self.prefix}.{channel.kind.value}.{escape(channel.name)}"
            case ChannelKind.OUTCOME | ChannelKind.DEFS | ChannelKind.DLQ | ChannelKind.OBSERVE:
                topic = f"{self.prefix}.{channel.kind.value}"
        if len(topic) > _TOPIC_MAX:
            raise ConfigurationError(
                f"the topic of channel {str(channel)!r} would have {len(topic)} characters, Kafka takes {_TOPIC_MAX}; shorten the name"
            )
        return topic

    def _channel(self, topic: str) -> Channel:
        kind, _, name = topic.removeprefix(f"{self.prefix}.").partition(".")
        return Channel(ChannelKind(kind), unescape(name))
