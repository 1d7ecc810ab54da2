"""Hops of a saga as a stranger on the broker sees them: from the time in one event's header to that in the next."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

__all__ = ["Hops", "quantile"]


class Hops:
    """`hear` is told of every event that is published, `began` of when a saga was meant to start."""

    def __init__(self) -> None:
        self._times: defaultdict[str, list[float]] = defaultdict(list)

    def began(self, saga: str, at_s: float) -> None:
        self._times[saga].append(at_s)

    def hear(self, saga: str, at_s: float) -> None:
        self._times[saga].append(at_s)

    def figures(self) -> dict[str, Any]:
        hops = sorted(
            1000 * (later - earlier) for times in map(sorted, self._times.values()) for earlier, later in itertools.pairwise(times)
        )
        return {"hops": len(hops), "hop_p50_ms": quantile(hops, 0.5), "hop_p99_ms": quantile(hops, 0.99)}


def quantile(ordered: list[float], part: float) -> float:
    """The smallest value that at least this part of all does not exceed."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 3)
