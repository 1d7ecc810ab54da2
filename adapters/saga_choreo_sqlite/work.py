"""What a transaction does to the saga tables, as plain functions on a connection: no waiting, no state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import apsw
import orjson

from saga_choreo.errors import SagaError
from saga_choreo.ports import LETTER_COLUMNS, BusinessKey, Held, Quarantined, Record, SagaLock, from_columns, to_columns
from saga_choreo_sqlite import statements as sql
from saga_choreo_sqlite.driver import Connection

__all__ = ["Outdated", "append", "claim", "held_of", "letter_values", "lock", "quarantined_of", "register", "save"]


class Outdated(Exception):
    """A record was changed by somebody else since it was read."""


def claim(connection: Connection, service: str, sagas: Sequence[UUID]) -> list[Record]:
    wanted = sorted({saga_id.bytes for saga_id in sagas})
    rows: Any = connection.executemany(sql.CLAIM, [(service, saga_id) for saga_id in wanted])
    return [from_columns(values) for values in rows]


def save(connection: Connection, records: Sequence[Record]) -> None:
    new: list[tuple[Any, ...]] = []
    for record in records:
        if record.version == 1:
            new.append(to_columns(record))
        else:
            connection.execute(sql.UPDATE, to_columns(record))
            if connection.changes() != 1:
                raise _outdated(record)
    if not new:
        return
    try:
        connection.executemany(sql.INSERT, new)
    except apsw.ConstraintError:
        raise Outdated(
            f"a record that is new here exists already (one of {len(new)}, the first of saga {UUID(bytes=new[0][1])!s}); "
            "nothing was saved: claim again and decide anew"
        ) from None


def _outdated(record: Record) -> Outdated:
    return Outdated(
        f"step {record.step!r} of saga {str(record.saga_id)!r} in service {record.service!r} is not at version "
        f"{record.version - 1} any more (or does not exist); nothing was saved: claim again and decide anew"
    )


def append(
    connection: Connection,
    quarantined: Sequence[Quarantined],
    held: Sequence[Held],
    counters: Mapping[tuple[str, str], int],
    unhold: Sequence[int],
    unlock: Sequence[SagaLock],
) -> None:
    if quarantined:
        connection.executemany(
            sql.ADD_QUARANTINED,
            [letter_values(q) for q in quarantined],
        )
    if held:
        connection.executemany(
            sql.ADD_HELD, [(h.service, h.definition, h.channel, _text(h.headers), h.body, h.received_ms) for h in held]
        )
    if counters:
        connection.executemany(sql.ADD_COUNTER, [(service, name, more) for (service, name), more in counters.items()])
    if unhold:
        connection.executemany(sql.DELETE_HELD, [(number,) for number in unhold])
    if unlock:
        connection.executemany(sql.DELETE_LOCK, [(one.service, one.name, one.saga_id.bytes) for one in unlock])


def lock(connection: Connection, wanted: SagaLock) -> SagaLock:
    connection.execute(sql.ADD_LOCK, (wanted.service, wanted.name, wanted.saga_id.bytes))
    if connection.changes() == 1:
        return wanted
    row: Any = connection.execute(sql.LOCK_OF, (wanted.service, wanted.name)).fetchone()
    if row is None:
        raise SagaError(f"the lock {wanted.name!r} is neither free nor held; a trigger on saga_lock may remove it")
    return SagaLock(service=wanted.service, name=wanted.name, saga_id=UUID(bytes=row[0]))


def register(connection: Connection, key: BusinessKey) -> BusinessKey:
    connection.execute(sql.ADD_KEY, (key.service, key.choreography, key.key, key.saga_id.bytes, key.digest))
    if connection.changes() == 1:
        return key
    row: Any = connection.execute(sql.KEY_OF, (key.key, key.choreography, key.service)).fetchone()
    if row is None:
        raise SagaError(f"the business key {key.key!r} is neither new nor stored; a trigger on saga_business_key may remove it")
    return BusinessKey(service=key.service, choreography=key.choreography, key=key.key, saga_id=UUID(bytes=row[0]), digest=row[1])


def letter_values(letter: Quarantined) -> tuple[Any, ...]:
    """In the order of LETTER_COLUMNS, without the number."""
    values = {name: getattr(letter, name) for name in LETTER_COLUMNS if name != "number"}
    return tuple((values | {"headers": _text(letter.headers)}).values())


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
        told=bool(told),
    )


def _text(headers: Mapping[str, str]) -> str:
    return orjson.dumps(dict(headers)).decode()
