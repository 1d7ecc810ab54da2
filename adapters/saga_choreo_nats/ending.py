"""Ending tasks whose awaits may swallow a cancellation.

nats-py waits with `asyncio.wait_for`, and Python 3.11's returns the answer instead of cancelling when both come at once. A task
that is cancelled once would then go on, and whoever waits for it would wait for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["end", "go_on"]

_AGAIN_S = 0.2


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel the task until it has ended. What it raised is dropped."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=_AGAIN_S)
    await asyncio.gather(task, return_exceptions=True)


def go_on() -> None:
    """To be called after such an await: raises CancelledError if the running task was cancelled meanwhile."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
