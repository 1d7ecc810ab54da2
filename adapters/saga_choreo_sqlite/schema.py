"""The tables, as numbered migrations, and the check of a file's version against this code's.

All tables are named `saga_*`: they live in the user's own database. A migration runs in one transaction that looks at the
version again after it has the write lock, so two processes may start at once; one that dies half-way leaves nothing.

Records keep their rowid: with payloads of 2 KB that was 10-15 % faster than WITHOUT ROWID, and 12 % smaller; equal at 100 bytes.
"""

from __future__ import annotations

from saga_choreo.errors import StoreVersionError
from saga_choreo.ports import COLUMNS
from saga_choreo_sqlite.driver import Connection

__all__ = ["OLDEST_VERSION", "SCHEMA_VERSION", "check_version", "migrate", "stored_version"]

_TYPES = {"text": "TEXT", "int": "INTEGER", "bool": "INTEGER", "bytes": "BLOB"}
# Columns that a later migration adds.
_LATER = ("failure",)
_COLUMN_LINES = ",\n  ".join(
    f"{c.name} {_TYPES[c.kind]}{'' if c.nullable else ' NOT NULL'}" for c in COLUMNS if c.name not in _LATER
)

_FIRST = f"""
CREATE TABLE saga_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE saga_record (
  {_COLUMN_LINES},
  PRIMARY KEY (service, saga_id, definition, step)
);
CREATE INDEX saga_record_due ON saga_record (service, due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX saga_record_parked ON saga_record (service, saga_id) WHERE parked <> '';
CREATE INDEX saga_record_unannounced ON saga_record (service, changed_ms) WHERE announced < version;
CREATE TABLE saga_business_key (
  key TEXT NOT NULL, choreography TEXT NOT NULL, service TEXT NOT NULL, saga_id BLOB NOT NULL, digest TEXT NOT NULL,
  PRIMARY KEY (key, choreography, service)
) WITHOUT ROWID;
CREATE INDEX saga_business_key_saga ON saga_business_key (service, saga_id);
CREATE TABLE saga_quarantine (
  number INTEGER PRIMARY KEY AUTOINCREMENT, service TEXT NOT NULL, code TEXT NOT NULL, detail TEXT NOT NULL,
  channel TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL, received_ms INTEGER NOT NULL, saga_id TEXT NOT NULL
);
CREATE INDEX saga_quarantine_received ON saga_quarantine (service, received_ms);
CREATE TABLE saga_held (
  number INTEGER PRIMARY KEY AUTOINCREMENT, service TEXT NOT NULL, definition TEXT NOT NULL,
  channel TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL, received_ms INTEGER NOT NULL
);
CREATE INDEX saga_held_definition ON saga_held (service, definition);
CREATE TABLE saga_lock (
  service TEXT NOT NULL, name TEXT NOT NULL, saga_id BLOB NOT NULL, PRIMARY KEY (service, name)
) WITHOUT ROWID;
CREATE TABLE saga_definition (hash TEXT PRIMARY KEY, canonical BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE saga_holder (definition TEXT NOT NULL, service TEXT NOT NULL, PRIMARY KEY (definition, service)) WITHOUT ROWID;
CREATE TABLE saga_counter (
  service TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (service, name)
) WITHOUT ROWID;
"""

_SECOND = """
ALTER TABLE saga_held ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
CREATE INDEX saga_held_received ON saga_held (service, told, received_ms);
"""

_THIRD = """
ALTER TABLE saga_record ADD COLUMN failure TEXT;
ALTER TABLE saga_quarantine ADD COLUMN agent TEXT NOT NULL DEFAULT '';
ALTER TABLE saga_quarantine ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE saga_quarantine ADD COLUMN attempts INTEGER NOT NULL DEFAULT 1;
ALTER TABLE saga_quarantine ADD COLUMN last_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE saga_quarantine ADD COLUMN state TEXT NOT NULL DEFAULT 'open';
ALTER TABLE saga_quarantine ADD COLUMN state_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE saga_quarantine ADD COLUMN operator TEXT NOT NULL DEFAULT '';
ALTER TABLE saga_quarantine ADD COLUMN note TEXT NOT NULL DEFAULT '';
CREATE TABLE saga_job (
  id TEXT PRIMARY KEY, service TEXT NOT NULL, operator TEXT NOT NULL, reason TEXT NOT NULL, wanted TEXT NOT NULL,
  state TEXT NOT NULL, detail TEXT NOT NULL, total INTEGER NOT NULL, rate_per_min INTEGER NOT NULL,
  in_flight_max INTEGER NOT NULL, stop_percent INTEGER NOT NULL, created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL,
  finished_ms INTEGER, owner TEXT NOT NULL, lease_ms INTEGER NOT NULL, version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX saga_job_finished ON saga_job (service, finished_ms);
CREATE TABLE saga_job_item (
  job TEXT NOT NULL, place INTEGER NOT NULL, letter TEXT NOT NULL, state TEXT NOT NULL, verdict TEXT NOT NULL,
  detail TEXT NOT NULL, tries INTEGER NOT NULL, round INTEGER NOT NULL, changed_ms INTEGER NOT NULL,
  PRIMARY KEY (job, place)
) WITHOUT ROWID;
CREATE INDEX saga_job_item_state ON saga_job_item (job, state, place);
"""

# Number n (from 1) brings a file from version n - 1 to n. Never edit one that has been released: add the next.
_MIGRATIONS: tuple[str, ...] = (_FIRST, _SECOND, _THIRD)
SCHEMA_VERSION = len(_MIGRATIONS)
# The lowest version of this code that can work with the tables as they are after the last migration: raise it with one that takes
# something away or changes it. A migration that only adds lets agents of an earlier release go on.
OLDEST_VERSION = 1


def stored_version(connection: Connection) -> int:
    """The version of the file's saga tables; 0 when there are none."""
    # Read as data: the driver's own look-up may answer from a schema it has cached before another process made the tables.
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'saga_meta'").fetchone():
        return 0
    row = connection.execute("SELECT value FROM saga_meta WHERE name = 'schema_version'").fetchone()
    return int(row[0]) if row else 0


def check_version(found: int, path: str, *, exact: bool, oldest: int = 0) -> None:
    """Raises StoreVersionError when this code cannot work with the file: newer one unless code from
    version `oldest` on may go on with it, older when `exact`."""
    if found > SCHEMA_VERSION and not 0 < oldest <= SCHEMA_VERSION:
        raise StoreVersionError(
            f"the saga tables in {path!r} have schema version {found}, this saga_choreo knows up to {SCHEMA_VERSION}; "
            "upgrade saga_choreo here, or use the version that wrote the file"
        )
    if exact and found < SCHEMA_VERSION:
        held = f"schema version {found}" if found else "no saga tables"
        raise StoreVersionError(
            f"the SQLite file {path!r} has {held}, this saga_choreo needs version {SCHEMA_VERSION}; "
            "open the store with migrate=True once to bring it up"
        )


def migrate(connection: Connection, path: str, incarnation: str) -> None:
    """Bring the file up to date inside the open write transaction. The incarnation names this file for good, once."""
    found = stored_version(connection)
    check_version(found, path, exact=False)
    for script in _MIGRATIONS[found:]:
        connection.execute(script)
    put = "INSERT INTO saga_meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO "
    connection.execute(put + "UPDATE SET value = excluded.value", ("schema_version", str(SCHEMA_VERSION)))
    connection.execute(put + "UPDATE SET value = excluded.value", ("oldest_version", str(OLDEST_VERSION)))
    connection.execute(put + "NOTHING", ("incarnation", incarnation))
