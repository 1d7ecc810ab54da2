"""PostgreSQL's errors in the toolkit's words, by SQLSTATE, so that every driver's errors are read alike. Wrapped once, here."""

from __future__ import annotations

import asyncpg

from saga_choreo.errors import ConfigurationError, SagaError, StoreConflict, StoreUnavailable, TransactionTooLong

__all__ = ["DRIVER_ERRORS", "is_outage", "is_theirs", "state_of", "swallowed_error", "taken", "translated"]

DRIVER_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
# Serialization failure, deadlock, a lock not given in time, a prepared plan that a change of the schema made invalid.
_CONFLICTS = ("40", "55P03")
# Connection lost, resources (disk, memory, connections) used up, a standby, a shutdown, a crash, an I/O error.
_OUTAGES = ("08", "53", "57P", "58", "25006", "40003", "XX001")
_TOO_LONG = ("25P03", "25P04")
# An unknown setting, a wrong value of one.
_OPTION = ("42704", "22023")
_REFUSED = ("28", "3D", "42501", "0P")
# Errors of the user's own drivers and pools that come without a SQLSTATE, by their package and name: none of them need be installed.
_NOT_REACHED = (("psycopg", "OperationalError"), ("sqlalchemy", "TimeoutError"))


def state_of(error: BaseException) -> str:
    """The error's SQLSTATE, or an empty string when it did not come from the server."""
    return getattr(error, "sqlstate", None) or ""


def is_theirs(error: BaseException, *, lost: bool) -> bool:
    """Whether a user's statement is at fault: then the transaction goes on, after a savepoint has undone the statement."""
    state = state_of(error)
    if lost or isinstance(error, (OSError, asyncpg.InternalClientError, asyncpg.exceptions.InvalidCachedStatementError)):
        return False
    return not state.startswith((*_CONFLICTS, *_OUTAGES, *_TOO_LONG))


def is_outage(error: BaseException) -> bool:
    """Whether an error of the user's own driver or pool, met on the way to a connection, tells that there is none to be had now."""
    inner = getattr(error, "orig", None) or error
    if state_of(inner):
        return not is_theirs(inner, lost=False)
    if getattr(error, "connection_invalidated", False) or isinstance(inner, DRIVER_ERRORS):
        return True
    return any((kind.__module__.partition(".")[0], kind.__name__) in _NOT_REACHED for kind in type(inner).__mro__)


def taken(error: Exception, where: str, *, lost: bool) -> Exception:
    """The toolkit's error for what a user's own driver has raised, where the server or a connection that is lost, and not the statement,
    is at fault; else the very same."""
    inner = getattr(error, "orig", None) or error
    if isinstance(error, SagaError):
        return error
    if state_of(inner) and not is_theirs(inner, lost=False):
        return translated(inner, where, "running a statement of the step")
    if not lost:
        return error
    said = f"{type(inner).__name__}: {inner}"[:500]
    return StoreUnavailable(
        f"the connection to PostgreSQL at {where!r} was lost, or there was none ({said}); nothing was committed, try again on another"
    )


def translated(error: BaseException, where: str, doing: str) -> SagaError:
    """The toolkit's error for one of a driver's, met while `doing` something with the database at `where`."""
    state = state_of(error)
    said = f"{type(error).__name__}{f' {state}' if state else ''}: {error}"[:500]
    if state.startswith(_OUTAGES):
        return StoreUnavailable(f"PostgreSQL at {where!r} failed while {doing} ({said}); the work is tried again when it is back")
    if state.startswith(_CONFLICTS) or isinstance(
        error, (asyncpg.exceptions.InvalidCachedStatementError, asyncpg.exceptions.OutdatedSchemaCacheError)
    ):
        return StoreConflict(
            f"another transaction was in the way at {where!r} while {doing} ({said}); the same work may be tried again"
        )
    if state.startswith(_TOO_LONG):
        return TransactionTooLong(
            f"PostgreSQL at {where!r} ended a transaction that stood idle too long ({said}); declare the step external"
        )
    if state == "25P02":
        return SagaError(
            f"a statement had failed in this transaction at {where!r} and its error was swallowed, so PostgreSQL refuses what "
            f"follows ({said}, while {doing}); let the error pass, or put the statement in a savepoint of its own"
        )
    if state in _OPTION and doing == "connecting":
        return ConfigurationError(
            f"an option in the URL of PostgreSQL at {where!r} is no setting of the server, or has a wrong value ({said}, while {doing}); "
            "correct it: what is none of ours is passed on"
        )
    if state == "3F000":
        return ConfigurationError(
            f"there is no schema for the saga tables at {where!r} ({said}, while {doing}); correct search_path in the store's URL, or "
            "make the schema"
        )
    if state.startswith(_REFUSED):
        return ConfigurationError(
            f"PostgreSQL at {where!r} refuses this user or database ({said}, while {doing}); check URL and grants"
        )
    if state.startswith("42"):
        return ConfigurationError(
            f"the saga tables at {where!r} are not as this saga_choreo made them ({said}, while {doing}); check search_path in "
            "the store's URL, and whether somebody changed them by hand"
        )
    if state:
        return SagaError(
            f"PostgreSQL at {where!r} refused a statement of the toolkit while {doing} ({said}); this is a bug: report it"
        )
    return StoreUnavailable(
        f"PostgreSQL at {where!r} could not be used while {doing} ({said}); check that it runs and can be reached"
    )


def swallowed_error(where: str) -> SagaError:
    return SagaError(
        f"a statement of the step failed at {where!r} and the handler swallowed the error: PostgreSQL refuses all that follows, so what "
        "the step wrote was undone; let the error pass, or put the statement in a savepoint of its own"
    )
