"""Values as a store keeps them: channels as text, and text from outside that every database takes."""

from __future__ import annotations

from saga_choreo.model.envelope import Channel, ChannelKind

__all__ = ["channel_from", "storable"]

# What is for people to read is cut here: it is in every copy of the record.
_CHARS_MAX = 2000


def channel_from(text: str) -> Channel:
    """The channel that `str(channel)` came from."""
    kind, _, name = text.partition(".")
    return Channel(ChannelKind(kind), name)


def storable(text: object) -> str:
    """Text of a person or of an exception, without what some database refuses: half surrogates (a file name that is not UTF-8
    has them) and NUL. Refused text would make a failed attempt an error of the store, which nothing counts."""
    return str(text)[:_CHARS_MAX].encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
