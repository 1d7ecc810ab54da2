"""SQLite's errors in the toolkit's words: wrapped once, here, at the adapter's edge."""

from __future__ import annotations

import apsw

from saga_choreo.errors import ConfigurationError, SagaError, StoreConflict, StoreUnavailable, TransactionTooLong

__all__ = ["WriterHeldTooLong", "is_outage", "translated"]

_BUSY = (apsw.BusyError, apsw.LockedError)
_DAMAGED = (apsw.NotADBError, apsw.CorruptError)
_OUTAGE = (
    apsw.FullError,
    apsw.IOError,
    apsw.NoMemError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.ConnectionClosedError,
    apsw.InterruptError,
)


class WriterHeldTooLong(TransactionTooLong):
    """A step held SQLite's only write lock longer than allowed. It was rolled back; running it again would do the same."""


def is_outage(error: apsw.Error) -> bool:
    """Whether the database itself failed, not the statement it was given."""
    return isinstance(error, (*_BUSY, *_DAMAGED, *_OUTAGE))


def translated(error: apsw.Error, path: str, doing: str) -> SagaError:
    """The toolkit's error for one of SQLite's, met while `doing` something with the file `path`."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, _BUSY):
        return StoreConflict(f"the SQLite file {path!r} was locked while {doing} ({said}); the same work may be tried again")
    if isinstance(error, _DAMAGED):
        return ConfigurationError(
            f"the file {path!r} is not a sound SQLite database ({said}, while {doing}); "
            "check the path, run 'pragma integrity_check' on it, and restore it from a backup if it is damaged"
        )
    if isinstance(error, apsw.SQLError):
        return ConfigurationError(
            f"the saga tables in {path!r} are not as this saga_choreo made them ({said}, while {doing}); "
            "somebody changed them by hand: restore them from a backup, or use a new file"
        )
    if isinstance(error, apsw.FullError):
        return StoreUnavailable(f"no space is left for the SQLite file {path!r} ({said}, while {doing}); free some disk space")
    return StoreUnavailable(
        f"the SQLite file {path!r} could not be used while {doing} ({said}); check the disk and the file's permissions"
    )
