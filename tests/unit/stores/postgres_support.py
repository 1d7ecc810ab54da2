"""What the tests of the PostgreSQL store share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from saga_choreo.ports import UserTx
from saga_choreo_postgres.store import PostgresStore

__all__ = ["Ctx", "Schema", "opened", "query", "run"]

Schema = Callable[[], str]


@dataclass
class Ctx:
    """As much of a step's context as the accessor needs."""

    tx: UserTx


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[PostgresStore, None]:
    store = PostgresStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(40):
            await work

    asyncio.run(bounded())


async def query(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()
