"""Making, looking at and dropping the partitions of `saga_record`, as plain functions on a speaker in an open transaction.

Nobody waits for any of it for long. A new day needs a lock on the default partition, which the hot path never touches. Dropping one needs
a moment in which nobody is in any of the record's partitions: it is asked for with a time-out of milliseconds, several times, and next
time again. Who dies meanwhile leaves nothing behind, since all of it is in transactions.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

import asyncpg

from saga_choreo_postgres.days import DAY_MS, Partition, missing, ms_of, name_of, over, parsed, start_of
from saga_choreo_postgres.speakers import Speaker
from saga_choreo_postgres.statements import ENDED

__all__ = ["BOUND_OF", "Dropped", "drop", "make_days", "partitions", "remarks", "today"]

# kept: a service wants it for longer. pinned: nobody does, but for a saga that is not over.
Dropped = Literal["dropped", "kept", "pinned", "busy"]

_log = logging.getLogger("saga_choreo.postgres")

# How long agents may stand behind a lock that is asked for here: less than the budget of one of their transactions (250 ms).
_MAKE_LOCK, _DROP_LOCK = "500ms", "150ms"
_DROP_TRIES, _DROP_PAUSE_S = 5, 0.2
# Attaching looks through the default partition while scans over all days wait; it holds next to nothing.
_MAKE_MAX = "2s"
# Looking through the records of a day, millions perhaps, with a lock that only keeps late writers of that day away.
_LOOK_MAX = "10min"
# What two of us must not do at once; the other half of the key is the table.
_LOCK = int.from_bytes(b"days", "big")
_ALONE = f"SELECT pg_advisory_xact_lock({_LOCK}, 'saga_record'::regclass::oid::int)"
_PARTITIONS = (
    "SELECT c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = 'saga_record'::regclass ORDER BY c.relname"
)
_NOW_MS = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_IN_DEFAULT = "SELECT EXISTS (SELECT FROM saga_record_default WHERE saga_id >= $1 AND saga_id < $2)"
# A lock that was not given in time, a statement that took too long, somebody else who waits for us.
_IN_THE_WAY = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.DeadlockDetectedError)
_MAKE_THEM = "agents that may create tables make partitions ahead; see to the grants, or run: saga-choreo store migrate"
_NOT_OVER = "of sagas that are not over although they started before the horizon; see: saga-choreo sagas stuck"
# As in the migration that made the default one.
_STORAGE = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_analyze_scale_factor = 0.05"
# In saga_meta, under this and the service's name: the time (ms) before which it needs no saga that has ended.
BOUND_OF = "forget:"
_SERVICES = """
WITH RECURSIVE found (service) AS (
  SELECT min(service) FROM {0}
  UNION ALL
  SELECT (SELECT min(r.service) FROM {0} AS r WHERE r.service > found.service) FROM found WHERE found.service IS NOT NULL)
SELECT found.service, m.value::bigint FROM found LEFT JOIN saga_meta AS m ON m.name = $1 || found.service
WHERE found.service IS NOT NULL ORDER BY found.service
"""
# The first three look at small indexes, and spare the look at the whole of it in nearly all cases in which something must stay.
_STAYS = f"""
SELECT EXISTS (SELECT FROM {{0}} WHERE parked <> '') OR EXISTS (SELECT FROM {{0}} WHERE announced < version)
  OR EXISTS (SELECT FROM {{0}} WHERE due_ms IS NOT NULL AND NOT {ENDED}) OR EXISTS (SELECT FROM {{0}} WHERE NOT {ENDED})
"""  # noqa: S608  (constants, and names that PostgreSQL gave)
_HOLDERS = f"SELECT service, count(*) FROM {{0}} WHERE NOT {ENDED} GROUP BY service ORDER BY service"  # noqa: S608  (as above)


async def partitions(speaker: Speaker) -> list[Partition]:
    """All but the default one."""
    found = [parsed(name, bounds) for name, bounds in await speaker.fetch(_PARTITIONS)]
    return [one for one in found if one is not None]


async def today(speaker: Speaker) -> int:
    """By the server's clock, in days since 1970."""
    return int((await speaker.fetch(_NOW_MS))[0][0]) // DAY_MS


