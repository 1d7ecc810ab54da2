"""Time, randomness and sleeping as one port, so that a simulator can own all three."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    def time_ns(self) -> int:
        """Wall clock, Unix nanoseconds. Used for "when", never for "whether"."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]: ...

    def chance(self) -> float:
        """A random number in [0, 1): jitter."""
        ...

    def entropy(self, size: int) -> bytes:
        """Random bytes for ids."""
        ...
