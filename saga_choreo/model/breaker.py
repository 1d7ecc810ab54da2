"""Circuit breaker of a step: when to stop calling what keeps failing, and how to find out that it works again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Breaker", "BreakerState"]

# The times of so many failures are remembered: more are no better reason to open.
_FAILURES_MAX = 1000


class BreakerState(StrEnum):
    """CLOSED: everything runs. OPEN: nothing does. HALF_OPEN: exactly one call finds out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """Opens after `failures` technical failures (time-outs too, a Reject is none) within `window_s`. After `open_s` one call is
    let through: if it works the breaker closes, if it fails the breaker opens for twice as long, up to `open_max_s`."""

    failures: int = 5
    window_s: float = 60.0
    open_s: float = 30.0
    open_max_s: float = 600.0

    def __post_init__(self) -> None:
        if not 1 <= self.failures <= _FAILURES_MAX:
            raise ValueError(f"a breaker opens after {self.failures!r} failures; give a number from 1 to {_FAILURES_MAX}")
        for name, seconds in (("window_s", self.window_s), ("open_s", self.open_s), ("open_max_s", self.open_max_s)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"a breaker's {name} is {seconds!r}; give seconds above zero")
        if self.open_max_s < self.open_s:
            raise ValueError(f"a breaker's open_max_s ({self.open_max_s!r}) is below its open_s ({self.open_s!r}); raise it")
