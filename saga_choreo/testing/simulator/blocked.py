"""L7 for steps that hold up their transaction until the store ends it: they do so to a few others at most, and then alone."""

from __future__ import annotations

from saga_choreo.model.record import Record, RecordKey
from saga_choreo.testing.simulator.world import World

__all__ = ["Blocked"]

# Each may keep an agent from noting that the step goes on in the slow lane.
_EXCUSES = frozenset({"crash", "store_error", "store_slow", "commit_refused", "commit_unknown", "publish_refused"})


class Blocked:
    """Of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._times: dict[tuple[RecordKey, object], int] = {}
        self._excuses: dict[RecordKey, int] = {}

    def noted(self, record: Record, batch: object) -> None:
        """A run in a transaction shared with others was ended by the store. Out of a batch the step is run once more, in one of its own;
        where it was due (no `batch`), it goes on in the slow lane."""
        world, key = self._world, record.record_key
        world.saw("a step held up a shared transaction for too long")
        excuses = sum(name in _EXCUSES for (name, _), _ in world.faults.happened)
        if batch is None and excuses != self._excuses.get(key):
            self._times.pop((key, None), None)
            self._excuses[key] = excuses
        times = self._times[key, batch] = self._times.get((key, batch), 0) + 1
        if times > (1 if batch is None else 2):
            world.broken("L7", f"step {record.step} of saga {record.key} holds up the transaction of others for the {times}th time")
