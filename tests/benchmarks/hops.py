"""Hops of a saga as a stranger on the broker sees them: from the time in one event's header to that in the next."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Any

__all__ = ["Hops", "quantile"]


class Hops:
    """`hear` is told of every event that is published, `began` of when a saga was meant to start."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._heard: defaultdict[str, dict[str, float]] = defaultdict(dict)

    def began(self, saga: str, at_s: float) -> None:
        """The first hop counts from here, not from when the first event was published: a start that had to wait is part of it."""
        self._began[saga] = at_s

    def hear(self, saga: str, event: str, at_s: float) -> None:
        """An event that is published once more, as a repetition, is no hop: its first time counts."""
        times = self._heard[saga]
        times[event] = min(at_s, times.get(event, math.inf))

    def figures(self) -> dict[str, Any]:
        hops = sorted(
            1000 * (later - earlier)
            for saga, heard in self._heard.items()
            for earlier, later in itertools.pairwise(self._times(saga, heard))
        )
        return {"hops": len(hops), "hop_p50_ms": quantile(hops, 0.5), "hop_p99_ms": quantile(hops, 0.99)}

    def _times(self, saga: str, heard: dict[str, float]) -> list[float]:
        first, *later = sorted(heard.values())
        return [self._began.get(saga, first), *later]


def quantile(ordered: list[float], part: float) -> float:
    """The smallest value that at least this part of all does not exceed."""
    if not ordered:
        return 0.0
    return round(ordered[max(0, math.ceil(part * len(ordered)) - 1)], 3)
