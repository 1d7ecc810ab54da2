"""The load: places the orders, at most so many at a time, and waits for the end of each.

Chaos paces it: orders are placed up to a mark that can be raised, so that some are left for the next blow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from saga_choreo.demo.story import Example, Order
from saga_choreo.demo.wire import Wire
from saga_choreo.errors import SagaError, WaitTimeout
from saga_choreo.model.states import SagaState

__all__ = ["Load"]

# Enough to keep four services busy at once; latency stays that of a system under load, not of a queue.
_IN_FLIGHT_MAX = 64
# The outcome is heard at once; should it be missed, the store is asked this often.
_LOOK_S = 2.0
_TRIES = 20
_TRY_AGAIN_S = 0.25


class Load:
    """`order_of` and `states` by saga id, filled as sagas start and end."""

    def __init__(self, example: Example, wire: Wire, orders: Sequence[Order]) -> None:
        self.example = example
        self._wire = wire
        self._orders = orders
        self._slots = asyncio.Semaphore(_IN_FLIGHT_MAX)
        self._allowed = 0
        self._raised = asyncio.Event()
        self.order_of: dict[str, Order] = {}
        self.states: dict[str, str] = {}

    @property
    def total(self) -> int:
        return len(self._orders)

    @property
    def under_way(self) -> int:
        return len(self.order_of) - len(self.states)

    @property
    def is_fed(self) -> bool:
        """Everything that may be placed now is placed, or the limit of sagas in flight is reached."""
        return len(self.order_of) >= self._allowed or self.under_way >= _IN_FLIGHT_MAX

    @property
    def is_idle(self) -> bool:
        """Everything that may be placed now has ended."""
        return len(self.states) >= self._allowed

    @property
    def is_done(self) -> bool:
        return len(self.states) == self.total

    def allow(self, up_to: int) -> None:
        """Place orders up to this number; a mark is never lowered."""
        self._allowed = min(max(up_to, self._allowed), self.total)
        self._raised.set()

    def allow_more(self, orders: int) -> bool:
        """False when there are no more."""
        if self._allowed >= self.total:
            return False
        self.allow(self._allowed + orders)
        return True

    async def run(self) -> None:
        """Returns when all sagas have ended."""
        async with asyncio.TaskGroup() as group:
            for number, order in enumerate(self._orders):
                while number >= self._allowed:
                    self._raised.clear()
                    await self._raised.wait()
                await self._slots.acquire()
                group.create_task(self._one(order))

    async def _one(self, order: Order) -> None:
        try:
            handle = await self._placed(order)
            saga_id = str(handle.saga_id)
            self.order_of[saga_id] = order
            self.states[saga_id] = str(await self._end_of(handle, saga_id))
        finally:
            self._slots.release()

    async def _placed(self, order: Order) -> Any:
        """The order's key makes it safe to try again: the same key gives the same saga."""
        for left in range(_TRIES, 0, -1):
            try:
                return await self.example.place(order)
            except SagaError as error:
                if not error.retryable or left == 1:
                    raise
            await asyncio.sleep(_TRY_AGAIN_S)
        raise AssertionError("the last try returns or raises")

    async def _end_of(self, handle: Any, saga_id: str) -> SagaState:
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wire.ended(saga_id).wait()
            except TimeoutError:
                pass
            try:
                state: SagaState = await handle.wait(_LOOK_S)
            except WaitTimeout:
                continue
            return state
