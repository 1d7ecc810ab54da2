"""The days of `saga_record`: which partitions there are, which are wanted, which are over. Pure.

A saga's id begins with the time of its start, so a UTC day is a range of ids. Bounds are written into statements as constants
(`on_day`), because the plan of a prepared statement is made once: with a constant it is about one partition, with a parameter it
is about all of them, and locks them all at each execution. A statement without them is right too, only slower.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from uuid import UUID

__all__ = [
    "DAY",
    "DAY_MS",
    "PARTITIONS_AHEAD",
    "Partition",
    "day_of",
    "missing",
    "ms_of",
    "name_of",
    "on_day",
    "over",
    "parsed",
    "start_of",
    "sweep_to",
]

DAY_MS = 86_400_000
# Enough for a long weekend without anybody who makes partitions; each is one more to look at for scans over all days.
PARTITIONS_AHEAD = 3
# In a statement: where it may be told that the saga it is about started on a certain day.
DAY = "/*day*/"
_EPOCH = date(1970, 1, 1)
_FIRST, _LAST = UUID(int=0), UUID(int=(1 << 128) - 1)
_MS_BITS = 80  # a UUIDv7 begins with 48 bits of milliseconds
_BOUNDS = re.compile(r"FOR VALUES FROM \('?([0-9a-f-]{36}|MINVALUE)'?\) TO \('?([0-9a-f-]{36}|MAXVALUE)'?\)")


@dataclass(frozen=True, slots=True)
class Partition:
    """Ids from `start` to below `end`. The one of all days before there were days starts at zero. The default one is none."""

    name: str
    start: UUID
    end: UUID

    def holds(self, saga_id: UUID) -> bool:
        return self.start <= saga_id < self.end


def ms_of(saga_id: UUID) -> int:
    """When the saga started, in milliseconds since 1970."""
    return saga_id.int >> _MS_BITS


def day_of(saga_id: UUID) -> int:
    """The same in days."""
    return (saga_id.int >> _MS_BITS) // DAY_MS


def start_of(day: int) -> UUID:
    """The lowest id of that day."""
    return UUID(int=min((day * DAY_MS) << _MS_BITS, _LAST.int))


def name_of(day: int) -> str:
    """Of its partition."""
    return f"saga_record_{_EPOCH + timedelta(days=day):%Y%m%d}"


@lru_cache(maxsize=1024)
def on_day(statement: str, day: int) -> str:
    """The same, for sagas that started on that day: always one and the same partition."""
    return statement.replace(DAY, f"AND saga_id >= '{start_of(day)}' AND saga_id < '{start_of(day + 1)}'")


def parsed(name: str, bounds: str) -> Partition | None:
    """From what PostgreSQL says of a partition's bounds; None for the default one."""
    found = _BOUNDS.fullmatch(bounds)
    if found is None:
        return None
    start, end = found.groups()
    return Partition(name, _FIRST if start == "MINVALUE" else UUID(start), _LAST if end == "MAXVALUE" else UUID(end))


def missing(partitions: Sequence[Partition], today: int) -> list[int]:
    """The days from today on that have no partition and should."""
    wanted = range(today, today + PARTITIONS_AHEAD + 1)
    return [day for day in wanted if not any(one.holds(start_of(day)) for one in partitions)]


def over(partitions: Iterable[Partition], before: UUID) -> list[Partition]:
    """All of whose sagas started before this id; the oldest first."""
    return sorted((one for one in partitions if one.end <= before), key=lambda one: one.end)


def sweep_to(partitions: Iterable[Partition], before: UUID) -> UUID:
    """Rows are deleted one by one below this id only: a day that is not over yet will be dropped as a whole."""
    days = [one.start for one in partitions if one.start != _FIRST and one.holds(before)]
    return days[0] if days else before
