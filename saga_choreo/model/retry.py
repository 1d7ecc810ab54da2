"""Retry policy of a step: when to try again after a technical failure, and what to do when that does not help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Backoff", "OnExhausted", "Retry"]


class Backoff(StrEnum):
    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"


class OnExhausted(StrEnum):
    """What happens after the last attempt: the step waits for a person, or refuses (the saga is undone)."""

    PARK = "park"
    VETO = "veto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """`attempts` in all (the first one included); delays in seconds. Exponential delays use full jitter
    (a uniform share of the doubled delay, as described in the AWS architecture blog's "Exponential Backoff And Jitter").
    """

    attempts: int = 5
    backoff: Backoff = Backoff.EXPONENTIAL
    delay_s: float = 0.2
    delay_max_s: float = 60.0
    jitter: bool = True
    on_exhausted: OnExhausted = OnExhausted.PARK

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"retry allows {self.attempts!r} attempts; at least 1 is needed")
        if self.delay_s < 0 or self.delay_max_s < self.delay_s:
            raise ValueError(
                f"retry delays {self.delay_s!r} s to {self.delay_max_s!r} s are not a range; give 0 <= delay_s <= delay_max_s"
            )

    def is_exhausted(self, attempt: int) -> bool:
        return attempt >= self.attempts

    def delay_after(self, attempt: int, chance: float) -> float:
        """Seconds to wait after the given attempt (1 is the first); `chance` is a random number in [0, 1)."""
        match self.backoff:
            case Backoff.FIXED:
                delay = self.delay_s
            case Backoff.LINEAR:
                delay = self.delay_s * attempt
            case Backoff.EXPONENTIAL:
                # Capped before the power: 2**attempt of a long-retried step would overflow a float.
                delay = self.delay_s * float(1 << min(attempt - 1, 40))
        delay = min(delay, self.delay_max_s)
        return delay * chance if self.jitter and self.backoff is Backoff.EXPONENTIAL else delay
