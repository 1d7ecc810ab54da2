"""What the tests of the Redis store share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from saga_choreo_redis.store import RedisStore

__all__ = ["commands", "opened", "run", "until"]


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[RedisStore, None]:
    store = RedisStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def commands(url: str) -> AsyncGenerator[Any, None]:
    """A plain client of that server."""
    client = Redis.from_url(url.partition("?")[0])
    try:
        yield client
    finally:
        await client.aclose()


async def until(what: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(20):
        while not await what():  # noqa: ASYNC110  what another process does sets no event here
            await asyncio.sleep(0.002)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(40):
            await work

    asyncio.run(bounded())
