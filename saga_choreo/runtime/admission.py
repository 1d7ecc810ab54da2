"""Whether one more saga may be started: a service that cannot keep up, or cannot reach its broker, says so at its door, where the
caller can wait or turn a customer away, instead of piling up what it will not get done.

Counted in the store, so that all processes of a service count together; looked up now and then, and what this process starts in
between is taken off. So several processes together may overshoot a limit by what they start between two looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from saga_choreo.errors import Overloaded
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.upkeep import Upkeep
from saga_choreo.runtime.timing import Limits

__all__ = ["Admission"]

# How long a look is good for: far from the limits, and near them.
_FAR_S, _NEAR_S = 60.0, 5.0
# Between two looks, however much is asked; and a look that took long is followed by a pause so many times as long.
_PAUSE_S, _SHARE = 0.05, 20.0


class Admission:
    """Of a store that cannot say how much is under way, everything is admitted."""

    def __init__(self, service: str, store: object, clock: Clock, limits: Limits) -> None:
        self._service = service
        self._store = store if isinstance(store, Upkeep) else None
        self._clock = clock
        self._limits = limits
        self._looking = asyncio.Lock()
        self._room = 1
        self._why = ""
        self._good_until = self._pause_until = float("-inf")

    async def require(self) -> None:
        """Admit one start. Raises Overloaded, and what the store raises."""
        if self._is_to_look():
            await self._look()
        self._take()

    def require_soon(self, soon: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]) -> None:
        """The same, by what is known: for a start inside the caller's own transaction, beside which the store may have no second
        connection. Where a look is needed, `soon` does it afterwards. Raises Overloaded."""
        if self._is_to_look():
            soon(self._look)
            if not self._why:
                return
        self._take()

    def _is_to_look(self) -> bool:
        now = self._clock.monotonic()
        return self._store is not None and now >= self._pause_until and (self._room <= 0 or now >= self._good_until)

    def _take(self) -> None:
        if self._store is None:
            return
        if self._room <= 0:
            raise Overloaded(self._why)
        self._room -= 1

    async def _look(self) -> None:
        """Callers that come together look once."""
        async with self._looking:
            if self._store is None or not self._is_to_look():
                return
            began, limits = self._clock.monotonic(), self._limits
            open_, unannounced = await self._store.load(self._service, limits.open_sagas_max, limits.unannounced_max)
            self._room = limits.open_sagas_max - open_
            self._why = (
                f"service {self._service!r} has as many sagas open as Limits.open_sagas_max allows ({limits.open_sagas_max}), so no other "
                "is started; start it again when some have ended"
            )
            if unannounced >= limits.unannounced_max:
                self._room = 0
                self._why = (
                    f"service {self._service!r} has as many records to publish as Limits.unannounced_max allows ({unannounced}), so no other "
                    "saga is started; start it again when the broker takes them"
                )
            now = self._clock.monotonic()
            self._pause_until = now + max(_PAUSE_S, _SHARE * (now - began))
            is_near = 2 * open_ > limits.open_sagas_max or 2 * unannounced > limits.unannounced_max
            self._good_until = now + (_NEAR_S if is_near else _FAR_S)
