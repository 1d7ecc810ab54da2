"""What a transaction does to the saga tables, as plain functions on a speaker: one round trip each, no state.

Why single rows, sent all at once, and not one statement over arrays: a row's own statement always finds its row through the
primary key, while the plan of a join with arrays is made once and may be a scan of the whole table, made while that was small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

import orjson

from saga_choreo.errors import SagaError
from saga_choreo.ports import (
    COLUMNS,
    LETTER_COLUMNS,
    BusinessKey,
    Completion,
    Held,
    Quarantined,
    Record,
    SagaLock,
    from_columns,
    to_columns,
)
from saga_choreo_postgres import statements as sql
from saga_choreo_postgres.days import day_of, on_day
from saga_choreo_postgres.speakers import Speaker

__all__ = [
    "NotHere",
    "Outdated",
    "append",
    "by_day",
    "claim",
    "clean",
    "complete",
    "held_of",
    "letter_values",
    "lock",
    "quarantined_of",
    "register",
    "save",
]

# Between a look that found it taken and the next, somebody may have freed it; each further time is less likely.
_TRIES = 5
_NAMES = [column.name for column in COLUMNS]
_REASON, _ERROR = _NAMES.index("reason"), _NAMES.index("error")


class Outdated(Exception):
    """A record was changed by somebody else since it was read."""


class NotHere(Exception):
    """The caller's own connection does not lead to the store, or commits less durably."""


async def claim(speaker: Speaker, service: str, sagas: Sequence[UUID]) -> list[Record]:
    rows = await by_day(speaker, sql.CLAIM, [(service, saga) for saga in sorted(set(sagas))])
    return [from_columns(values) for values in rows]


async def save(speaker: Speaker, records: Sequence[Record]) -> None:
    ordered = records if len(records) == 1 else sorted(records, key=lambda record: (record.service, record.record_key))
    new = [record for record in ordered if record.version == 1]
    changed = [record for record in ordered if record.version != 1]
    if changed and len(await by_day(speaker, sql.UPDATE, list(map(_values, changed)))) != len(changed):
        raise Outdated(
            f"one of {len(changed)} records is not at the version it was read at any more (or does not exist), the first is "
            f"{_named(changed[0])}; nothing was saved: claim again and decide anew"
        )
    if new and len(await by_day(speaker, sql.INSERT, list(map(_values, new)))) != len(new):
        raise Outdated(
            f"a record that is new here exists already (one of {len(new)}, the first is {_named(new[0])}); "
            "nothing was saved: claim again and decide anew"
        )


