"""Dead letters and replay jobs: the ports `Letters` and `Jobs`. For people and a job's agent, none of it is in the hot path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import orjson

from saga_choreo.ports import ITEM_COLUMNS, JOB_COLUMNS, LETTER_COLUMNS, Held, Job, JobItem, LetterFilter, Quarantined
from saga_choreo_sqlite import statements as sql
from saga_choreo_sqlite.driver import Connection
from saga_choreo_sqlite.reads import Reads
from saga_choreo_sqlite.work import held_of, letter_values, quarantined_of
from saga_choreo_sqlite.writer import Writer

__all__ = ["ACTIVE_JOBS", "ITEMS_IN", "SqliteLetters"]

_LETTERS = (
    f"SELECT {', '.join(LETTER_COLUMNS)} FROM saga_quarantine "  # noqa: S608  (constants only)
    "WHERE (?1 = '' OR service = ?1) AND (?2 = '' OR state = ?2) AND (?3 = '' OR saga_id = ?3) AND (?4 IS NULL OR number < ?4) "
    "ORDER BY number DESC LIMIT ?5"
)
_LETTERS_BY_NUMBER = _LETTERS.replace("ORDER BY", "AND number IN (SELECT value FROM json_each(?6)) ORDER BY")
_WAITING = (
    "SELECT service, definition, channel, headers, body, received_ms, number, told FROM saga_held "
    "WHERE told = 1 AND (?1 = '' OR service = ?1) ORDER BY number LIMIT ?2"
)
_SAME = "SELECT 1 FROM saga_quarantine WHERE service = ? AND received_ms = ? AND channel = ? AND headers = ? AND body = ?"
_MOVE = "UPDATE saga_quarantine SET state = ?, state_ms = ?, operator = ?, note = ? WHERE number = ? AND state = ?"
_TRIED = "UPDATE saga_quarantine SET attempts = attempts + 1, code = ?, detail = ?, last_ms = ? WHERE number = ?"
_DELETE = "DELETE FROM saga_quarantine WHERE number = ? AND state = ?"

_JOB_HOLES = ", ".join(f"?{number}" for number in range(1, len(JOB_COLUMNS) + 1))
_ADD_JOB = f"INSERT INTO saga_job ({', '.join(JOB_COLUMNS)}) VALUES ({_JOB_HOLES})"  # noqa: S608  (constants only)
_SAVE_JOB = (
    f"UPDATE saga_job SET ({', '.join(JOB_COLUMNS)}) = ({_JOB_HOLES}) "  # noqa: S608  (constants only)
    f"WHERE id = ?1 AND version = ?{JOB_COLUMNS.index('version') + 1} - 1"
)
_JOBS = (
    f"SELECT {', '.join(JOB_COLUMNS)} FROM saga_job "  # noqa: S608  (constants only)
    "WHERE (?1 = '' OR service = ?1) AND (?2 = '' OR id = ?2) AND (NOT ?3 OR finished_ms IS NULL) ORDER BY id DESC LIMIT ?4"
)
# What agents ask every second.
ACTIVE_JOBS = (
    f"SELECT {', '.join(JOB_COLUMNS)} FROM saga_job WHERE service = ?1 AND finished_ms IS NULL "  # noqa: S608  (constants only)
    "ORDER BY id DESC LIMIT ?2"
)
_OWNER = "SELECT 1 FROM saga_job WHERE id = ? AND owner = ?"
_PUT_ITEM = (
    f"INSERT OR REPLACE INTO saga_job_item ({', '.join(ITEM_COLUMNS)}) "  # noqa: S608  (constants only)
    f"VALUES ({', '.join('?' * len(ITEM_COLUMNS))})"
)
_ITEMS = (
    f"SELECT {', '.join(ITEM_COLUMNS)} FROM saga_job_item WHERE job = ?1 AND place > ?2 "  # noqa: S608  (constants only)
    "ORDER BY place LIMIT ?3"
)
# Said, not guessed: without statistics SQLite would go through all places of the job.
ITEMS_IN = _ITEMS.replace("ORDER BY", "AND state = ?4 ORDER BY").replace("item WHERE", "item INDEXED BY saga_job_item_state WHERE")
_COUNTS = "SELECT state, count(*) FROM saga_job_item WHERE job = ? GROUP BY state"


class SqliteLetters:
    _reads: Reads
    _writer: Writer

    async def letters(self, wanted: LetterFilter) -> Sequence[Quarantined]:
        values: list[Any] = [wanted.service, wanted.state, wanted.saga_id, wanted.before, wanted.limit]
        statement = _LETTERS
        if wanted.numbers:
            statement = _LETTERS_BY_NUMBER
            values.append(orjson.dumps(list(wanted.numbers)).decode())
        return [quarantined_of(row) for row in await self._reads.run(lambda c: _rows(c, statement, *values))]

    async def waiting(self, service: str, limit: int) -> Sequence[Held]:
        return [held_of(row) for row in await self._reads.run(lambda c: _rows(c, _WAITING, service, limit))]

    async def add_letters(self, letters: Sequence[Quarantined]) -> int:
        places = [index for index, name in enumerate(LETTER_COLUMNS) if name != "number"]
        names = [LETTER_COLUMNS[index] for index in places]

        def work(connection: Connection) -> int:
            added = 0
            for values in map(letter_values, letters):
                row = dict(zip(names, values, strict=True))
                same = [row[name] for name in ("service", "received_ms", "channel", "headers", "body")]
                if connection.execute(_SAME, same).fetchone() is None:
                    connection.execute(sql.ADD_QUARANTINED, values)
                    added += 1
            return added

        return await self._writer.run(work)

    async def move_letters(self, numbers: Sequence[int], of: str, to: str, operator: str, note: str, now_ms: int) -> int:
        rows = [(to, now_ms, operator, note, number, of) for number in sorted(set(numbers))]
        return await self._writer.run(lambda c: _changed(c, _MOVE, rows))

    async def tried_again(self, found: Sequence[tuple[int, str, str]], now_ms: int) -> None:
        rows = [(code, detail, now_ms, number) for number, code, detail in found]
        await self._writer.run(lambda c: _changed(c, _TRIED, rows))

    async def delete_letters(self, numbers: Sequence[int], of: str) -> int:
        return await self._writer.run(lambda c: _changed(c, _DELETE, [(number, of) for number in sorted(set(numbers))]))

    async def add_job(self, job: Job, items: Sequence[JobItem]) -> None:
        def work(connection: Connection) -> None:
            connection.execute(_ADD_JOB, astuple(job))
            connection.executemany(_PUT_ITEM, [astuple(item) for item in items])

        await self._writer.run(work)

    async def jobs(self, service: str = "", *, id_: str = "", active: bool = False, limit: int = 50) -> Sequence[Job]:
        def read(connection: Connection) -> list[Any]:
            if service and active and not id_:
                return _rows(connection, ACTIVE_JOBS, service, limit)
            return _rows(connection, _JOBS, service, id_, active, limit)

        return [Job(**dict(zip(JOB_COLUMNS, row, strict=True))) for row in await self._reads.run(read)]

    async def save_job(self, job: Job) -> bool:
        return await self._writer.run(lambda c: _changed(c, _SAVE_JOB, [astuple(job)])) == 1

    async def items(self, job: str, states: Sequence[str] = (), *, after: int = -1, limit: int = 500) -> Sequence[JobItem]:
        def read(connection: Connection) -> list[Any]:
            if not states:
                return _rows(connection, _ITEMS, job, after, limit)
            found = [row for state in states for row in _rows(connection, ITEMS_IN, job, after, limit, state)]
            return sorted(found, key=lambda row: row[1])[:limit]

        return [JobItem(**dict(zip(ITEM_COLUMNS, row, strict=True))) for row in await self._reads.run(read)]

    async def item_counts(self, job: str) -> Mapping[str, int]:
        return dict(await self._reads.run(lambda c: _rows(c, _COUNTS, job)))

    async def save_items(self, job: str, owner: str, items: Sequence[JobItem]) -> bool:
        def work(connection: Connection) -> bool:
            if connection.execute(_OWNER, (job, owner)).fetchone() is None:
                return False
            connection.executemany(_PUT_ITEM, [astuple(item) for item in items])
            return True

        return await self._writer.run(work)


def _rows(connection: Connection, statement: str, *parameters: Any) -> list[Any]:
    return list(connection.execute(statement, parameters))


def _changed(connection: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> int:
    """How many rows were changed."""
    changed = 0
    for row in rows:
        connection.execute(statement, row)
        changed += connection.changes()
    return changed
