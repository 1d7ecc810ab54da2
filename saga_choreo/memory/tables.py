"""What a memory store holds, what one transaction wants to change of it, and who has locked what.

A transaction's changes stay in a `Draft` until it commits, so readers see committed data only, a rollback is forgetting
the draft, and a savepoint is a copy of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from saga_choreo.errors import StoreConflict
from saga_choreo.ports import BusinessKey, Held, Job, JobItem, Quarantined, Record, RecordKey

__all__ = ["Draft", "KeyName", "LockName", "Locks", "Place", "Tables"]

Place = tuple[str, UUID, str, int]
KeyName = tuple[str, str, str]
LockName = tuple[str, str]


def _records() -> dict[tuple[str, UUID], dict[RecordKey, Record]]:
    return {}


@dataclass(slots=True)
class Tables:
    """Committed data. Records are grouped by service and saga, the unit of claiming."""

    records: dict[tuple[str, UUID], dict[RecordKey, Record]] = field(default_factory=_records)
    keys: dict[KeyName, BusinessKey] = field(default_factory=dict[KeyName, BusinessKey])
    quarantined: dict[int, Quarantined] = field(default_factory=dict[int, Quarantined])
    held: dict[int, Held] = field(default_factory=dict[int, Held])
    counters: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    saga_locks: dict[LockName, UUID] = field(default_factory=dict[LockName, UUID])
    definitions: dict[str, bytes] = field(default_factory=dict[str, bytes])
    holders: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    lists: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict[str, list[tuple[Any, ...]]])
    jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    items: dict[str, dict[int, JobItem]] = field(default_factory=dict[str, "dict[int, JobItem]"])
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    notes: dict[str, str] = field(default_factory=dict[str, str])
    last_number: int = 0

    def next_number(self) -> int:
        self.last_number += 1
        return self.last_number

    def put(self, record: Record) -> None:
        self.records.setdefault((record.service, record.saga_id), {})[record.record_key] = record


@dataclass(slots=True)
class Draft:
    """What one transaction has written so far."""

    records: dict[Place, Record] = field(default_factory=dict[Place, Record])
    keys: dict[KeyName, BusinessKey] = field(default_factory=dict[KeyName, BusinessKey])
    quarantined: list[Quarantined] = field(default_factory=list[Quarantined])
    held: list[Held] = field(default_factory=list[Held])
    unhold: list[int] = field(default_factory=list[int])
    counters: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    lists: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list[tuple[str, tuple[Any, ...]]])
    # None: freed.
    saga_locks: dict[LockName, UUID | None] = field(default_factory=dict[LockName, "UUID | None"])

    def copy(self) -> Draft:
        return Draft(
            dict(self.records),
            dict(self.keys),
            list(self.quarantined),
            list(self.held),
            list(self.unhold),
            dict(self.counters),
            list(self.lists),
            dict(self.saga_locks),
        )


class Locks:
    """Row locks, held by a transaction until it ends, handed over in order of arrival.

    There is no clock here to bound a wait with, so a wait that would close a circle is refused instead (StoreConflict).
    """

    def __init__(self) -> None:
        self._owner: dict[Hashable, object] = {}
        self._queue: dict[Hashable, deque[tuple[object, asyncio.Future[None]]]] = {}
        self._waits_for: dict[object, Hashable] = {}

    async def take(self, owner: object, name: Hashable) -> None:
        holder = self._owner.setdefault(name, owner)
        if holder is owner:
            return
        self._refuse_circle(owner, holder, name)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (owner, turn)
        self._queue.setdefault(name, deque()).append(entry)
        self._waits_for[owner] = name
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._hand_over(name)  # it came in the very moment the wait was cancelled
            else:
                self._leave_queue(name, entry)
            raise
        finally:
            self._waits_for.pop(owner, None)

    def free(self, owner: object, names: set[Hashable]) -> None:
        """Give up these locks, and any place in a queue."""
        waiting = self._waits_for.pop(owner, None)
        for entry in tuple(self._queue.get(waiting, ())):
            if entry[0] is owner:
                self._leave_queue(waiting, entry)
        for name in sorted(names, key=repr):
            if self._owner.get(name) is owner:
                self._hand_over(name)

    def abandon(self, owners: set[object]) -> None:
        """Nobody of these will ever wake up: they leave every queue first, so that none is handed a lock of another; then all
        that is theirs is free, also what one of them was handed and had not noticed yet."""
        for owner in owners:
            self._waits_for.pop(owner, None)
        for queue in self._queue.values():
            for entry in tuple(queue):
                if entry[0] in owners:
                    queue.remove(entry)
        for name in sorted((name for name, owner in self._owner.items() if owner in owners), key=repr):
            self._hand_over(name)

    def _hand_over(self, name: Hashable) -> None:
        queue = self._queue.get(name)
        while queue:
            owner, turn = queue.popleft()
            if not turn.done():
                self._owner[name] = owner
                # Not only when the task goes on: until then it would seem to wait for itself, a circle that never ends.
                self._waits_for.pop(owner, None)
                turn.set_result(None)
                return
        self._queue.pop(name, None)
        self._owner.pop(name, None)

    def _leave_queue(self, name: Hashable, entry: tuple[object, asyncio.Future[None]]) -> None:
        queue = self._queue.get(name)
        if queue is not None and entry in queue:
            queue.remove(entry)

    def _refuse_circle(self, owner: object, holder: object, name: Hashable) -> None:
        seen = holder
        while (waits := self._waits_for.get(seen)) is not None:
            seen = self._owner.get(waits)
            if seen is owner:
                raise StoreConflict(
                    f"two transactions wait for each other over {name!r}; this one gives way: do the same work again"
                )
