"""All SQL of this adapter as constants, built once from the shared list of columns, so that prepared statements are used again.

A saga's id is a `uuid` column; it is read as bytes (`uuid_send`), which is what the shared layout of a record holds.
Every statement that touches rows of several sagas does so in key order, so that two transactions cannot wait for each other.
"""

from __future__ import annotations

from functools import lru_cache

from saga_choreo.ports import COLUMNS, LETTER_COLUMNS, ORIGIN, Cause, Outcome, State
from saga_choreo_postgres.days import DAY

__all__ = [
    "ADD_DEFINITION",
    "ADD_HOLDERS",
    "ADD_KEY",
    "ADD_LOCK",
    "CLAIM",
    "COMPLETE",
    "COUNTERS",
    "DEFINITIONS",
    "DUE",
    "DUE_NEWEST",
    "ENDED",
    "FORGET_HELD",
    "FORGET_ITEMS",
    "FORGET_JOBS",
    "FORGET_KEYS",
    "FORGET_QUARANTINED",
    "FORGET_RECORD",
    "FORGETTABLE",
    "HELD",
    "HOLDERS",
    "INSERT",
    "IS_COMPLETED",
    "KEYS",
    "KEY_OF",
    "LOCK_OF",
    "MARK",
    "MARK_TOLD",
    "NEXT_DUE",
    "OPEN",
    "ORIGIN_OF",
    "PARKED",
    "QUARANTINED",
    "RECORDS",
    "RECORDS_OF",
    "RESTING",
    "SAGAS",
    "SERVICES",
    "START",
    "START_JOINED",
    "UNANNOUNCED",
    "UNANNOUNCED_NEWEST",
    "UNTOLD",
    "UPDATE",
    "append",
]

_KEY = ("service", "saga_id", "definition", "step")
_NAMES = tuple(column.name for column in COLUMNS)
# Parameters are numbered by their place in COLUMNS, so that one tuple of values serves insert and update alike.
_PLACE = {name: f"${number}" for number, name in enumerate(_NAMES, start=1)}
_READ = ", ".join("uuid_send(saga_id)" if name == "saga_id" else name for name in _NAMES)
_SETS = ", ".join(f"{name} = {_PLACE[name]}" for name in _NAMES if name not in (*_KEY, "announced"))
_IS_KEY = " AND ".join(f"{name} = {_PLACE[name]}" for name in _KEY)

# One saga each, for a batch in one round trip: its plan is made once, and no array type has to be looked up on each connection.
CLAIM = (
    f"SELECT {_READ} FROM saga_record WHERE service = $1 AND saga_id = $2 {DAY} "  # noqa: S608  (constants only)
    "ORDER BY definition, step FOR NO KEY UPDATE"
)
INSERT = (
    f"INSERT INTO saga_record ({', '.join(_NAMES)}) VALUES ({', '.join(_PLACE.values())}) "  # noqa: S608  (constants only)
    "ON CONFLICT DO NOTHING RETURNING 1"
)
# `announced` may have been raised since this record was read, which is no change of version: it is never lowered.
UPDATE = (
    f"UPDATE saga_record SET {_SETS}, announced = greatest(announced, {_PLACE['announced']}) "  # noqa: S608  (constants only)
    f"WHERE {_IS_KEY} {DAY} AND version = {_PLACE['version']} - 1 RETURNING 1"
)
# What `completed` does to a record, in its own words.
COMPLETE = (
    "UPDATE saga_record SET inputs = NULL, results = NULL, kept = NULL, undo_result = NULL, due_ms = NULL, nudges = 0, "  # noqa: S608  (constants only)
    f"outcome = '{Outcome.COMPLETED}', cause = '{Cause.NONE}', version = version + 1, announced = version + 1, changed_ms = $8, "
    "failure = CASE WHEN error = '' THEN NULL ELSE failure END "
    f"WHERE service = $1 AND saga_id = $2 AND definition = $3 AND step = $4 {DAY} "
    f"AND outcome = '{Outcome.OPEN}' AND state IN ('{State.DONE}', '{State.SKIPPED}') AND NOT abort AND lock_name = '' "
    "AND origin = $5 AND deadline_ms IS NOT DISTINCT FROM $6::bigint "
    "AND (greatest(announced, $7::bigint) >= version OR ($9 AND resolution IS NULL)) RETURNING saga_id, step"
)
IS_COMPLETED = (
    f"SELECT saga_id, bool_and(outcome = '{Outcome.COMPLETED}' AND origin = $3 AND deadline_ms IS NOT DISTINCT FROM $4::bigint), "  # noqa: S608  (constants only)
    f"count(*) FILTER (WHERE step <> {ORIGIN}) FROM saga_record "
    f"WHERE service = $1 AND saga_id = $2 {DAY} GROUP BY saga_id"
)
# A saga's start: its business key, and its origin's record with it if the key is new. `here` is one row, or none where the caller's own
# connection leads to another database than the store's or commits less durably.
_START = f"""WITH here AS ({{}}),
added AS (
  INSERT INTO saga_business_key (service, choreography, key, saga_id, digest)
  SELECT {_PLACE["service"]}, {_PLACE["choreography"]}, $43, {_PLACE["saga_id"]}, $44 FROM here
  ON CONFLICT DO NOTHING RETURNING 1),
saved AS (INSERT INTO saga_record ({", ".join(_NAMES)}) SELECT {", ".join(_PLACE.values())} FROM added RETURNING 1)
SELECT (SELECT count(*) FROM here), (SELECT count(*) FROM saved)
"""  # noqa: S608  (constants only)
START = _START.format("SELECT 1")
START_JOINED = _START.format(
    "SELECT 1 FROM saga_meta WHERE name = 'incarnation' AND value = $45 "
    "AND (NOT $46 OR current_setting('synchronous_commit') <> 'off')"
)

