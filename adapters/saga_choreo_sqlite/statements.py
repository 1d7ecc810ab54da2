"""All SQL of this adapter as constants, built once from the shared list of columns, so that apsw's statement cache always hits.

Statements that begin, end or nest a transaction carry a remark: the guard lets through only what this adapter prepared
itself, and a user's bare COMMIT must not find ours in the cache.
"""

from __future__ import annotations

from saga_choreo.ports import COLUMNS, LETTER_COLUMNS, ORIGIN

__all__ = [
    "ADD_COUNTER",
    "ADD_DEFINITION",
    "ADD_HELD",
    "ADD_HOLDER",
    "ADD_KEY",
    "ADD_LOCK",
    "ADD_QUARANTINED",
    "BEGIN",
    "CLAIM",
    "COMMIT",
    "COUNTERS",
    "DEFINITIONS",
    "DELETE_HELD",
    "DELETE_LOCK",
    "DUE",
    "DUE_NEWEST",
    "FORGET_HELD",
    "FORGET_ITEMS",
    "FORGET_JOBS",
    "FORGET_KEYS",
    "FORGET_QUARANTINED",
    "FORGET_RECORDS",
    "HELD",
    "HOLDERS",
    "INSERT",
    "KEYS",
    "KEY_OF",
    "LOCK_OF",
    "MARK",
    "MARK_TOLD",
    "NEXT_DUE",
    "OPEN",
    "PARKED",
    "QUARANTINED",
    "RESTING",
    "ROLLBACK",
    "SAGAS",
    "SERVICES",
    "UNANNOUNCED",
    "UNANNOUNCED_NEWEST",
    "UNTOLD",
    "UPDATE",
    "VERSION_AT",
    "release",
    "rollback_to",
    "savepoint",
]

BEGIN = "BEGIN IMMEDIATE -- saga_choreo"
COMMIT = "COMMIT -- saga_choreo"
ROLLBACK = "ROLLBACK -- saga_choreo"


def savepoint(depth: int) -> str:
    return f"SAVEPOINT saga_choreo_{depth}"


def rollback_to(depth: int) -> str:
    return f"ROLLBACK TO saga_choreo_{depth}"


def release(depth: int) -> str:
    return f"RELEASE saga_choreo_{depth}"


_KEY = ("service", "saga_id", "definition", "step")
_NAMES = tuple(column.name for column in COLUMNS)
# Parameters are numbered by their place in COLUMNS, so that one tuple of values serves insert and update alike.
_PLACE = {name: f"?{number}" for number, name in enumerate(_NAMES, start=1)}
_ALL = ", ".join(_NAMES)
_SETS = ", ".join(f"{name} = {_PLACE[name]}" for name in _NAMES if name not in (*_KEY, "announced"))
_IS_KEY = " AND ".join(f"{name} = {_PLACE[name]}" for name in _KEY)

CLAIM = f"SELECT {_ALL} FROM saga_record WHERE service = ?1 AND saga_id = ?2 ORDER BY definition, step"  # noqa: S608  (constants only)
INSERT = f"INSERT INTO saga_record ({_ALL}) VALUES ({', '.join(_PLACE.values())})"  # noqa: S608  (constants only)
# `announced` may have been raised since this record was read, which is no change of version: it is never lowered.
UPDATE = (
    f"UPDATE saga_record SET {_SETS}, announced = max(announced, {_PLACE['announced']}) "  # noqa: S608  (constants only)
    f"WHERE {_IS_KEY} AND version = {_PLACE['version']} - 1"
)
# The place of `version` in the values of a record.
VERSION_AT = _NAMES.index("version")

_LETTER = [name for name in LETTER_COLUMNS if name != "number"]
ADD_QUARANTINED = f"INSERT INTO saga_quarantine ({', '.join(_LETTER)}) VALUES ({', '.join('?' * len(_LETTER))})"  # noqa: S608  (constants only)
ADD_HELD = "INSERT INTO saga_held (service, definition, channel, headers, body, received_ms) VALUES (?, ?, ?, ?, ?, ?)"
DELETE_HELD = "DELETE FROM saga_held WHERE number = ?"
ADD_COUNTER = (
    "INSERT INTO saga_counter (service, name, value) VALUES (?, ?, ?) "
    "ON CONFLICT (service, name) DO UPDATE SET value = value + excluded.value"
)
ADD_KEY = "INSERT OR IGNORE INTO saga_business_key (service, choreography, key, saga_id, digest) VALUES (?, ?, ?, ?, ?)"
KEY_OF = "SELECT saga_id, digest FROM saga_business_key WHERE key = ? AND choreography = ? AND service = ?"
ADD_LOCK = "INSERT OR IGNORE INTO saga_lock (service, name, saga_id) VALUES (?, ?, ?)"
LOCK_OF = "SELECT saga_id FROM saga_lock WHERE service = ? AND name = ?"
DELETE_LOCK = "DELETE FROM saga_lock WHERE service = ? AND name = ? AND saga_id = ?"

