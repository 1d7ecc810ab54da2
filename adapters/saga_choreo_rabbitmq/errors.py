"""What can go wrong below the port. `broker` and `link` turn these into the toolkit's own errors."""

from __future__ import annotations

__all__ = ["Closed", "Unwritable", "WireError"]


class WireError(Exception):
    """The connection is gone, or was never there: what was in flight is unknown."""


class Closed(WireError):
    """The server closed a channel or the connection, with AMQP's code and its own words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})" if text else f"closed by the server ({code})")
        self.code = code
        self.text = text


class Unwritable(ValueError):
    """A message that AMQP cannot carry."""
