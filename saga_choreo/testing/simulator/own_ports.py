"""A store with SQL under a user's own handlers: every statement of a step takes time, may fail, and may be its process's last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from saga_choreo.errors import StoreConflict
from saga_choreo.ports.store import Transaction, UserTx
from saga_choreo.runtime.plugins import WholeStore
from saga_choreo.testing.simulator.live_ports import Boundary, FaultyStore, FaultyTransaction
from saga_choreo.testing.simulator.world import World

__all__ = ["MortalStore", "OwnStore"]

T = TypeVar("T")
_SHOWN = 80


class MortalStore(WholeStore, Protocol):
    """A store that can be left as a killed process leaves it."""

    def crash(self) -> None: ...


class _OwnTransaction(FaultyTransaction):
    def __init__(self, store: OwnStore, inner: Transaction) -> None:
        super().__init__(store, inner)
        self._own = store
        self._is_lost = False

    @property
    def user(self) -> UserTx:
        return _OwnUser(self, super().user)

    async def statement(self, text: str, run: Callable[[], Awaitable[T]]) -> T:
        world = self._own.world
        world.note(self._own.name, " ".join(text.split())[:_SHOWN])
        await self._own.boundary()
        await asyncio.sleep(world.latency.random() ** 4 * 0.01)
        if world.hit("store_error") is not None:
            world.saw("statement of a step failed")
            self._is_lost = True
        self._require()
        return await run()

    async def commit(self) -> None:
        """Also when the step has swallowed what a statement raised: the transaction is gone."""
        self._require()
        await super().commit()

    def _require(self) -> None:
        if self._is_lost:
            raise StoreConflict("deadlock detected")


class _OwnUser:
    """`ctx.tx`."""

    def __init__(self, transaction: _OwnTransaction, inner: UserTx) -> None:
        self._transaction = transaction
        self._inner = inner

    async def execute(self, statement: str, *parameters: Any) -> None:
        await self._transaction.statement(statement, lambda: self._inner.execute(statement, *parameters))

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._transaction.statement(statement, lambda: self._inner.executemany(statement, rows))

    async def fetch(self, statement: str, *parameters: Any) -> list[Any]:
        return await self._transaction.statement(statement, lambda: self._inner.fetch(statement, *parameters))

    async def fetchrow(self, statement: str, *parameters: Any) -> Any | None:
        return await self._transaction.statement(statement, lambda: self._inner.fetchrow(statement, *parameters))

    async def fetchval(self, statement: str, *parameters: Any) -> Any | None:
        return await self._transaction.statement(statement, lambda: self._inner.fetchval(statement, *parameters))


class OwnStore(FaultyStore[MortalStore]):
    """One incarnation's connection to a service's database."""

    def __init__(self, world: World, inner: MortalStore, boundary: Boundary, name: str) -> None:
        super().__init__(world, inner, boundary)
        self.name = name

    def wrapped(self, inner: Any) -> FaultyTransaction:
        return _OwnTransaction(self, inner)
