"""An asyncio event loop on virtual time: deterministic, and as fast as its callbacks.

Time moves only when nothing is ready, straight to the next timer. Which of the ready callbacks runs first is drawn from a seeded
stream; a task never has more than one step ready, so the order within a task stays as it is. There are no threads, sockets
or signals: whoever waits for one of those waits for ever, and is told so.

A killed process runs no cleanup: what belongs to a `Life` that is over is never called again, neither `except` nor `finally`.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

from saga_choreo.testing.simulator.streams import Stream

__all__ = ["Life", "NothingLeft", "VirtualClock", "VirtualLoop"]

# Some virtual time passes with every round, or a task that polls without sleeping would stop the clock.
_ROUND_S = 1e-6
_MADE_MAX = 4096


class NothingLeft(RuntimeError):
    """Every task waits for something that nobody will ever do."""


class Life:
    """One incarnation of a process. Tasks started inside `run_in` belong to it, with everything they start."""

    current: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_over = False

    def run_in(self, call: Callable[[], Any]) -> Any:
        context = contextvars.copy_context()
        context.run(Life.current.set, self)
        return context.run(call)


class _TimeSelector(selectors.BaseSelector):
    """Instead of waiting for a file, lets virtual time pass."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        raise NotImplementedError("there are no files in virtual time")

    unregister = register  # type: ignore[assignment]

    def get_map(self) -> Any:
        return {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("every task waits for something that nobody will ever do")
        self._loop.pass_time(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """`stream` decides who goes first; `on_time` hears of every change of the time (seconds)."""

    def __init__(self, stream: Stream, on_time: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._on_time = on_time
        self._now_s = 0.0
        self._selector = _TimeSelector(self)
        self.rounds = 0
        self._made: list[tuple[Life, asyncio.Task[Any]]] = []
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now_s

    def pass_time(self, seconds: float) -> None:
        self._now_s += seconds + _ROUND_S
        if self._on_time is not None:
            self._on_time(self._now_s)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
        life = Life.current.get()
        if life is not None:
            self._made.append((life, task))
            if len(self._made) > _MADE_MAX and self.rounds % _MADE_MAX == 0:
                self._made = [one for one in self._made if not one[1].done()]
        return task

    def open_tasks(self) -> list[asyncio.Task[Any]]:
        """Tasks of processes that have neither ended nor died with their process."""
        return [task for life, task in self._made if not task.done() and not life.is_over]

    def bury(self, life: Life) -> None:
        """The process is dead: none of its callbacks is ever called. Its tasks are kept, so that nothing cleans them up."""
        life.is_over = True
        waiting: tuple[Any, ...] = (*self._ready, *self._scheduled)  # type: ignore[attr-defined]  # all that may still be called
        for handle in waiting:
            if _is_dead(handle):
                handle.cancel()

    def call_soon(  # type: ignore[override]  # the stub's type variables cannot be written in Python 3.11
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        if _is_dead(handle):
            handle.cancel()
        return handle

    def call_at(  # type: ignore[override]  # the same
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        if _is_dead(handle):
            handle.cancel()
        return handle

    def _run_once(self) -> None:
        self.rounds += 1
        # BaseEventLoop gives what is ready no public name; this is the one place that orders it.
        ready = cast("deque[asyncio.Handle]", self._ready)  # type: ignore[attr-defined]
        if len(ready) > 1:
            ready.rotate(-self._stream.below(len(ready)))
        super()._run_once()  # type: ignore[misc]  # the scheduler of BaseEventLoop has no public name

    def _process_events(self, event_list: object) -> None:
        del event_list

    def _write_to_self(self) -> None:
        """Nobody else can have called: there is one thread."""

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end of `main`; tasks that belong to no process must have ended by then."""
        try:
            asyncio.set_event_loop(self)
            return self.run_until_complete(main)
        finally:
            asyncio.set_event_loop(None)
            for _, task in self._made:
                if not task.done():
                    _lay_to_rest(task)
            self.close()


def _lay_to_rest(task: asyncio.Task[Any]) -> None:
    """After everything: close what a killed process left, or the garbage collector complains about it at any later time."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # a killed process leaves its tasks pending
    coroutine: Any = task.get_coro()
    for _ in range(20):  # a `finally` that awaits wants to be asked again
        try:
            coroutine.close()
        except BaseException:  # noqa: BLE001, S112  nobody is left to hear of it
            continue
        return


def _is_dead(handle: Any) -> bool:
    life = handle._context.get(Life.current) if handle._context is not None else None
    return life is not None and life.is_over


class VirtualClock:
    """A `Clock` on a virtual loop; `skew_s` is how wrong its wall clock is."""

    def __init__(self, loop: VirtualLoop, stream: Stream, epoch_ns: int, skew_s: float = 0.0) -> None:
        self._loop = loop
        self._stream = stream
        self._epoch_ns = epoch_ns + int(skew_s * 1e9)

    def time_ns(self) -> int:
        return self._epoch_ns + int(self._loop.time() * 1e9)

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def chance(self) -> float:
        return self._stream.random()

    def entropy(self, size: int) -> bytes:
        return self._stream.entropy(size)
