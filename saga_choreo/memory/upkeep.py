"""What the memory store tells of itself: it has no versions, and its history is that of the process."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from saga_choreo.memory.tables import Tables
from saga_choreo.ports import ORIGIN, BusinessKey, Epoch, SagaLock, StoreState

__all__ = ["MemoryUpkeep"]


class MemoryUpkeep:
    def _committed(self) -> Tables:
        raise NotImplementedError

    async def inspect(self) -> StoreState:
        return StoreState(name="memory", version=1, wanted=1, works=True, settings={"kept": "as long as the process"})

    async def keys(self, before: UUID | None, limit: int) -> Sequence[BusinessKey]:
        found = (key for key in self._committed().keys.values() if before is None or key.saga_id < before)
        return sorted(found, key=lambda key: key.saga_id, reverse=True)[:limit]

    async def locks(self, limit: int) -> Sequence[SagaLock]:
        held = sorted(self._committed().saga_locks.items())[:limit]
        return [SagaLock(service=service, name=name, saga_id=saga_id) for (service, name), saga_id in held]

    async def epoch(self, service: str) -> Epoch:
        return Epoch("memory", self._committed().epochs.get(service, 0), self._committed().notes.get(service, ""))

    async def advance(self, service: str, at_least: int = 0, note: str = "") -> Epoch:
        tables = self._committed()
        tables.epochs[service] = max(tables.epochs.get(service, 0), at_least) + 1
        if note:
            tables.notes[service] = note
        return await self.epoch(service)

    async def load(self, service: str, open_max: int, unannounced_max: int) -> tuple[int, int]:
        records = [r for (owner, _), rows in self._committed().records.items() if owner == service for r in rows.values()]
        open_ = sum(r.step == ORIGIN and r.due_ms is not None for r in records)
        return min(open_, open_max), min(sum(r.announced < r.version for r in records), unannounced_max)
