"""Time limits of several pieces of work in one task or a few, with one timer between them.

`asyncio.timeout` sets a timer and takes it back for each piece of work. A handler mostly ends long before its time, so that costs as much
as the decision on its answer. Here a timer that is set stays, and looks when it fires whether somebody is late.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["Budget", "Budgets"]

_LEAST_S = 0.001


class Budgets:
    """To be closed by who made it."""

    __slots__ = ("_at", "_running", "_timer")

    def __init__(self) -> None:
        self._running: set[Budget] = set()
        self._timer: asyncio.Handle | None = None
        self._at = 0.0

    def of(self, seconds: float | None) -> Budget:
        """What is done within `with budgets.of(...)` is cancelled after so many seconds, and TimeoutError is raised, as by
        `asyncio.timeout`; None is no limit."""
        return Budget(self, seconds)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def begin(self, budget: Budget, loop: asyncio.AbstractEventLoop) -> None:
        self._running.add(budget)
        if self._timer is None or budget.until < self._at:
            self._set(budget.until, loop)

    def end(self, budget: Budget) -> None:
        self._running.discard(budget)

    def _set(self, at: float, loop: asyncio.AbstractEventLoop) -> None:
        self.close()
        is_over = at <= loop.time()
        self._at, self._timer = at, loop.call_soon(self._look, loop) if is_over else loop.call_at(at, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for budget in [one for one in self._running if one.until <= now]:
            self._running.discard(budget)
            budget.run_out()
        if self._running:
            # A loop whose clock is coarser than a limit may look a little early, again and again.
            self._set(max(min(one.until for one in self._running), now + _LEAST_S), loop)


class Budget:
    """One limit. Not used twice."""

    __slots__ = ("_among", "_cancelling", "_seconds", "_task", "has_run_out", "until")

    def __init__(self, among: Budgets, seconds: float | None) -> None:
        self._among = among
        self._seconds = seconds
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.until = 0.0
        self.has_run_out = False

    def __enter__(self) -> Budget:
        if self._seconds is None:
            return self
        loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit is for a task; there is none here")
        self._cancelling = task.cancelling()
        self.until = loop.time() + self._seconds
        self._among.begin(self, loop)
        return self

    def run_out(self) -> None:
        self.has_run_out = True
        if self._task is not None:
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        self._among.end(self)
        # Somebody else may want the task to end as well: then it ends.
        if (
            self.has_run_out
            and self._task is not None
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error
