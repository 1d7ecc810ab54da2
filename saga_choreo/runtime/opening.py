"""Opening store and broker: what cannot be reached yet is tried again, until somebody says to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from saga_choreo.errors import BrokerUnavailable, StoreUnavailable
from saga_choreo.ports.clock import Clock

__all__ = ["patiently", "unless"]

_log = logging.getLogger("saga_choreo.agent")
_TRY_AGAIN_FIRST_S = 0.5
_TRY_AGAIN_MAX_S = 10.0


async def patiently(step: Callable[[], Coroutine[Any, Any, None]], stop: asyncio.Event | None, clock: Clock) -> bool:
    """False when told to stop before it was done. Without `stop`, an outage is raised at once."""
    wait_s = _TRY_AGAIN_FIRST_S
    while True:
        try:
            if not await unless(stop, step()):
                return False
        except (BrokerUnavailable, StoreUnavailable) as error:
            if stop is None:
                raise
            _log.warning("%s; trying again", error)
            await _sleep_unless(stop, wait_s * (0.75 + 0.5 * clock.chance()))
            wait_s = min(wait_s * 2, _TRY_AGAIN_MAX_S)
            if stop.is_set():
                return False
        else:
            return True


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


async def unless(stop: asyncio.Event | None, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work, or give it up when told to stop (then False)."""
    if stop is None:
        await work
        return True
    doing, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not doing.done():
            doing.cancel()
        await asyncio.gather(stopped, doing, return_exceptions=True)
    if doing.cancelled():
        return False
    doing.result()
    return True
