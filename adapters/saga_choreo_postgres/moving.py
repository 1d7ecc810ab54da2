"""How a table from before there were days becomes the first of their partitions, while agents work on it.

To attach it, PostgreSQL must know that no saga in it, and none to come until then, started on a later day. A constraint promises that
and is proved by reading the table, during which everybody goes on; then attaching it takes a moment (migration 003). Days begin a week
ahead: until then all records are in this one partition, so a release from before, which addresses rows by their place in the
table, can finish its rollout. It must be gone by then. A promise that nobody kept is taken back by who tries next.
"""

from __future__ import annotations

from saga_choreo_postgres.days import start_of
from saga_choreo_postgres.partitions import today
from saga_choreo_postgres.speakers import Speaker

__all__ = ["DAYS_SINCE", "ROLLOUT_DAYS", "prepare"]

# The version of the tables that has days.
DAYS_SINCE = 3
# How long agents of the release before may go on beside those of this one.
ROLLOUT_DAYS = 7
_PUT = "INSERT INTO saga_meta (name, value) VALUES ('days_from', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


async def prepare(speaker: Speaker) -> None:
    """On a connection without a transaction, before the migration. Nobody else may do it at the same time."""
    first = start_of(await today(speaker) + ROLLOUT_DAYS + 1)
    await speaker.say(
        "BEGIN; SET LOCAL lock_timeout = '2s'; ALTER TABLE saga_record DROP CONSTRAINT IF EXISTS saga_record_before_days, "
        f"ADD CONSTRAINT saga_record_before_days CHECK (saga_id < '{first}') NOT VALID"
    )
    await speaker.fetch(_PUT, str(first))
    await speaker.say("COMMIT")
    await speaker.fetch("ALTER TABLE saga_record VALIDATE CONSTRAINT saga_record_before_days", timeout_s=None)
