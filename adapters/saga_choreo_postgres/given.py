"""What a factory of the user's has given, asked and told alike whatever driver it belongs to."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import asyncpg

from saga_choreo.errors import ConfigurationError

__all__ = ["cut", "family", "is_open", "refuse_begun", "transaction_of"]


def family(given: Any) -> str:
    """The driver's package, also of a class that is derived from one of its own; empty when it is none that is known."""
    if isinstance(given, asyncpg.Connection):
        return "asyncpg"
    roots = {kind.__module__.partition(".")[0] for kind in type(given).__mro__}
    return next((name for name in ("psycopg", "sqlalchemy") if name in roots), "")


def refuse_begun(given: Any) -> None:
    """Raises ConfigurationError when its transaction is begun, and only who has begun it can end it: what a failed step has written would
    be committed with it. One that `commit` and `rollback` end is welcome, such as that of `async_sessionmaker(...).begin`."""
    kind = family(given)
    if kind == "asyncpg":
        begun, instead = given.is_in_transaction(), "pool.acquire, without a transaction() around it"
    elif kind == "psycopg":  # the driver refuses commit and rollback inside its blocks, and says nowhere else that it is in one
        begun, instead = getattr(given, "_num_transactions", 0) > 0, "a pool's connection, without a transaction() around it"
    else:
        bind: Any = getattr(getattr(given, "sync_session", None), "bind", None)
        begun, instead = hasattr(bind, "in_transaction") and bind.in_transaction(), "async_sessionmaker(engine) or engine.connect"
    if begun:
        raise ConfigurationError(
            f"tx=... gives {type(given).__name__!r} inside a transaction that only tx=... itself can end, so a failed step could not be "
            f"undone; pass {instead}: the toolkit begins and ends the transaction"
        )


def transaction_of(given: Any) -> object:
    """SQLAlchemy's own object for the transaction that is open, another one after each commit and rollback. Other drivers have none."""
    inner = getattr(given, "sync_session", None) or getattr(given, "sync_connection", None)
    return None if inner is None else inner.get_transaction()


def is_open(given: Any) -> bool:
    """Whether a transaction is open on it."""
    kind = family(given)
    if kind == "asyncpg":
        return bool(given.is_in_transaction())
    return bool(given.info.transaction_status) if kind == "psycopg" else bool(given.in_transaction())


async def cut(given: Any) -> None:
    """Close the connection, so that the server rolls back, and no pool gives it to somebody else."""
    kind = family(given)
    if kind == "asyncpg":
        with suppress(asyncpg.InterfaceError):  # its pool has taken it back already, because it is broken
            given.terminate()
    elif kind == "psycopg":
        await given.close()
    else:
        await given.invalidate()
