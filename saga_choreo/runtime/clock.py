"""The real clock. Everything else in the toolkit gets time, sleep and chance from a `Clock`."""

from __future__ import annotations

import asyncio
import os
import random
import time

__all__ = ["SystemClock"]


class SystemClock:
    """Wall clock, monotonic clock, asyncio's sleep, and the system's randomness."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311  jitter only; ids use entropy()

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def chance(self) -> float:
        return self._random.random()

    def entropy(self, size: int) -> bytes:
        return os.urandom(size)