async def by_day(speaker: Speaker, statement: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Run it once for each of the rows, in which a saga's id comes second; all answers together. A round trip for each day, and nearly
    always all sagas are of one."""
    if len(rows) == 1:
        return await speaker.fetch(on_day(statement, day_of(rows[0][1])), *rows[0])
    found: list[Any] = []
    for day, some in groupby(rows, key=lambda row: day_of(row[1])):
        found += await speaker.fetch_each(on_day(statement, day), list(some))
    return found


async def complete(speaker: Speaker, service: str, ends: Sequence[Completion], now_ms: int) -> set[UUID]:
    """One round trip for all, and one more for those of which not every record was changed."""
    ordered = sorted(ends, key=lambda end: end.key)
    rows = [(service, *end.key, end.origin, end.deadline_ms, end.told, now_ms, end.heard) for end in ordered]
    changed = {(row[0], row[1]) for row in await by_day(speaker, sql.COMPLETE, rows)}
    sagas = Counter(end.key.saga_id for end in ends)
    doubtful = {
        end.key.saga_id: (service, end.key.saga_id, end.origin, end.deadline_ms)
        for end in ordered
        if (end.key.saga_id, end.key.step) not in changed
    }
    if not doubtful:
        return set(sagas)
    looked = await by_day(speaker, sql.IS_COMPLETED, list(doubtful.values()))
    found = {UUID(bytes=row[0].bytes): row[2] for row in looked if row[1]}
    return sagas.keys() - doubtful.keys() | {saga for saga, records in found.items() if records >= sagas[saga]}


def _values(record: Record) -> list[Any]:
    values = list(to_columns(record))
    values[1] = record.saga_id
    values[_REASON], values[_ERROR] = clean(record.reason), clean(record.error)
    return values


def _named(record: Record) -> str:
    return f"step {record.step!r} of saga {str(record.saga_id)!r} in service {record.service!r}"


async def append(
    speaker: Speaker,
    quarantined: Sequence[Quarantined],
    held: Sequence[Held],
    counters: Mapping[tuple[str, str], int],
    unhold: Sequence[int],
    unlock: Sequence[SagaLock],
) -> None:
    parts = {
        "quarantined": _arrays([letter_values(q) for q in quarantined]),
        "held": _arrays([(h.service, h.definition, h.channel, _text(h.headers), h.body, h.received_ms) for h in held]),
        "counters": _arrays([(service, name, more) for (service, name), more in sorted(counters.items())]),
        "unlock": _arrays([(one.service, one.name, one.saga_id) for one in unlock]),
        "unhold": [list(unhold)] if unhold else [],
    }
    wanted = tuple(part for part, arrays in parts.items() if arrays)
    await speaker.fetch(sql.append(wanted), *(array for part in wanted for array in parts[part]))


async def lock(speaker: Speaker, wanted: SagaLock) -> SagaLock:
    """Waits for a transaction that is just taking or freeing it."""
    for _ in range(_TRIES):
        if await speaker.fetch(sql.ADD_LOCK, wanted.service, wanted.name, wanted.saga_id):
            return wanted
        rows = await speaker.fetch(sql.LOCK_OF, wanted.service, wanted.name)
        if rows:
            return SagaLock(service=wanted.service, name=wanted.name, saga_id=UUID(bytes=rows[0][0].bytes))
    raise Outdated(f"the lock {wanted.name!r} was taken and freed again and again by others; try again")


async def register(
    speaker: Speaker, key: BusinessKey, record: Record | None = None, *, incarnation: str = "", durable: bool = False
) -> BusinessKey:
    """With `incarnation`: raises NotHere unless the connection leads to that store, and (`durable`) its commits are synced."""
    if record is None:
        added = bool(await speaker.fetch(sql.ADD_KEY, key.service, key.choreography, key.key, key.saga_id, key.digest))
    else:
        joined = (incarnation, durable) if incarnation else ()
        rows = await speaker.fetch(sql.START_JOINED if incarnation else sql.START, *_values(record), key.key, key.digest, *joined)
        here, saved = rows[0]
        if not here:
            raise NotHere
        added = bool(saved)
    if added:
        return key
    rows = await speaker.fetch(sql.KEY_OF, key.key, key.choreography, key.service)
    if not rows:
        raise SagaError(f"the business key {key.key!r} is neither new nor stored; a trigger on saga_business_key may remove it")
    saga_id, digest = rows[0]
    return BusinessKey(
        service=key.service, choreography=key.choreography, key=key.key, saga_id=UUID(bytes=saga_id.bytes), digest=digest
    )


def _arrays(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def letter_values(letter: Quarantined) -> tuple[Any, ...]:
    """In the order of LETTER_COLUMNS, without the number."""
    values = {name: getattr(letter, name) for name in LETTER_COLUMNS if name != "number"} | {"headers": _text(letter.headers)}
    return tuple(clean(value) if isinstance(value, str) else value for value in values.values())


def quarantined_of(row: Sequence[Any]) -> Quarantined:
    """From values in the order of LETTER_COLUMNS."""
    values = dict(zip(LETTER_COLUMNS, row, strict=True))
    return Quarantined(**values | {"headers": orjson.loads(values["headers"])})


def held_of(row: Sequence[Any]) -> Held:
    service, definition, channel, headers, body, received_ms, number, told = row
    return Held(
        service=service,
        definition=definition,
        channel=channel,
        headers=orjson.loads(headers),
        body=body,
        received_ms=received_ms,
        number=number,
        told=told,
    )


def _text(headers: Mapping[str, str]) -> str:
    """JSON writes a NUL as an escape, which a text column may hold."""
    return orjson.dumps({_encodable(name): _encodable(value) for name, value in headers.items()}).decode()


def clean(text: str) -> str:
    """PostgreSQL's text holds no NUL and no half of a surrogate pair; an error message or a stranger's header may."""
    return _encodable(text).replace("\0", "\N{REPLACEMENT CHARACTER}")


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