_LETTER = [name for name in LETTER_COLUMNS if name != "number"]
_LETTER_TYPES = {"body": "bytea[]", "attempts": "integer[]", **dict.fromkeys(("received_ms", "last_ms", "state_ms"), "bigint[]")}
_PARTS = {
    "quarantined": (
        f"INSERT INTO saga_quarantine ({', '.join(_LETTER)}) SELECT * FROM unnest({{}})",  # noqa: S608  (constants only)
        tuple(_LETTER_TYPES.get(name, "text[]") for name in _LETTER),
    ),
    "held": (
        "INSERT INTO saga_held (service, definition, channel, headers, body, received_ms) SELECT * FROM unnest({})",
        ("text[]", "text[]", "text[]", "text[]", "bytea[]", "bigint[]"),
    ),
    "counters": (
        "INSERT INTO saga_counter AS c (service, name, value, slot) "
        "SELECT service, name, value, pg_backend_pid() % 64 FROM unnest({}) AS g (service, name, value) "
        "ON CONFLICT (service, name, slot) DO UPDATE SET value = c.value + excluded.value",
        ("text[]", "text[]", "bigint[]"),
    ),
    "unlock": (
        "DELETE FROM saga_lock WHERE (service, name, saga_id) IN (SELECT * FROM unnest({}))",
        ("text[]", "text[]", "uuid[]"),
    ),
    "unhold": ("DELETE FROM saga_held WHERE number = ANY({})", ("bigint[]",)),
}


@lru_cache(maxsize=32)
def append(parts: tuple[str, ...]) -> str:
    """One statement that does all of these parts; its parameters are the arrays of the parts, one after the other."""
    number, bodies = 0, list[str]()
    for part in parts:
        body, types = _PARTS[part]
        places = ", ".join(f"${number + n}::{kind}" for n, kind in enumerate(types, start=1))
        number += len(types)
        bodies.append(f"{part} AS ({body.format(places)} RETURNING 1)")
    return f"WITH {', '.join(bodies)} SELECT 1"


ADD_KEY = (
    "INSERT INTO saga_business_key (service, choreography, key, saga_id, digest) VALUES ($1, $2, $3, $4, $5) "
    "ON CONFLICT DO NOTHING RETURNING 1"
)
KEY_OF = "SELECT saga_id, digest FROM saga_business_key WHERE key = $1 AND choreography = $2 AND service = $3"
ADD_LOCK = "INSERT INTO saga_lock (service, name, saga_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING 1"
LOCK_OF = "SELECT saga_id FROM saga_lock WHERE service = $1 AND name = $2"

