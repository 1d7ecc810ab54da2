"""An asyncio event loop on virtual time: deterministic, and as fast as its callbacks.

Time moves only when nothing is ready, straight to the next timer. Which of the ready tasks goes on is drawn from a seeded stream.
There are no threads, sockets or signals: whoever waits for one of those waits for ever, and is told so.

What asyncio does between two steps of tasks differs from one version of Python to the next: callbacks more or fewer, a future that is
done waited for or not. So callbacks run at once and cost no draw and no time, and a task that is ready again goes on.

A killed process runs no cleanup: what belongs to a `Life` that is over is never called again, neither `except` nor `finally`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any

from saga_choreo.testing.simulator.streams import Stream

__all__ = ["Life", "NothingLeft", "VirtualClock", "VirtualLoop"]

# Some virtual time passes with every round, or a task that polls without sleeping would stop the clock.
_ROUND_S = 1e-6
_MADE_MAX = 4096


# A task that is always ready lets others have their turn after so many steps.
_AGAIN_MAX = 20


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


_current_life = Life.current


class _Task(asyncio.Task[Any]):
    """`number` tells how many were made before it; the first has 1."""

    number: int = 0


class _Handle(asyncio.TimerHandle):
    """A callback that was asked for. Lighter than asyncio's own: nobody debugs it, and the loop compares times, not handles."""

    __slots__ = ("arguments", "call", "inside")

    def __init__(self, call: Callable[..., object], arguments: tuple[Any, ...], inside: contextvars.Context, when: float) -> None:
        self.call = call
        self.arguments = arguments
        self.inside = inside
        self._when = when
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def __repr__(self) -> str:
        return f"<{self.call!r} at {self._when:.6f} s>"


class VirtualLoop(asyncio.BaseEventLoop):
    """`stream` decides who goes first; `on_time` hears of every change of the time (seconds). Of callbacks that are due at the same
    time, the one asked for first is ready first."""

    def __init__(self, stream: Stream, on_time: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._on_time = on_time
        self._now_s = 0.0
        self._soon: deque[_Handle] = deque()
        # The next step of each task that is ready, by the task's number.
        self._steps: dict[int, _Handle] = {}
        self._timers: list[tuple[float, int, _Handle]] = []
        self._timed = 0
        self.rounds = 0
        self._tasks = 0
        self._made: list[tuple[Life, asyncio.Task[Any]]] = []
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now_s

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = _Task(coro, loop=loop, **kwargs)
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

    def call_soon(  # type: ignore[override]  # the stub's type variables cannot be written in Python 3.11
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, contextvars.copy_context() if context is None else context, self._now_s)
        task = getattr(callback, "__self__", None)
        if isinstance(task, _Task):
            if not task.number:  # it is just being made
                task.number = self._tasks = self._tasks + 1
            self._steps[task.number] = handle
        else:
            self._soon.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # the same
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = _Handle(callback, args, contextvars.copy_context() if context is None else context, when)
        self._timed += 1
        heappush(self._timers, (when, self._timed, handle))
        return handle

    def call_later(  # type: ignore[override]  # the same
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Steps until somebody says stop. `BaseEventLoop.run_forever` calls this, and gives it no public name."""
        soon, steps = self._soon, self._steps
        task = again = 0
        while not self._stopping:  # type: ignore[attr-defined]  # set by `stop`
            if soon:
                self._call(soon.popleft())
            elif task in steps and again < _AGAIN_MAX:
                again += 1
                self._call(steps.pop(task))
            elif self._pass_time():
                task, again = self._pick(), 0
                self._call(steps.pop(task))

    def _call(self, handle: _Handle) -> None:
        if handle._cancelled:
            return
        inside = handle.inside
        life = inside.get(_current_life)
        if life is not None and life.is_over:
            return
        try:
            inside.run(handle.call, *handle.arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  as asyncio does: a callback that fails ends nobody else
            self.call_exception_handler({"message": f"exception in {handle!r}", "exception": error, "handle": handle})

    def _pick(self) -> int:
        """By the order in which tasks were made, not that in which they became ready."""
        if len(self._steps) == 1:
            return next(iter(self._steps))
        return sorted(self._steps)[self._stream.below(len(self._steps))]

    def _pass_time(self) -> bool:
        """A little if some task is ready, else up to the next timer. Returns whether a task can go on: not if a timer comes first."""
        soon, timers = self._soon, self._timers
        if not self._steps:
            while timers and _is_over(timers[0][2]):
                heappop(timers)
            if not timers:
                raise NothingLeft("every task waits for something that nobody will ever do")
            self._now_s = max(self._now_s, timers[0][0])
        self._now_s = now_s = self._now_s + _ROUND_S
        self.rounds += 1
        if self._on_time is not None:
            self._on_time(now_s)
        while timers and timers[0][0] < now_s:
            soon.append(heappop(timers)[2])
        return not soon

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


def _is_over(handle: _Handle) -> bool:
    """Cancelled, or of a process that is dead."""
    if handle.cancelled():
        return True
    life = handle.inside.get(_current_life)
    return life is not None and life.is_over


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


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
        """No time at all lets others have their turn as well."""
        over = self._loop.create_future()
        timer = self._loop.call_later(max(seconds, 0.0), _end, over)
        try:
            await over
        finally:
            timer.cancel()

    def chance(self) -> float:
        return self._stream.random()

    def entropy(self, size: int) -> bytes:
        return self._stream.entropy(size)
