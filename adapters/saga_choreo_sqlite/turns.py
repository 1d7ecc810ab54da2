"""Whose turn it is to write, inside one process: first come, first served, with a bounded wait."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """A lock that is handed over in order of arrival, and that can also be tried without waiting."""

    __slots__ = ("_taken", "_waiting")

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def taken(self) -> bool:
        return self._taken

    def try_take(self) -> bool:
        if self._taken:
            return False
        self._taken = True
        return True

    async def take(self, limit_s: float) -> None:
        """Raises TimeoutError when the turn has not come within `limit_s`."""
        if self.try_take():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(limit_s):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give()  # handed over in the very moment the wait ended
            else:
                turn.cancel()
            raise

    def give(self) -> None:
        """The turn is over: the next one waiting has it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
