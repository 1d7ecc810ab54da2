"""What is put around an agent's real broker, store and clock, inside its process, to hurt it at a chosen point."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from saga_choreo.ports import Broker, Delivery, Outgoing
from saga_choreo.runtime.clock import SystemClock

__all__ = ["Boundaries", "Copying", "ShiftedClock", "Shuffling"]


class Boundaries:
    """Counts the calls of broker and store: each is a point before and a point after. Dies at the n-th, or stops there until it is
    continued; says how many there were."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._dies_at = int(environ.get("CHAOS_DIES_AT", "0"))
        self._dies_before = environ.get("CHAOS_DIES_BEFORE", "")
        self._count_in = environ.get("CHAOS_COUNT_IN", "")
        self._stops_at = 0
        self._passed = 0
        if stops_in := environ.get("CHAOS_STOPS_AT", ""):
            signal.signal(signal.SIGUSR1, lambda *_: self._begin(Path(stops_in)))

    def _begin(self, stops_in: Path) -> None:
        self._passed, self._stops_at = 0, int(stops_in.read_text())
        stops_in.unlink()  # so whoever sent the signal sees that it has come

    def calls(self, name: str) -> None:
        if name == self._dies_before:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passes()

    def passes(self) -> None:
        self._passed += 1
        if self._count_in:
            # Whoever reads it meanwhile sees the old number or the new one.
            Path(f"{self._count_in}.new").write_text(str(self._passed))
            Path(f"{self._count_in}.new").replace(self._count_in)
        # A SIGUSR1 may have come since the line above, and the count begins anew: 0 is no point.
        if self._passed == self._dies_at > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._passed == self._stops_at > 0:
            os.kill(os.getpid(), signal.SIGSTOP)

    def around(self, real: Any) -> Any:
        return _Bounded(real, self)


class _Bounded:
    """A broker, store or transaction, with a boundary before and after each awaited call, also of what a step writes and of the savepoint
    around it. Waiting for messages is none."""

    def __init__(self, real: Any, boundaries: Boundaries) -> None:
        self._real = real
        self._boundaries = boundaries

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name in ("transaction", "savepoint"):
            return lambda **named: self._inside(found(**named))
        if name == "user":
            return self._boundaries.around(found)
        if not iscoroutinefunction(found) or name in ("receive", "close"):
            return found

        async def bounded(*arguments: Any, **named: Any) -> Any:
            self._boundaries.calls(name)
            answer = await found(*arguments, **named)
            self._boundaries.passes()
            return answer

        return bounded

    @asynccontextmanager
    async def _inside(self, context: Any) -> AsyncGenerator[Any]:
        async with context as real:
            self._boundaries.passes()
            yield None if real is None else self._boundaries.around(real)
        self._boundaries.passes()


class Copying:
    """A broker that delivers everything several times."""

    def __init__(self, real: Broker, copies: int) -> None:
        self._real = real
        self._copies = copies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        answers = await self._real.publish(messages)
        for _ in range(self._copies - 1):
            await self._real.publish(messages)
        return answers


class Shuffling:
    """A broker that delivers in any order: half of what comes is handed back for up to three seconds, the rest comes backwards."""

    def __init__(self, real: Broker) -> None:
        self._real = real
        self._random = random.Random()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def receive(self, max_messages: int, max_wait_s: float) -> Sequence[Delivery]:
        deliveries = await self._real.receive(max_messages, max_wait_s)
        late = [one for one in deliveries if one.attempt == 1 and not one.redelivered and self._random.random() < 0.5]
        for one in late:
            await self._real.release([one], self._random.choice((0.2, 1.0, 3.0)))
        return [one for one in reversed(deliveries) if one not in late]


class ShiftedClock(SystemClock):
    """Its wall clock is ahead, or behind. The monotonic clock is what it is."""

    def __init__(self, ahead_s: float) -> None:
        super().__init__()
        self._ahead_ns = int(ahead_s * 1e9)

    def time_ns(self) -> int:
        return super().time_ns() + self._ahead_ns
