"""How a PostgreSQL store forgets: whole days of records at once, the rest row by row in bounded numbers.

A day is dropped when all of it is beyond the horizon of every service that has records in it, and none of them is of a saga that is not
over. One that still holds such a saga is kept for it, and what else is in it goes row by row, as in the default partition. Each service
writes down how far it has forgotten, since several may share a database and each has a horizon of its own.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import groupby
from typing import assert_never
from uuid import UUID

from saga_choreo.errors import SagaError, StoreUnavailable
from saga_choreo_postgres import statements as sql
from saga_choreo_postgres.days import DAY_MS, Partition, day_of, ms_of, on_day, over, sweep_to
from saga_choreo_postgres.partitions import BOUND_OF, Dropped, drop, make_days, partitions, today
from saga_choreo_postgres.runs import Runs
from saga_choreo_postgres.speakers import Speaker

__all__ = ["PostgresRetention"]

_log = logging.getLogger("saga_choreo.postgres")

# To find that a day is still needed may mean to read all of it; a saga that is open after a week seldom ends within the hour.
_LOOK_AGAIN_S = 3600.0
_PINNED = (
    "holds sagas that are not over although they started before the horizon, and is kept for them; see: saga-choreo store check"
)
_PUT_BOUND = (
    "INSERT INTO saga_meta AS m (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value "
    "WHERE m.value <> excluded.value"
)


class PostgresRetention:
    _runs: Runs
    _needed: dict[str, float]  # partitions that were found to be needed, and when to look again
    _told: set[str]  # what was said once, and is not said again

    async def forget(self, service: str, before: UUID, limit: int) -> int:
        """Drops what it can of whole days, then counts every row it deletes, at most `limit`: ended records below the day that
        `before` is in, and business keys once no record of their saga is left. Quarantined messages, and held ones that were told,
        go by the time they were received."""
        bound = await self._retire(service, before)
        by_time = (sql.FORGET_QUARANTINED, sql.FORGET_HELD, sql.FORGET_ITEMS, sql.FORGET_JOBS)

        async def work(speaker: Speaker) -> int:
            gone = await _forget_records(speaker, service, bound, limit)
            for statement, until in ((sql.FORGET_KEYS, bound), *((one, ms_of(before)) for one in by_time)):
                if gone < limit:
                    gone += len(await speaker.fetch(statement, service, until, limit - gone))
            return gone

        return await self._runs.write(work, durable=False)

    async def make_days(self) -> None:
        """Partitions ahead of time, where this user may make them: otherwise records go to the default one, which always works."""
        try:
            await self._runs.write(_make_days)
        except StoreUnavailable:
            raise
        except SagaError as error:
            self._say_once("make", f"partitions for the coming days could not be made; 'store migrate' makes them too: {error}")

    async def _retire(self, service: str, before: UUID) -> UUID:
        """Drop the days that are over. Rows are to be deleted one by one below the id that this returns."""
        await self.make_days()

        async def note(speaker: Speaker) -> list[Partition]:
            await speaker.fetch(_PUT_BOUND, f"{BOUND_OF}{service}", str(ms_of(before)))
            return await partitions(speaker)

        days = await self._runs.write(note)
        bound = sweep_to(days, before)
        for one in over(days, before):
            # Somebody is always in the way of one that is a day late: then it goes row by row.
            if await self._drop(one) == "busy" and ms_of(before) < ms_of(one.end) + DAY_MS:
                bound = min(bound, one.start)
        return bound

    async def _drop(self, one: Partition) -> Dropped:
        now = asyncio.get_running_loop().time()
        if self._needed.get(one.name, 0.0) > now:
            return "kept"
        try:
            said: Dropped = await self._runs.write(lambda speaker: drop(speaker, one))
        except StoreUnavailable:
            raise
        except SagaError as error:
            self._say_once(one.name, f"partition {one.name!r} is over and could not be dropped; its rows are deleted: {error}")
            said = "kept"
        match said:
            case "dropped":
                self._needed.pop(one.name, None)
                _log.info("partition %r was dropped: all its sagas are over and beyond the horizon", one.name)
            case "kept":
                self._needed[one.name] = now + _LOOK_AGAIN_S
            case "pinned":
                self._needed[one.name] = now + _LOOK_AGAIN_S
                self._say_once(f"pinned {one.name}", f"partition {one.name!r} {_PINNED}")
            case "busy":
                _log.info("partition %r is over and busy; dropping it is tried again", one.name)
            case _:
                assert_never(said)
        return said

    def _say_once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.warning("%s", text)


async def _make_days(speaker: Speaker) -> None:
    await make_days(speaker, await today(speaker))


async def _forget_records(speaker: Speaker, service: str, bound: UUID, limit: int) -> int:
    found = await speaker.fetch(sql.FORGETTABLE, service, bound, limit)
    for day, keys in groupby(found, key=lambda row: day_of(row[0])):  # in the order of ids
        await speaker.each(on_day(sql.FORGET_RECORD, day), [(service, *key) for key in keys])
    return len(found)
