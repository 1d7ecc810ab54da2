"""The end of an agent, bounded: whatever users' code does, a stop does not take longer than it may.

Everything under way gets the whole time. Then it is cancelled. What does not even end then - a handler or callback that swallows
its cancellation - is left behind, and said so; a process of its own ends without it. Nothing is lost by that: what is not
committed is done again elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["CANCEL_S", "within_grace"]

# What is cancelled ends at once, if it ends at all.
CANCEL_S = 1.0


async def within_grace(work: Coroutine[Any, Any, None], stop: asyncio.Event, grace_s: float) -> bool:
    """Run this work, which ends some time after `stop` is set. Returns whether it did so within that many seconds; else it has been
    cancelled, and may still be running. Raises what the work raises. Cancellation is passed on, and waits for it no longer either."""
    task, told = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    is_late = False
    try:
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait({task}, timeout=grace_s)
    finally:
        told.cancel()
        if not task.done():
            is_late = True
            task.cancel()
            task.add_done_callback(_look_at_it)  # it may end much later
            await asyncio.wait({task}, timeout=CANCEL_S)
    if not is_late:
        task.result()
    return not is_late


def _look_at_it(task: asyncio.Task[None]) -> None:
    """Nobody waits for it any more, so nobody is told what became of it."""
    if not task.cancelled():
        task.exception()
