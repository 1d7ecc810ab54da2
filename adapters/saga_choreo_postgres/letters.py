"""Dead letters and replay jobs: the ports `Letters` and `Jobs`. For people and a job's agent, none of it is in the hot path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from saga_choreo.ports import ITEM_COLUMNS, JOB_COLUMNS, LETTER_COLUMNS, Held, Job, JobItem, LetterFilter, Quarantined
from saga_choreo_postgres.runs import Runs
from saga_choreo_postgres.speakers import Speaker
from saga_choreo_postgres.work import clean, held_of, letter_values, quarantined_of

__all__ = ["PostgresLetters"]

_LETTERS = (
    f"SELECT {', '.join(LETTER_COLUMNS)} FROM saga_quarantine "  # noqa: S608  (constants only)
    "WHERE ($1 = '' OR service = $1) AND ($2 = '' OR state = $2) AND ($3 = '' OR saga_id = $3) "
    "AND ($4::bigint IS NULL OR number < $4) AND ($5::bigint[] IS NULL OR number = ANY($5)) ORDER BY number DESC LIMIT $6"
)
_WAITING = (
    "SELECT service, definition, channel, headers, body, received_ms, number, told FROM saga_held "
    "WHERE told AND ($1 = '' OR service = $1) ORDER BY number LIMIT $2"
)
_NEW = [name for name in LETTER_COLUMNS if name != "number"]
# Any number that nobody else is likely to lock: imports look before they insert, one after the other.
_LOCK = int.from_bytes(b"sagadlqi", "big")
_ADD_LETTER = (
    f"INSERT INTO saga_quarantine ({', '.join(_NEW)}) "  # noqa: S608  (constants only)
    f"SELECT {', '.join(f'${number}' for number in range(1, len(_NEW) + 1))} "
    "WHERE NOT EXISTS (SELECT 1 FROM saga_quarantine WHERE "
    + " AND ".join(f"{name} = ${_NEW.index(name) + 1}" for name in ("service", "received_ms", "channel", "headers", "body"))
    + ") RETURNING 1"
)
_MOVE = (
    "UPDATE saga_quarantine SET state = $3, state_ms = $6, operator = $4, note = $5 "
    "WHERE number = ANY($1::bigint[]) AND state = $2 RETURNING 1"
)
_TRIED = "UPDATE saga_quarantine SET attempts = attempts + 1, code = $2, detail = $3, last_ms = $4 WHERE number = $1"
_DELETE = "DELETE FROM saga_quarantine WHERE number = ANY($1::bigint[]) AND state = $2 RETURNING 1"

_JOB_HOLES = ", ".join(f"${number}" for number in range(1, len(JOB_COLUMNS) + 1))
_ADD_JOB = f"INSERT INTO saga_job ({', '.join(JOB_COLUMNS)}) VALUES ({_JOB_HOLES})"  # noqa: S608  (constants only)
_SAVE_JOB = (
    f"UPDATE saga_job SET ({', '.join(JOB_COLUMNS)}) = ({_JOB_HOLES}) "  # noqa: S608  (constants only)
    f"WHERE id = $1 AND version = ${JOB_COLUMNS.index('version') + 1} - 1 RETURNING 1"
)
_JOBS = (
    f"SELECT {', '.join(JOB_COLUMNS)} FROM saga_job "  # noqa: S608  (constants only)
    "WHERE ($1 = '' OR service = $1) AND ($2 = '' OR id = $2) AND (NOT $3 OR finished_ms IS NULL) ORDER BY id DESC LIMIT $4"
)
# What agents ask every second: over the partial index.
_ACTIVE = (
    f"SELECT {', '.join(JOB_COLUMNS)} FROM saga_job WHERE service = $1 AND finished_ms IS NULL "  # noqa: S608  (constants only)
    "ORDER BY id DESC LIMIT $2"
)
# The job's row is locked, so that it cannot change hands while its items are written.
_OWNER = "SELECT 1 FROM saga_job WHERE id = $1 AND owner = $2 FOR UPDATE"
_PUT_ITEM = (
    f"INSERT INTO saga_job_item ({', '.join(ITEM_COLUMNS)}) "  # noqa: S608  (constants only)
    f"VALUES ({', '.join(f'${number}' for number in range(1, len(ITEM_COLUMNS) + 1))}) ON CONFLICT (job, place) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in ITEM_COLUMNS if name not in ("job", "place"))
)
_ITEMS = (
    f"SELECT {', '.join(ITEM_COLUMNS)} FROM saga_job_item WHERE job = $1 AND place > $2 "  # noqa: S608  (constants only)
    "AND ($3::text[] IS NULL OR state = ANY($3)) ORDER BY place LIMIT $4"
)
_COUNTS = "SELECT state, count(*) FROM saga_job_item WHERE job = $1 GROUP BY state"


class PostgresLetters:
    _runs: Runs

    async def letters(self, wanted: LetterFilter) -> Sequence[Quarantined]:
        numbers = list(wanted.numbers) or None
        values = (wanted.service, wanted.state, wanted.saga_id, wanted.before, numbers, wanted.limit)
        return [quarantined_of(row) for row in await self._runs.read(_LETTERS, *values)]

    async def waiting(self, service: str, limit: int) -> Sequence[Held]:
        return [held_of(row) for row in await self._runs.read(_WAITING, service, limit)]

    async def add_letters(self, letters: Sequence[Quarantined]) -> int:
        async def work(speaker: Speaker) -> int:
            await speaker.fetch("SELECT pg_advisory_xact_lock($1)", _LOCK)
            return sum([len(await speaker.fetch(_ADD_LETTER, *letter_values(letter))) for letter in letters])

        return await self._runs.write(work)

    async def move_letters(self, numbers: Sequence[int], of: str, to: str, operator: str, note: str, now_ms: int) -> int:
        values = (sorted(set(numbers)), of, to, clean(operator), clean(note), now_ms)
        return await self._runs.write(lambda speaker: _changed(speaker, _MOVE, *values))

    async def tried_again(self, found: Sequence[tuple[int, str, str]], now_ms: int) -> None:
        rows = sorted((number, clean(code), clean(detail), now_ms) for number, code, detail in found)
        await self._runs.write(lambda speaker: speaker.each(_TRIED, rows))

    async def delete_letters(self, numbers: Sequence[int], of: str) -> int:
        return await self._runs.write(lambda speaker: _changed(speaker, _DELETE, sorted(set(numbers)), of))

    async def add_job(self, job: Job, items: Sequence[JobItem]) -> None:
        async def work(speaker: Speaker) -> None:
            await speaker.fetch(_ADD_JOB, *_values(job))
            await speaker.each(_PUT_ITEM, [_values(item) for item in items])

        await self._runs.write(work)

    async def jobs(self, service: str = "", *, id_: str = "", active: bool = False, limit: int = 50) -> Sequence[Job]:
        if service and active and not id_:
            rows = await self._runs.read(_ACTIVE, service, limit)
        else:
            rows = await self._runs.read(_JOBS, service, id_, active, limit)
        return [Job(**dict(zip(JOB_COLUMNS, row, strict=True))) for row in rows]

    async def save_job(self, job: Job) -> bool:
        return await self._runs.write(lambda speaker: _changed(speaker, _SAVE_JOB, *_values(job))) == 1

    async def items(self, job: str, states: Sequence[str] = (), *, after: int = -1, limit: int = 500) -> Sequence[JobItem]:
        rows = await self._runs.read(_ITEMS, job, after, list(map(str, states)) or None, limit)
        return [JobItem(**dict(zip(ITEM_COLUMNS, row, strict=True))) for row in rows]

    async def item_counts(self, job: str) -> Mapping[str, int]:
        return {row[0]: row[1] for row in await self._runs.read(_COUNTS, job)}

    async def save_items(self, job: str, owner: str, items: Sequence[JobItem]) -> bool:
        async def work(speaker: Speaker) -> bool:
            if not await speaker.fetch(_OWNER, job, owner):
                return False
            await speaker.each(_PUT_ITEM, [_values(item) for item in items])
            return True

        return await self._runs.write(work)


def _values(row: Job | JobItem) -> tuple[Any, ...]:
    return tuple(clean(value) if isinstance(value, str) else value for value in astuple(row))


async def _changed(speaker: Speaker, statement: str, *parameters: Any) -> int:
    return len(await speaker.fetch(statement, *parameters))