async def make_days(speaker: Speaker, day: int) -> bool:
    """The partition of that day and some ahead, where they are missing. A day whose records lie in the default partition stays there.
    False: somebody was in the way; the transaction can only be rolled back then, and the next time will do."""
    if not missing(await partitions(speaker), day):
        return True
    try:
        await speaker.say(f"SET LOCAL lock_timeout = '{_MAKE_LOCK}'; SET LOCAL statement_timeout = '{_MAKE_MAX}'")
        await speaker.fetch(_ALONE)
        for new in missing(await partitions(speaker), day):
            await _make(speaker, new)
    except _IN_THE_WAY as error:
        _log.info("no partitions were made ahead, which is tried again: %s", error)
        return False
    return True


async def _make(speaker: Speaker, day: int) -> None:
    first, end = start_of(day), start_of(day + 1)
    if (await speaker.fetch(_IN_DEFAULT, first, end))[0][0]:
        return
    name = name_of(day)
    await speaker.say(
        f"CREATE TABLE {name} (LIKE saga_record) WITH ({_STORAGE}); "
        f"ALTER TABLE saga_record ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{end}')"
    )


async def drop(speaker: Speaker, partition: Partition) -> Dropped:
    """Unless something in it must stay. Late writers of these days wait meanwhile; all others only for a moment at the end. If it was
    busy, the transaction can only be rolled back."""
    try:
        await speaker.say(f"SET LOCAL lock_timeout = '{_DROP_LOCK}'; SET LOCAL statement_timeout = '{_LOOK_MAX}'")
        await speaker.say("SET LOCAL enable_seqscan = on")
        await speaker.fetch(_ALONE)
        await speaker.say(f"LOCK TABLE {partition.name} IN SHARE MODE")
        if reason := await _needed(speaker, partition):
            return reason
    except (*_IN_THE_WAY, asyncpg.UndefinedTableError):
        return "busy"
    for _ in range(_DROP_TRIES):
        try:
            await speaker.say(f"SAVEPOINT saga_choreo_drop; DROP TABLE {partition.name}")
        except _IN_THE_WAY:
            await speaker.say("ROLLBACK TO SAVEPOINT saga_choreo_drop")
            await asyncio.sleep(_DROP_PAUSE_S)
        else:
            return "dropped"
    return "busy"


async def _needed(speaker: Speaker, partition: Partition) -> Literal["kept", "pinned"] | None:
    for _, bound_ms in await speaker.fetch(_SERVICES.format(partition.name), BOUND_OF):
        if bound_ms is None or bound_ms < ms_of(partition.end):
            return "kept"
    return "pinned" if (await speaker.fetch(_STAYS.format(partition.name), timeout_s=None))[0][0] else None


async def remarks(speaker: Speaker) -> list[tuple[str, str, str]]:
    """What people should look at: (code, service, what it is about)."""
    day = await today(speaker)
    days = await partitions(speaker)
    found = [
        ("no_partition", "", f"{name_of(one)!r} is not there, so its records go to the default partition: {_MAKE_THEM}")
        for one in missing(days, day)[:1]
    ]
    for one in over(days, start_of(day)):
        for service, count in await _pinning(speaker, one):
            found.append(("pinned", service, f"partition {one.name!r} is kept for {count} records {_NOT_OVER}"))
    return found


async def _pinning(speaker: Speaker, partition: Partition) -> list[tuple[str, int]]:
    """Services that would have this partition dropped, but for so many records of sagas that are not over. For people: it reads all of it."""
    bounds = await speaker.fetch(_SERVICES.format(partition.name), BOUND_OF)
    done = {service for service, bound_ms in bounds if bound_ms is not None and bound_ms >= ms_of(partition.end)}
    if not done:
        return []
    held = await speaker.fetch(_HOLDERS.format(partition.name), timeout_s=None)
    return [(service, count) for service, count in held if service in done]
