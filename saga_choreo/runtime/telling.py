"""`on_outcome` callbacks: how a saga ended, told at least once to the application's own code."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from saga_choreo.core.states import end_state
from saga_choreo.errors import DefinitionError
from saga_choreo.model.record import Row
from saga_choreo.model.states import Outcome, SagaState
from saga_choreo.runtime.attempt import is_cancelled
from saga_choreo.runtime.declare.hints import name_of
from saga_choreo.runtime.declare.step import check_async
from saga_choreo.runtime.operations import Ending

__all__ = ["OnOutcome", "SagaOutcome", "Telling", "Watched", "check_callback"]

_log = logging.getLogger("saga_choreo.agent")
_OPEN = Outcome.OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaOutcome:
    """How a saga ended, for `on_outcome` callbacks."""

    saga_id: UUID
    key: str
    choreography: str
    origin: str
    state: SagaState
    reason: str


class Watched:
    """The end of one saga, once this process has recorded it."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.state: SagaState | None = None

    def see(self, row: Row) -> None:
        if row.outcome is not _OPEN:
            self.state = end_state(row.outcome, row.cause)
            self.heard.set()


OnOutcome = Callable[[SagaOutcome], Awaitable[None]]


def check_callback(callback: OnOutcome) -> None:
    """Raises DefinitionError for a function that could not be called, and awaited, when the first saga ends."""
    if inspect.isfunction(callback) or inspect.ismethod(callback):
        check_async("on_outcome", callback)
        try:
            inspect.signature(callback).bind(None)
        except TypeError as exc:
            raise DefinitionError(
                f"on_outcome {name_of(callback)} cannot take one argument ({exc}); give it one, a SagaOutcome"
            ) from exc


class Telling:
    """`time_left_s` says how long the agent may still take for anything: callbacks share it once it stops."""

    def __init__(self, callbacks: Sequence[OnOutcome], timeout_s: float, time_left_s: Callable[[], float]) -> None:
        self._callbacks = tuple(callbacks)
        self._timeout_s = timeout_s
        self._time_left_s = time_left_s

    async def tell(self, endings: Sequence[Ending]) -> frozenset[UUID]:
        """Call the callbacks. Returns the sagas of which one has to be told again."""
        untold: set[UUID] = set()
        for ending in endings if self._callbacks else ():
            record = ending.record
            told = SagaOutcome(
                saga_id=record.saga_id,
                key=record.key,
                choreography=record.choreography,
                origin=record.origin,
                state=end_state(ending.outcome, ending.cause),
                reason=ending.reason,
            )
            for callback in self._callbacks:
                if not await self._call(callback, told):
                    untold.add(record.saga_id)
        return frozenset(untold)

    async def _call(self, callback: OnOutcome, told: SagaOutcome) -> bool:
        left_s = self._time_left_s()
        if left_s <= 0:  # the agent stops, and the ends it could not tell go to whoever comes next
            return False
        try:
            async with asyncio.timeout(min(self._timeout_s, left_s)):
                await callback(told)
        except (Exception, asyncio.CancelledError):
            if is_cancelled():
                raise
            _log.exception("on_outcome %r failed for saga %s and will be called again", callback, told.saga_id)
            return False
        return True
