"""Retry policy of a step: when to try again after a technical failure, and what to do when that does not help.

One policy speaks for all errors, and others may speak for some classes of them (`on`). Attempts and time are counted for the
step, whatever it failed with; the policy of the latest error judges them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from saga_choreo.errors import Reject

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
    """`attempts` in all (the first one included), or None for no limit; delays in seconds. Exponential delays use full jitter
    (a uniform share of the doubled delay, as described in the AWS architecture blog's "Exponential Backoff And Jitter").

    `max_time_s` counts from the beginning of the first attempt; the last attempt is made when it is over. Whichever of the two
    limits comes first ends it. `on` has other policies for classes of errors: the closest class in the error's MRO counts, and
    a time-out of the step is a TimeoutError. A policy inside `on` has no `on` of its own.

        Retry(attempts=5, on={ConnectionError: Retry.forever(max_time_s=3600), ValueError: Retry.never()})
    """

    attempts: int | None = 5
    backoff: Backoff = Backoff.EXPONENTIAL
    delay_s: float = 0.2
    delay_max_s: float = 60.0
    jitter: bool = True
    on_exhausted: OnExhausted = OnExhausted.PARK
    max_time_s: float | None = None
    on: Mapping[type[Exception], Retry] = field(default_factory=dict["type[Exception]", "Retry"], hash=False)

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"retry allows {self.attempts!r} attempts; at least 1 is needed, or None for no limit")
        if self.delay_s < 0 or self.delay_max_s < self.delay_s:
            raise ValueError(
                f"retry delays {self.delay_s!r} s to {self.delay_max_s!r} s are not a range; give 0 <= delay_s <= delay_max_s"
            )
        if self.max_time_s is not None and not (math.isfinite(self.max_time_s) and self.max_time_s > 0):
            raise ValueError(f"retry's max_time_s is {self.max_time_s!r}; give seconds above zero, or None for no limit")
        for kind, policy in self.on.items():
            _check_special(kind, policy)
        object.__setattr__(self, "on", MappingProxyType(dict(self.on)))

    @staticmethod
    def never(on_exhausted: OnExhausted = OnExhausted.PARK) -> Retry:
        """One attempt, and no other."""
        return Retry(attempts=1, on_exhausted=on_exhausted)

    @staticmethod
    def forever(*, delay_s: float = 0.2, delay_max_s: float = 60.0, max_time_s: float | None = None) -> Retry:
        """As often as it takes, or as long as `max_time_s`, with growing delays."""
        return Retry(attempts=None, delay_s=delay_s, delay_max_s=delay_max_s, max_time_s=max_time_s)

    def of(self, kind: type[BaseException]) -> Retry:
        """The policy for errors of this class: that of its closest ancestor in `on`, or this one."""
        for cls in kind.__mro__ if self.on else ():
            policy = self.on.get(cls)
            if policy is not None:
                return policy
        return self

    def is_exhausted(self, attempt: int, elapsed_s: float = 0.0) -> bool:
        """Whether this attempt was the last, `elapsed_s` after the first one began."""
        if self.attempts is not None and attempt >= self.attempts:
            return True
        return self.max_time_s is not None and elapsed_s >= self.max_time_s

    def is_used_up(self, attempt: int, elapsed_s: float) -> bool:
        """The same under every policy here: for attempts that died without saying of which error."""
        return all(policy.is_exhausted(attempt, elapsed_s) for policy in (self, *self.on.values()))

    def delay_after(self, attempt: int, chance: float, elapsed_s: float = 0.0) -> float:
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
        delay = delay * chance if self.jitter and self.backoff is Backoff.EXPONENTIAL else delay
        return delay if self.max_time_s is None else max(0.0, min(delay, self.max_time_s - elapsed_s))


def _check_special(kind: object, policy: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise ValueError(f"retry has a policy for {kind!r}, which is no exception class; use classes such as TimeoutError as keys")
    if issubclass(kind, Reject):
        raise ValueError("retry has a policy for Reject, which is an answer and no failure: a step that raises it is not retried")
    if not isinstance(policy, Retry):
        raise ValueError(f"retry's policy for {kind.__name__!r} is {policy!r}; give a Retry, such as Retry.never()")
    if policy.on:
        raise ValueError(f"retry's policy for {kind.__name__!r} has policies of its own; name those classes beside it")
