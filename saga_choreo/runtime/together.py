"""Many callers, one piece of work: what is submitted while a round is under way goes into the next round, together.

So a thousand sagas that are started at once cost some dozens of commits. A caller that is alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Together"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Together(Generic[Item, Answer]):
    """Rounds of at most `size_max` items, one after the other."""

    def __init__(self, work: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]], size_max: int) -> None:
        """`work` gives one answer per item, in order; an exception among them goes to that item's caller. What `work` itself
        raises goes to every caller of the round."""
        self._work = work
        self._size_max = size_max
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._rounds: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Answer:
        """The item's answer. A caller that is cancelled loses its answer; the work may still be done."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._work_on())
        return await future

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._rounds is not None:
            await self._rounds

    async def _work_on(self) -> None:
        while self._waiting:
            round_, self._waiting = self._waiting[: self._size_max], self._waiting[self._size_max :]
            answers = await self._answers([item for item, _ in round_])
            for (_, future), answer in zip(round_, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def _answers(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        try:
            return await self._work(items)
        except Exception as error:  # noqa: BLE001  every caller of the round is told
            return [error] * len(items)
