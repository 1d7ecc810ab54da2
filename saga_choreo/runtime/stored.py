"""Channels as text, as quarantined and held messages keep them."""

from __future__ import annotations

from saga_choreo.model.envelope import Channel, ChannelKind

__all__ = ["channel_from"]


def channel_from(text: str) -> Channel:
    """The channel that `str(channel)` came from."""
    kind, _, name = text.partition(".")
    return Channel(ChannelKind(kind), name)
