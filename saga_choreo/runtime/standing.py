"""How a service stands, looked up in its store now and then, so that health can be told from memory: what waits for a person, and
what has been due for longest."""

from __future__ import annotations

import logging

from saga_choreo.errors import SagaError
from saga_choreo.model.states import Parked
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import SagaFilter
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["PARKED_MAX", "Standing"]

_log = logging.getLogger("saga_choreo.agent")
# Sagas with parked steps that are counted; whoever has more needs no exact number.
PARKED_MAX = 200


class Standing:
    """`parked` steps of this service (counted in at most 200 sagas); `waiting_s`: for how long the longest waiting record has been
    due, when it was looked."""

    def __init__(self, service: str, store: WholeStore, clock: Clock, every_s: float) -> None:
        self._every_s = every_s
        self._service = service
        self._store = store
        self._clock = clock
        self.parked = 0
        self.waiting_s = 0.0

    async def look_for_ever(self) -> None:
        while True:
            try:
                await self.look()
            except SagaError as error:
                _log.debug("how the service stands could not be looked up: %s", error)
            await self._clock.sleep(self._every_s * (0.75 + 0.5 * self._clock.chance()))

    async def look(self) -> None:
        groups = await self._store.sagas(SagaFilter(service=self._service, parked=True, limit=PARKED_MAX))
        self.parked = sum(record.row.parked is not Parked.NO for group in groups for record in group)
        due_ms = await self._store.next_due_ms(self._service)
        now_ms = self._clock.time_ns() // 1_000_000
        self.waiting_s = 0.0 if due_ms is None else max(now_ms - due_ms, 0) / 1000
