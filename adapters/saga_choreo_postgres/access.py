"""What a step's record is written on, with its type: the driver's own connection, or the user's session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import UserTx
from saga_choreo_postgres.through import OwnTransaction
from saga_choreo_postgres.user import PostgresUser

if TYPE_CHECKING:
    import asyncpg
    import psycopg as psycopg3
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

Kind = TypeVar("Kind")

__all__ = ["HasTransaction", "connection", "psycopg", "session", "sqlalchemy_connection"]


class HasTransaction(Protocol):
    """A step's `ctx`."""

    @property
    def tx(self) -> UserTx: ...


async def connection(ctx: HasTransaction) -> asyncpg.Connection[Any]:
    """The asyncpg connection that the step's record is written on, inside its transaction and savepoint.

    `connection.transaction()` on it is a savepoint. Do not commit or roll back the outer transaction, and do not use the connection
    after the handler has returned. Raises ConfigurationError when the store is not PostgreSQL, or the agent's `tx=` gives
    something else.
    """
    user = _user(ctx)
    if isinstance(user.beneath, OwnTransaction):
        import asyncpg

        return await _theirs(ctx, asyncpg.Connection, "an asyncpg pool's acquire")
    return await user.connection()


async def session(ctx: HasTransaction) -> AsyncSession:
    """The SQLAlchemy session that `Agent(tx=async_sessionmaker(engine))` has made for this step. What is added to it, and the step's
    record, are committed together; do not commit it. Raises ConfigurationError."""
    from sqlalchemy.ext.asyncio import AsyncSession

    return await _theirs(ctx, AsyncSession, "an async_sessionmaker")


async def sqlalchemy_connection(ctx: HasTransaction) -> AsyncConnection:
    """The same for `Agent(tx=engine.connect)`. Raises ConfigurationError."""
    from sqlalchemy.ext.asyncio import AsyncConnection

    return await _theirs(ctx, AsyncConnection, "engine.connect")


async def psycopg(ctx: HasTransaction) -> psycopg3.AsyncConnection[Any]:
    """The psycopg connection that `Agent(tx=...)` has made for this step. Its record is written on it; do not commit it. Raises
    ConfigurationError."""
    import psycopg as psycopg3

    return await _theirs(ctx, psycopg3.AsyncConnection, "a psycopg pool's connection")


def _user(ctx: HasTransaction) -> PostgresUser:
    given: object = ctx.tx
    user = given if isinstance(given, PostgresUser) else getattr(given, "beneath", given)
    if not isinstance(user, PostgresUser):
        raise ConfigurationError(
            f"this step's store is not PostgreSQL (ctx.tx is {type(user).__name__!r}); give the agent a postgresql:// store"
        )
    return user


async def _theirs(ctx: HasTransaction, kind: type[Kind], example: str) -> Kind:
    transaction = _user(ctx).beneath
    if not isinstance(transaction, OwnTransaction):
        raise ConfigurationError(f"this step runs on the toolkit's own connection; give the agent tx={example}, which makes yours")
    given = await transaction.theirs()
    if not isinstance(given, kind):
        raise ConfigurationError(f"the agent's tx=... gives {type(given).__name__!r} and not {kind.__name__!r}; pass {example}")
    return given
