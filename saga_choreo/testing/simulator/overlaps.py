"""Calls of the same step at the same time: while an agent lives and its store answers, it keeps the lease of what it runs."""

from __future__ import annotations

from dataclasses import dataclass

from saga_choreo.model.record import RecordKey
from saga_choreo.testing.simulator.world import World
from saga_choreo.testing.virtual_loop import Life

__all__ = ["Overlaps"]

# After one of these a lease may not have been renewed in time.
_EXCUSES = frozenset({"store_error", "store_slow", "store_cut", "commit_refused", "commit_unknown"})


# So long a slow store may take for one answer.
_LAST_S = 5.0


@dataclass(slots=True, eq=False)
class _Call:
    key: RecordKey
    life: Life | None
    began_s: float


class Overlaps:
    """Of one world of real agents."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls: dict[RecordKey, list[_Call]] = {}

    def _has_excuse(self, since_s: float) -> bool:
        """Something kept leases from being renewed, or was just about to when the call began."""
        world, troubles = self._world, reversed(self._world.faults.happened)
        since_s -= _LAST_S  # what was claimed late is late from the beginning
        return world.cut_until_s > since_s or any(name in _EXCUSES and when > since_s for (name, _), when in troubles)

    def began(self, key: RecordKey) -> _Call:
        call = _Call(key, Life.current.get(), self._world.now_s())
        others = self._calls.setdefault(key, [])
        others[:] = [one for one in others if one.life is None or not one.life.is_over]
        if others:
            self._world.saw("two calls of a step at once")
        if any(not self._has_excuse(one.began_s) for one in others):
            self._world.broken("LEASE", f"step {key.step} of saga {str(key.saga_id)!r} calls out while its call before goes on")
        others.append(call)
        return call

    def ended(self, call: _Call) -> None:
        self._calls[call.key] = [one for one in self._calls[call.key] if one is not call]
