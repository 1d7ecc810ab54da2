"""The real clock, for a memory adapter that is given none. The only place in `memory` that reads time or randomness."""

from __future__ import annotations

import asyncio
import os
import random
import time

__all__ = ["SystemClock"]


class SystemClock:
    """See `saga_choreo.ports.Clock`."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def chance(self) -> float:
        return random.random()  # noqa: S311  (jitter, not a secret)

    def entropy(self, size: int) -> bytes:
        return os.urandom(size)
