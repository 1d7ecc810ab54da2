"""What a store tells of itself, for migration, checks, and for noticing that it went back in time. A store may do without.

An epoch is where a store's history has got to: the name of that history (`identity`: another one is another store, or one that was
failed over), and a position per service that an agent raises from time to time and tells everybody. A store whose position is lower
than what was told has lost commits: it was restored, or came up without its latest ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from uuid import UUID

from saga_choreo.ports.store import BusinessKey, SagaLock

__all__ = ["Epoch", "StoreState", "Upkeep"]


@dataclass(frozen=True, slots=True)
class Epoch:
    identity: str
    position: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """`version` is that of the tables (0: there are none), `wanted` what this code makes of them by the migrations in `pending`; a
    release that knows no version from `oldest` on is refused once those have run. `works`: this code can work with them as they
    are. `settings` decide about durability, as read back; `unsafe` are those of them with which a crash may undo what was
    confirmed. `identity` is empty while there are no tables. `findings`: what else somebody should look at, as (code, service, what
    it is about)."""

    name: str
    version: int
    wanted: int
    works: bool
    oldest: int = 1
    pending: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    unsafe: Mapping[str, str] = field(default_factory=dict[str, str])
    identity: str = ""
    findings: tuple[tuple[str, str, str], ...] = ()


@runtime_checkable
class Upkeep(Protocol):
    async def inspect(self) -> StoreState:
        """Look at a store that is not open, whatever its version and settings, and change nothing. Raises ConfigurationError,
        StoreUnavailable."""
        ...

    async def keys(self, before: UUID | None, limit: int) -> Sequence[BusinessKey]:
        """All business keys by descending saga id, below `before`."""
        ...

    async def locks(self, limit: int) -> Sequence[SagaLock]: ...

    async def epoch(self, service: str) -> Epoch:
        """Where the history is, as the store has it now."""
        ...

    async def advance(self, service: str, at_least: int = 0, note: str = "") -> Epoch:
        """Raise the position by one, and above `at_least`, in a durable commit. A `note` is kept with it: who accepted a store that
        went back, and why."""
        ...

    async def load(self, service: str, open_max: int, unannounced_max: int) -> tuple[int, int]:
        """How much is under way: sagas that the service started and that have not ended (of those, origin rows with a `due_ms`), and
        its records with `announced < version`; each is counted up to its bound only."""
        ...
