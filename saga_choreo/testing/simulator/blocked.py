"""L7 for steps that hold up their transaction until the store ends it: they do so to a few others at most, and then alone."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from saga_choreo.model.record import Record, RecordKey
from saga_choreo.model.states import State
from saga_choreo.testing.simulator.world import World

__all__ = ["Blocked"]

# Each may keep an agent from noting that the step goes on in the slow lane.
_EXCUSES = frozenset({"crash", "store_error", "store_slow", "commit_refused", "commit_unknown", "publish_refused"})
_TOO_OFTEN = "delivered too often for the fast lane"
_DUE = frozenset({State.WAITING, State.DONE})


class Blocked:
    """Of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._times: dict[tuple[RecordKey, object], int] = {}
        self._excuses: dict[tuple[RecordKey, object], int] = {}
        # How often each will do so again, and the sagas in which any ever did.
        self._left: dict[RecordKey, int] = {}
        self._known: set[UUID] = set()

    def hits(self, record: Record) -> bool:
        """Whether the store ends the transaction in which this has just run. One that holds it up once does so a few times."""
        key, left = record.record_key, self._left.get(record.record_key, 0)
        bad = self._world.hit("too_long")
        if self._world.faults.is_healed or (bad is None and not left):
            return False
        self._left[key] = left - 1 if left else int((bad or 0.0) * 4)
        self._known.add(key.saga_id)
        return True

    def saved(self, records: Iterable[Record]) -> None:
        """With news, by a run whose message has not come often. Nothing else goes to the slow lane for what it had no part in."""
        for record in records:
            if record.error == _TOO_OFTEN and record.row.state in _DUE and record.saga_id not in self._known:
                self._world.broken("L7", f"step {record.step} of saga {record.key} goes to the slow lane for what others have done")

    def settled(self, claimed: Record, now: Record | None) -> None:
        """The run of an attempt that the store has ended is over: it counts as a failure, and is not left to its lease."""
        # A person's retry begins to count attempts anew.
        if now is not None and now.lease_ms is not None and _which(now) == _which(claimed):
            self._world.broken(
                "L4", f"attempt {now.row.attempt} of step {now.step} of saga {now.key} has failed, and is not settled"
            )

    def noted(self, record: Record, by: object) -> None:
        """A run in a transaction shared with others was ended by the store. Out of a batch (`by`) the step is run once more, in one of its
        own; where a record was due (`by` is its name), it goes on in the slow lane."""
        world, key = self._world, record.record_key
        world.saw("a step held up a shared transaction for too long")
        excuses = sum(name in _EXCUSES for (name, _), _ in world.faults.happened)
        if isinstance(by, str) and excuses != self._excuses.get((key, by)):
            self._times.pop((key, by), None)
            self._excuses[key, by] = excuses
        times = self._times[key, by] = self._times.get((key, by), 0) + 1
        if times > (1 if isinstance(by, str) else 2):
            world.broken("L7", f"step {record.step} of saga {record.key} holds up the transaction of others for the {times}th time")


def _which(record: Record) -> tuple[State, int, int, int | None]:
    """Which attempt of which of the record's tasks."""
    return record.row.state, record.row.attempt, record.row.key_no, record.tried_since_ms