DUE = (
    "SELECT saga_id, definition, step FROM saga_record WHERE service = ? AND due_ms IS NOT NULL AND due_ms <= ? "
    "ORDER BY due_ms LIMIT ?"
)
DUE_NEWEST = DUE.replace("ORDER BY due_ms", "ORDER BY due_ms DESC")
NEXT_DUE = "SELECT min(due_ms) FROM saga_record WHERE service = ? AND due_ms IS NOT NULL"
UNANNOUNCED = (
    f"SELECT {_ALL} FROM saga_record WHERE service = ?1 AND announced < version AND changed_ms < max(?2, ?3) "  # noqa: S608  (constants only)
    f"AND changed_ms < CASE WHEN step = {ORIGIN} AND version = 1 THEN ?3 ELSE ?2 END ORDER BY changed_ms LIMIT ?4 OFFSET ?5"
)
UNANNOUNCED_NEWEST = UNANNOUNCED.replace("ORDER BY changed_ms", "ORDER BY changed_ms DESC")
MARK = (
    "UPDATE saga_record SET announced = min(version, ?5) "
    "WHERE service = ?1 AND saga_id = ?2 AND definition = ?3 AND step = ?4 AND announced < min(version, ?5)"
)
_HELD = "SELECT service, definition, channel, headers, body, received_ms, number, told FROM saga_held WHERE service = ? "
HELD = f"{_HELD}AND definition IN (SELECT value FROM json_each(?)) ORDER BY number LIMIT ?"  # noqa: S608  (constants only)
UNTOLD = f"{_HELD}AND told = 0 AND received_ms < ? ORDER BY received_ms, number LIMIT ?"
MARK_TOLD = "UPDATE saga_held SET told = 1 WHERE service = ? AND number = ?"
# A record that still runs, undoes, waits for a person or has something to say is never forgotten, whatever its age.
FORGET_RECORDS = f"""
DELETE FROM saga_record WHERE (service, saga_id, definition, step) IN (
  SELECT service, saga_id, definition, step FROM saga_record
  WHERE service = ? AND saga_id < ? AND announced >= version AND parked = ''
    AND CASE step WHEN {ORIGIN} THEN state IN ('OD', 'OC', 'OT') ELSE outcome <> '' AND state NOT IN ('R', 'CR') END
  ORDER BY saga_id LIMIT ?)
"""  # noqa: S608  (constants only)
FORGET_KEYS = """
DELETE FROM saga_business_key WHERE (key, choreography, service) IN (
  SELECT key, choreography, service FROM saga_business_key AS k WHERE service = ? AND saga_id < ?
    AND NOT EXISTS (SELECT 1 FROM saga_record AS r WHERE r.service = k.service AND r.saga_id = k.saga_id)
  ORDER BY saga_id LIMIT ?)
"""
FORGET_QUARANTINED = """
DELETE FROM saga_quarantine WHERE number IN (
  SELECT number FROM saga_quarantine
  WHERE service = ?1 AND received_ms < ?2 AND state_ms < ?2 AND state <> 'archived' ORDER BY received_ms LIMIT ?3)
"""
FORGET_HELD = """
DELETE FROM saga_held WHERE number IN (
  SELECT number FROM saga_held WHERE service = ? AND told = 1 AND received_ms < ? ORDER BY received_ms LIMIT ?)
"""
FORGET_ITEMS = """
DELETE FROM saga_job_item WHERE (job, place) IN (
  SELECT i.job, i.place FROM saga_job AS j JOIN saga_job_item AS i ON i.job = j.id
  WHERE j.service = ? AND j.finished_ms < ? LIMIT ?)
"""
FORGET_JOBS = """
DELETE FROM saga_job WHERE id IN (
  SELECT id FROM saga_job AS j WHERE service = ? AND finished_ms < ?
    AND NOT EXISTS (SELECT 1 FROM saga_job_item AS i WHERE i.job = j.id) LIMIT ?)
"""

# The few services in one file, by jumps along the primary key: it costs one look-up per service, not a scan.
SERVICES = """
WITH RECURSIVE found (service) AS (
  SELECT min(service) FROM saga_record
  UNION ALL
  SELECT (SELECT min(service) FROM saga_record WHERE service > found.service) FROM found WHERE found.service IS NOT NULL)
SELECT service FROM found WHERE service IS NOT NULL
"""
SAGAS = (
    "SELECT DISTINCT saga_id FROM saga_record WHERE service = ?1 AND saga_id < ?2 AND (?3 = '' OR choreography = ?3) "
    "ORDER BY saga_id DESC LIMIT ?4"
)
PARKED = SAGAS.replace("WHERE service", "WHERE parked <> '' AND service")
# By name: the statistics of a file may be old, or none, and a walk through all records is what this is to avoid.
OPEN = (
    "SELECT DISTINCT saga_id, 1 FROM saga_record INDEXED BY saga_record_due WHERE service = ?1 AND due_ms IS NOT NULL AND saga_id > ?2 "
    "ORDER BY saga_id LIMIT ?3"
)
RESTING = (
    "SELECT saga_id, max(due_ms IS NULL AND NOT (state IN ('OD', 'OC', 'OT') OR (outcome <> '' AND state IN ('D', 'T', 'K', 'X', 'C')))) "
    "FROM saga_record WHERE service = ?1 AND saga_id > ?2 GROUP BY saga_id ORDER BY saga_id LIMIT ?3"
)
KEYS = (
    "SELECT service, choreography, key, saga_id, digest FROM saga_business_key "
    "WHERE key = ?1 AND (?2 = '' OR choreography = ?2) AND (?3 = '' OR service = ?3) ORDER BY saga_id DESC LIMIT 1000"
)
COUNTERS = "SELECT name, sum(value) FROM saga_counter WHERE ?1 = '' OR service = ?1 GROUP BY name ORDER BY name"
QUARANTINED = (
    f"SELECT {', '.join(LETTER_COLUMNS)} FROM saga_quarantine "  # noqa: S608  (constants only)
    "WHERE ?1 = '' OR service = ?1 ORDER BY number DESC LIMIT ?2"
)
DEFINITIONS = "SELECT hash, canonical FROM saga_definition ORDER BY hash"
ADD_DEFINITION = "INSERT OR IGNORE INTO saga_definition (hash, canonical) VALUES (?, ?)"
HOLDERS = "SELECT service FROM saga_holder WHERE definition = ? ORDER BY service"
ADD_HOLDER = "INSERT OR IGNORE INTO saga_holder (definition, service) VALUES (?, ?)"
