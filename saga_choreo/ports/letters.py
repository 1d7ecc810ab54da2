"""What people do with dead letters, as two more ports of a store: `Letters` (quarantined messages), `Jobs` (replays as rows).

Parked steps need no port of their own: they are records. A job is a row that the service's agents carry out, and an item is one
letter in it, so a replay survives the death of the tool that asked for it and of the agent that does it. Columns are listed once,
for every SQL store: `COLUMNS` of a row are the fields of its class, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Protocol

from saga_choreo.ports.store import Held, Quarantined

__all__ = [
    "ITEM_COLUMNS",
    "JOB_COLUMNS",
    "LETTER_COLUMNS",
    "ItemState",
    "Job",
    "JobItem",
    "JobState",
    "Jobs",
    "LetterFilter",
    "Letters",
]


class JobState(StrEnum):
    """What people want of a job; whether it is over says `finished_ms`. STOPPED: too many of its letters failed again."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    DONE = "done"


class ItemState(StrEnum):
    """STAGED: not begun. RUNNING: said or applied, and not over. SKIPPED: there was nothing to replay any more."""

    STAGED = "staged"
    RUNNING = "running"
    RESOLVED = "resolved"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One replay of one service. `wanted` says in words which letters; `detail` why it stopped. `owner` is the agent that carries it
    out, until `lease_ms`. `version` grows by one at every change."""

    id: str
    service: str
    operator: str
    reason: str
    wanted: str = ""
    state: str = JobState.RUNNING
    detail: str = ""
    total: int = 0
    rate_per_min: int = 0
    in_flight_max: int = 16
    stop_percent: int = 20
    created_ms: int = 0
    changed_ms: int = 0
    finished_ms: int | None = None
    owner: str = ""
    lease_ms: int = 0
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobItem:
    """`letter` is its id, `verdict` what was foreseen, `detail` what came of it. `round` counts the words that people had said on a
    parked step when the item was staged; `tries` how often an agent has begun with it."""

    job: str
    place: int
    letter: str
    state: str = ItemState.STAGED
    verdict: str = ""
    detail: str = ""
    tries: int = 0
    round: int = 0
    changed_ms: int = 0


JOB_COLUMNS = tuple(field.name for field in fields(Job))
ITEM_COLUMNS = tuple(field.name for field in fields(JobItem))
LETTER_COLUMNS = tuple(field.name for field in fields(Quarantined))


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Which quarantined messages, newest first: empty fields match all. `before`: older numbers only, when paging."""

    service: str = ""
    state: str = ""
    saga_id: str = ""
    numbers: tuple[int, ...] = ()
    before: int | None = None
    limit: int = 500


class Letters(Protocol):
    """All methods may raise StoreUnavailable or StoreConflict (nothing was changed)."""

    async def letters(self, wanted: LetterFilter) -> Sequence[Quarantined]: ...

    async def waiting(self, service: str, limit: int) -> Sequence[Held]:
        """Held messages that were told of, oldest first."""
        ...

    async def add_letters(self, letters: Sequence[Quarantined]) -> int:
        """Insert those that are not there yet: the same service, time of receipt, channel, headers and body. Returns how many.
        Numbers are given anew."""
        ...

    async def move_letters(self, numbers: Sequence[int], of: str, to: str, operator: str, note: str, now_ms: int) -> int:
        """Change the state of those that are in state `of`. Returns how many."""
        ...

    async def tried_again(self, found: Sequence[tuple[int, str, str]], now_ms: int) -> None:
        """They were tried once more, and still cannot be applied: number, code and detail of each."""
        ...

    async def delete_letters(self, numbers: Sequence[int], of: str) -> int:
        """Delete those that are in state `of`. Returns how many."""
        ...


class Jobs(Protocol):
    """All methods may raise StoreUnavailable or StoreConflict (nothing was changed)."""

    async def add_job(self, job: Job, items: Sequence[JobItem]) -> None:
        """Job and items, in one commit."""
        ...

    async def jobs(self, service: str = "", *, id_: str = "", active: bool = False, limit: int = 50) -> Sequence[Job]:
        """Newest first; `active`: only those that are not finished."""
        ...

    async def save_job(self, job: Job) -> bool:
        """Write the job if its stored version is one less. Returns whether it was so."""
        ...

    async def items(self, job: str, states: Sequence[str] = (), *, after: int = -1, limit: int = 500) -> Sequence[JobItem]:
        """By place, beyond `after`."""
        ...

    async def item_counts(self, job: str) -> Mapping[str, int]:
        """How many items are in which state."""
        ...

    async def save_items(self, job: str, owner: str, items: Sequence[JobItem]) -> bool:
        """Write these items in one commit if the job still belongs to this owner. Returns whether it was so."""
        ...
