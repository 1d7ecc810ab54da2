"""The driver's own connection inside a step, with its type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import UserTx
from saga_choreo_postgres.user import PostgresUser

if TYPE_CHECKING:
    import asyncpg

__all__ = ["HasTransaction", "connection"]


class HasTransaction(Protocol):
    """A step's `ctx`."""

    @property
    def tx(self) -> UserTx: ...


async def connection(ctx: HasTransaction) -> asyncpg.Connection[Any]:
    """The asyncpg connection that the step's record is written on, inside its transaction and savepoint.

    `connection.transaction()` on it is a savepoint. Do not commit or roll back the outer transaction, and do not use the connection
    after the handler has returned. Raises ConfigurationError when the store is not PostgreSQL.
    """
    user = ctx.tx
    if not isinstance(user, PostgresUser):
        raise ConfigurationError(
            f"this step's store is not PostgreSQL (ctx.tx is {type(user).__name__!r}); give the agent a postgresql:// store"
        )
    return await user.connection()
