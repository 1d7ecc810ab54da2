"""Calls of the same step at the same time: while an agent lives and its store answers, it keeps the lease of what it runs."""

from __future__ import annotations

from dataclasses import dataclass

from saga_choreo.model.record import RecordKey
from saga_choreo.testing.simulator.world import World
from saga_choreo.testing.virtual_loop import Life

__all__ = ["Overlaps"]

# After one of these a lease may not have been renewed in time.
_EXCUSES = frozenset({"store_error", "store_slow", "commit_refused", "commit_unknown"})


@dataclass(slots=True, eq=False)
class _Call:
    key: RecordKey
    life: Life | None
    excuses: int


class Overlaps:
    """Of one world of real agents."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls: dict[RecordKey, list[_Call]] = {}

    def _excuses(self) -> int:
        return sum(name in _EXCUSES for (name, _), _ in self._world.faults.happened)

    def began(self, key: RecordKey) -> _Call:
        call = _Call(key, Life.current.get(), self._excuses())
        others = self._calls.setdefault(key, [])
        others[:] = [one for one in others if one.life is None or not one.life.is_over]
        if any(one.excuses == call.excuses for one in others):
            self._world.broken("LEASE", f"step {key.step} of saga {str(key.saga_id)!r} calls out while its call before goes on")
        if others:
            self._world.saw("two calls of a step at once")
        others.append(call)
        return call

    def ended(self, call: _Call) -> None:
        self._calls[call.key] = [one for one in self._calls[call.key] if one is not call]