DUE = (
    "SELECT saga_id, definition, step FROM saga_record WHERE service = $1 AND due_ms IS NOT NULL AND due_ms <= $2 "
    "ORDER BY due_ms LIMIT $3"
)
DUE_NEWEST = DUE.replace("ORDER BY due_ms", "ORDER BY due_ms DESC")
NEXT_DUE = "SELECT min(due_ms) FROM saga_record WHERE service = $1 AND due_ms IS NOT NULL"
UNANNOUNCED = (
    f"SELECT {_READ} FROM saga_record WHERE service = $1 AND announced < version "  # noqa: S608  (constants only)
    "AND changed_ms < greatest($2::bigint, $3::bigint) "
    f"AND changed_ms < CASE WHEN step = {ORIGIN} AND version = 1 THEN $3::bigint ELSE $2::bigint END ORDER BY changed_ms LIMIT $4 OFFSET $5"
)
UNANNOUNCED_NEWEST = UNANNOUNCED.replace("ORDER BY changed_ms", "ORDER BY changed_ms DESC")
# A row that somebody works on is left out: it is about to change, and waiting for it would hold up all who wait for this. Its place
# in the table (ctid) is an address within one day only, hence the key beside it.
_MARKED = f"service = $1 AND saga_id = $2 AND definition = $3 AND step = $4 {DAY}"
MARK = (
    "UPDATE saga_record SET announced = least(version, $5::bigint) WHERE ctid = (SELECT ctid FROM saga_record "  # noqa: S608  (constants only)
    f"WHERE {_MARKED} AND announced < least(version, $5::bigint) FOR NO KEY UPDATE SKIP LOCKED) AND {_MARKED}"
)
_HELD = "SELECT service, definition, channel, headers, body, received_ms, number, told FROM saga_held WHERE service = $1 "
HELD = f"{_HELD}AND definition = $2 ORDER BY number LIMIT $3"
UNTOLD = f"{_HELD}AND NOT told AND received_ms < $2 ORDER BY received_ms, number LIMIT $3"
MARK_TOLD = "UPDATE saga_held SET told = true WHERE service = $1 AND number = ANY($2::bigint[])"
# A record that still runs, undoes, waits for a person or has something to say is never forgotten, whatever its age.
ENDED = (
    f"(announced >= version AND parked = '' AND CASE step WHEN {ORIGIN} THEN state IN ('OD', 'OC', 'OT') "
    "ELSE outcome <> '' AND state NOT IN ('R', 'CR') END)"
)
FORGETTABLE = (
    f"SELECT saga_id, definition, step FROM saga_record WHERE service = $1 AND saga_id < $2 AND {ENDED} "  # noqa: S608  (constants only)
    "ORDER BY saga_id LIMIT $3 FOR UPDATE SKIP LOCKED"
)
FORGET_RECORD = f"DELETE FROM saga_record WHERE service = $1 AND saga_id = $2 AND definition = $3 AND step = $4 {DAY}"  # noqa: S608  (constants only)
FORGET_KEYS = """
DELETE FROM saga_business_key WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM saga_business_key AS k WHERE service = $1 AND saga_id < $2
    AND NOT EXISTS (SELECT 1 FROM saga_record AS r WHERE r.service = k.service AND r.saga_id = k.saga_id AND r.saga_id < $2)
  ORDER BY saga_id LIMIT $3 FOR UPDATE SKIP LOCKED)) RETURNING 1
"""
FORGET_QUARANTINED = """
DELETE FROM saga_quarantine WHERE number = ANY(ARRAY(
  SELECT number FROM saga_quarantine
  WHERE service = $1 AND received_ms < $2 AND state_ms < $2 AND state <> 'archived' ORDER BY received_ms LIMIT $3)) RETURNING 1
"""
FORGET_HELD = """
DELETE FROM saga_held WHERE number = ANY(ARRAY(
  SELECT number FROM saga_held WHERE service = $1 AND told AND received_ms < $2 ORDER BY received_ms LIMIT $3)) RETURNING 1
"""
FORGET_ITEMS = """
DELETE FROM saga_job_item WHERE ctid = ANY(ARRAY(
  SELECT i.ctid FROM saga_job AS j JOIN saga_job_item AS i ON i.job = j.id
  WHERE j.service = $1 AND j.finished_ms < $2 LIMIT $3)) RETURNING 1
"""
FORGET_JOBS = """
DELETE FROM saga_job WHERE id = ANY(ARRAY(
  SELECT id FROM saga_job AS j WHERE service = $1 AND finished_ms < $2
    AND NOT EXISTS (SELECT 1 FROM saga_job_item AS i WHERE i.job = j.id) LIMIT $3)) RETURNING 1
"""

