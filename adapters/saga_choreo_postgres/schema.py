"""The tables, as numbered migrations, and the check of a database's version against this code's.

All tables are named `saga_*`: they live in the user's own database, in the first schema of the search path. A migration runs in one
transaction under an advisory lock and looks at the version again inside, so several processes may start at once; one that dies
half-way leaves nothing that the next does not put right.
"""

from __future__ import annotations

from importlib import resources

from saga_choreo.errors import StoreVersionError
from saga_choreo_postgres.moving import DAYS_SINCE, prepare
from saga_choreo_postgres.speakers import Speaker

__all__ = ["SCHEMA_VERSION", "check_version", "identity", "migrate", "names_after", "oldest_version", "stored_version"]

_MIGRATIONS = tuple(
    sorted(
        (file for file in resources.files("saga_choreo_postgres").joinpath("migrations").iterdir() if file.name.endswith(".sql")),
        key=lambda file: file.name,
    )
)
SCHEMA_VERSION = len(_MIGRATIONS)
# Any number that no other application is likely to lock: the bytes of "sagachor".
_CONTROL = ("system", "checkpoint", "recovery")
_IDENTITY = "SELECT s.system_identifier::text, c.timeline_id::text FROM pg_control_system() s, pg_control_checkpoint() c"
_IDENTITY_RECOVERED = (
    "SELECT s.system_identifier::text, greatest(c.timeline_id, r.min_recovery_end_timeline)::text "
    "FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r"
)
_LOCK = int.from_bytes(b"sagachor", "big")
_PUT = "INSERT INTO saga_meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO "


def names_after(version: int) -> tuple[str, ...]:
    """The migrations that bring tables of this version up to date."""
    return tuple(script.name.removesuffix(".sql") for script in _MIGRATIONS[version:])


def oldest_version() -> int:
    """The lowest version of this code that can work with the tables as they are after the last migration. A migration that only adds
    says so in its first lines ("Only adds"), and code that knows its predecessor goes on; any other shuts older code out."""
    adding = ["only adds" in script.read_text(encoding="utf-8").partition("\n\n")[0].lower() for script in _MIGRATIONS]
    return max((number for number, adds in enumerate(adding, start=1) if not adds), default=1)


async def stored_version(speaker: Speaker) -> int:
    """The version of the database's saga tables; 0 when there are none."""
    # Read as data: the server's own look-up of a name may answer from a cache that has not heard yet of another's commit.
    if not await speaker.fetch(
        "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relname = 'saga_meta' AND n.nspname = ANY(current_schemas(false))"
    ):
        return 0
    rows = await speaker.fetch("SELECT value FROM saga_meta WHERE name = 'schema_version'")
    return int(rows[0][0]) if rows else 0


def check_version(found: int, where: str, *, exact: bool, oldest: int = 0) -> None:
    """Raises StoreVersionError when this code cannot work with the tables: newer ones unless code
    from version `oldest` on may go on with them, older when `exact`."""
    if found > SCHEMA_VERSION and not 0 < oldest <= SCHEMA_VERSION:
        raise StoreVersionError(
            f"the saga tables at {where!r} have schema version {found}, this saga_choreo knows up to {SCHEMA_VERSION}; "
            "upgrade saga_choreo here, or use the version that wrote them"
        )
    if exact and found < SCHEMA_VERSION:
        held = f"schema version {found}" if found else "no saga tables"
        raise StoreVersionError(
            f"the database at {where!r} has {held}, this saga_choreo needs version {SCHEMA_VERSION}; "
            "open the store with migrate=True once to bring it up"
        )


async def migrate(speaker: Speaker, where: str, incarnation: str) -> None:
    """Bring the tables up to date, on a connection without a transaction. The incarnation names this database for good, once."""
    await speaker.fetch("SELECT pg_advisory_lock($1)", _LOCK)
    if 0 < await stored_version(speaker) < DAYS_SINCE:
        await prepare(speaker)
    await speaker.say("BEGIN")
    await _migrate(speaker, where, incarnation)
    await speaker.say("COMMIT")
    await speaker.fetch("SELECT pg_advisory_unlock($1)", _LOCK)


async def _migrate(speaker: Speaker, where: str, incarnation: str) -> None:
    found = await stored_version(speaker)
    check_version(found, where, exact=False)
    for script in _MIGRATIONS[found:]:
        await speaker.say(script.read_text(encoding="utf-8"))
    await speaker.fetch(_PUT + "UPDATE SET value = excluded.value", "schema_version", str(SCHEMA_VERSION))
    await speaker.fetch(_PUT + "UPDATE SET value = excluded.value", "oldest_version", str(oldest_version()))
    await speaker.fetch(_PUT + "NOTHING", "incarnation", incarnation)
    for name, value in (await identity(speaker)).items():
        await speaker.fetch(_PUT + "NOTHING", name, value)


async def identity(speaker: Speaker) -> dict[str, str]:
    """What tells this server's history from another's: the cluster's identifier and its timeline, where this user may see them.

    A promoted standby takes writes at once, and has the new timeline in its last checkpoint only when it has made one, which may take
    minutes. Until then it is that of the point up to which it has to recover."""
    may = "SELECT " + ", ".join(f"has_function_privilege('pg_control_{name}()', 'execute')" for name in _CONTROL)
    (is_known, is_told, sees_recovery), *_ = await speaker.fetch(may)
    if not (is_known and is_told):
        return {}
    rows = await speaker.fetch(_IDENTITY_RECOVERED if sees_recovery else _IDENTITY)
    return {"system_identifier": rows[0][0], "timeline": rows[0][1]}
