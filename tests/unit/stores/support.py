"""What the tests of the SQLite store share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any

from saga_choreo.testing.stores import make_record
from saga_choreo_sqlite.store import SqliteStore

__all__ = ["HandClock", "opened", "run", "save", "url_of"]


class HandClock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def chance(self) -> float:
        return 0.5

    def entropy(self, size: int) -> bytes:
        return bytes(size)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def url_of(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@contextlib.asynccontextmanager
async def opened(store: SqliteStore) -> AsyncGenerator[SqliteStore, None]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def save(store: SqliteStore, number: int) -> None:
    async with store.transaction() as transaction:
        await transaction.save([make_record(number)])
        await transaction.commit()
