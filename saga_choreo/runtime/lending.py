"""The transaction as it is lent to a handler: for as long as the handler runs, and not a statement longer.

A batch shares one transaction, and a handler can leave tasks behind (`asyncio.gather` does when one of its calls fails). What
such a task writes would be committed with somebody else's step, after the savepoint of its own was undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports.store import Transaction, UserTx

__all__ = ["Lent"]


class Lent:
    """What `ctx.tx` and `ctx.raw` give; a `UserTx` itself. A connection that was taken from `raw` cannot be called back."""

    def __init__(self, transaction: Transaction | None, step: str) -> None:
        self._transaction = transaction
        self._step = step
        self._user: UserTx | None = None
        self._is_over = False

    def end(self) -> None:
        self._is_over = True

    @property
    def tx(self) -> UserTx:
        self._user = self._own().user
        return self

    @property
    def raw(self) -> Any:
        return self._own().raw

    @property
    def beneath(self) -> UserTx:
        """The store's own side, for functions of its adapter that give more than every store can."""
        return self._asked()

    def _own(self) -> Transaction:
        if self._transaction is None:
            raise ConfigurationError(
                f"step {self._step!r} is external and has no ctx.tx: its call to the outside cannot be part of a transaction; "
                "write to the database in a plain step before or after it"
            )
        if self._is_over:
            raise ConfigurationError(
                f"the handler of step {self._step!r} has ended, and its transaction belongs to others now; await every task that "
                "uses ctx.tx before the handler returns (asyncio.TaskGroup does)"
            )
        return self._transaction

    def _asked(self) -> UserTx:
        self._own()
        assert self._user is not None, "the user's side is handed out by `tx`"
        return self._user

    async def execute(self, statement: str, *parameters: Any) -> None:
        await self._asked().execute(statement, *parameters)

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._asked().executemany(statement, rows)

    async def fetch(self, statement: str, *parameters: Any) -> list[Any]:
        return await self._asked().fetch(statement, *parameters)

    async def fetchrow(self, statement: str, *parameters: Any) -> Any | None:
        return await self._asked().fetchrow(statement, *parameters)

    async def fetchval(self, statement: str, *parameters: Any) -> Any | None:
        return await self._asked().fetchval(statement, *parameters)