# The few services in one database, by jumps along the primary key: it costs one look-up per service, not a scan.
_SERVICES = """
WITH RECURSIVE found (service) AS (
  SELECT min(service) FROM saga_record
  UNION ALL
  SELECT (SELECT min(r.service) FROM saga_record r WHERE r.service > found.service) FROM found WHERE found.service IS NOT NULL),
owner (service) AS (SELECT service FROM found WHERE service IS NOT NULL AND ($1 = '' OR service = $1))
"""
SERVICES = f"{_SERVICES} SELECT service FROM owner"  # noqa: S608  (constants only)
RECORDS = (
    f"{_SERVICES} SELECT {_READ.replace('service,', 'r.service,', 1)} FROM owner "  # noqa: S608  (constants only)
    f"JOIN LATERAL (SELECT * FROM saga_record WHERE service = owner.service AND saga_id = $2 {DAY}) AS r ON true "
    "ORDER BY r.service, definition, step"
)
SAGAS = f"""
{_SERVICES},
newest (saga_id) AS (
  SELECT DISTINCT n.saga_id FROM owner JOIN LATERAL (
    SELECT DISTINCT saga_id FROM saga_record
    WHERE service = owner.service AND ($2::uuid IS NULL OR saga_id < $2) AND ($3 = '' OR choreography = $3)
    ORDER BY saga_id DESC LIMIT $4) AS n ON true
  ORDER BY saga_id DESC LIMIT $4)
SELECT {_READ.replace("service,", "r.service,", 1).replace("(saga_id)", "(r.saga_id)")} FROM newest CROSS JOIN owner
JOIN LATERAL (SELECT * FROM saga_record WHERE service = owner.service AND saga_id = newest.saga_id) AS r ON true
WHERE $3 = '' OR choreography = $3 ORDER BY r.saga_id DESC, r.service, definition, step
"""  # noqa: S608  (constants only)
PARKED = SAGAS.replace("WHERE service = owner.service AND ($2", "WHERE parked <> '' AND service = owner.service AND ($2")
RECORDS_OF = f"SELECT {_READ} FROM saga_record WHERE service = $1 AND saga_id = $2 {DAY} ORDER BY definition, step"  # noqa: S608  (constants only)
ORIGIN_OF = RECORDS_OF.replace("ORDER BY", f"AND step = {ORIGIN} ORDER BY")
# Materialized: open sagas are mostly the youngest, which the planner cannot know. It would walk along the ids through all that have ended.
OPEN = """
WITH open AS MATERIALIZED (SELECT saga_id FROM saga_record WHERE service = $1 AND due_ms IS NOT NULL AND saga_id > $2)
SELECT DISTINCT saga_id, true FROM open ORDER BY saga_id LIMIT $3
"""
RESTING = """
SELECT saga_id, bool_or(due_ms IS NULL AND NOT (state IN ('OD', 'OC', 'OT') OR (outcome <> '' AND state IN ('D', 'T', 'K', 'X', 'C'))))
FROM saga_record WHERE service = $1 AND saga_id > $2 GROUP BY saga_id ORDER BY saga_id LIMIT $3
"""
KEYS = (
    "SELECT service, choreography, key, saga_id, digest FROM saga_business_key "
    "WHERE key = $1 AND ($2 = '' OR choreography = $2) AND ($3 = '' OR service = $3) ORDER BY saga_id DESC LIMIT 1000"
)
COUNTERS = "SELECT name, sum(value)::bigint FROM saga_counter WHERE $1 = '' OR service = $1 GROUP BY name ORDER BY name"
QUARANTINED = (
    f"SELECT {', '.join(LETTER_COLUMNS)} FROM saga_quarantine "  # noqa: S608  (constants only)
    "WHERE $1 = '' OR service = $1 ORDER BY number DESC LIMIT $2"
)
DEFINITIONS = "SELECT hash, canonical FROM saga_definition ORDER BY hash"
ADD_DEFINITION = "INSERT INTO saga_definition (hash, canonical) VALUES ($1, $2) ON CONFLICT DO NOTHING"
HOLDERS = "SELECT service FROM saga_holder WHERE definition = $1 ORDER BY service"
ADD_HOLDERS = "INSERT INTO saga_holder (definition, service) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING"
