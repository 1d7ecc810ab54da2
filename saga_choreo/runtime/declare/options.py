"""What is said of a step beside its structure: retries, time-outs, where it runs. Not in the hash."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from saga_choreo.model.breaker import Breaker
from saga_choreo.model.retry import Retry

__all__ = ["Duration", "LockNaming", "OnConflict", "StepOptions", "seconds_of"]

Duration = timedelta | float
# Makes a lock's name from the events a step gets; None: this time no lock is needed. Spelt out by number, and not as
# `Callable[..., ...]`, so that strict checkers know what a lambda's parameters are.
LockNaming = (
    Callable[[Any], str | None]
    | Callable[[], str | None]
    | Callable[[Any, Any], str | None]
    | Callable[[Any, Any, Any], str | None]
    | Callable[[Any, Any, Any, Any], str | None]
)
OnConflict = Literal["wait", "refuse"]

_RETRY = Retry()
# An undo has to succeed sooner or later: it is tried more often than the step before a person is asked.
_UNDO_RETRY = Retry(attempts=10)


def seconds_of(what: str, duration: Duration | None) -> float | None:
    """A duration in seconds. Raises ValueError when it is not longer than zero."""
    if duration is None:
        return None
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{what} is {duration!r}; give seconds or a timedelta longer than zero")
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """Everything about a step that the choreography's hash does not cover. What they mean to a user, `agent.step` says."""

    retry: Retry = _RETRY
    timeout_s: float | None = None
    undo_retry: Retry = _UNDO_RETRY
    deadline_s: float | None = None
    own_transaction: bool = False
    unsafe_external: bool = False
    on_park_continue: bool = False
    concurrency: int | None = None
    rate_per_s: float | None = None
    breaker: Breaker | None = None
    lock: LockNaming | None = None
    on_conflict: OnConflict = "wait"

    @property
    def is_limited(self) -> bool:
        return self.concurrency is not None or self.rate_per_s is not None or self.breaker is not None

    @property
    def is_guarded(self) -> bool:
        """Something may hold back what the step does."""
        return self.is_limited or self.lock is not None

    def __post_init__(self) -> None:
        self._check_policies()
        seconds_of("timeout_s", self.timeout_s)
        seconds_of("deadline_s", self.deadline_s)
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency!r}; at least 1 is needed")
        if self.rate_per_s is not None and not (math.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise ValueError(f"rate_per_s is {self.rate_per_s!r}; give a number above zero")
        if self.on_conflict not in ("wait", "refuse"):
            raise ValueError(f"on_conflict is {self.on_conflict!r}; give 'wait' or 'refuse'")
        if self.on_conflict == "refuse" and self.lock is None:
            raise ValueError("on_conflict='refuse' is said of a step without a lock; give lock=..., or leave it out")

    def _check_policies(self) -> None:
        """Not all callers run a type checker, and a wrong object would only be met at the first failure."""
        for what, policy in (("retry", self.retry), ("the compensation's retry", self.undo_retry)):
            if not isinstance(policy, Retry):  # pyright: ignore[reportUnnecessaryIsInstance]  (see above)
                raise ValueError(f"{what} is {policy!r}; give a Retry, such as Retry(attempts=5)")
        if self.breaker is not None and not isinstance(self.breaker, Breaker):  # pyright: ignore[reportUnnecessaryIsInstance]  (see above)
            raise ValueError(f"breaker is {self.breaker!r}; give a Breaker, such as Breaker(failures=5)")
        if self.lock is not None and not callable(self.lock):
            raise ValueError(f"lock is {self.lock!r}; give a function that makes a name from the step's events, or None")
