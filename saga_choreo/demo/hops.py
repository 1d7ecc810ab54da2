"""How long a saga takes from one service to the next, by the publish times that the events carry. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Heard", "hops_ms", "percentile"]


@dataclass(frozen=True, slots=True)
class Heard:
    """One message as a reader without an agent sees it: a few of its headers."""

    saga_id: str
    word: str
    type: str
    step: str
    service: str
    reason: str
    at_ns: int


def hops_ms(heard: Iterable[Heard], events: Sequence[str]) -> list[float]:
    """The time from each of these events to the next, for every saga that published both. An event that was published more
    than once counts from its first time."""
    first: dict[tuple[str, str], int] = {}
    for one in heard:
        place = (one.saga_id, one.type)
        first[place] = min(one.at_ns, first.get(place, one.at_ns))
    sagas = dict.fromkeys(saga_id for saga_id, _ in first)
    return [
        (first[saga, after] - first[saga, before]) / 1e6
        for saga in sagas
        for before, after in pairwise(events)
        if (saga, before) in first and (saga, after) in first
    ]


def percentile(values: Iterable[float], percent: float) -> float:
    """By nearest rank; 0.0 of no values."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1] if ordered else 0.0
