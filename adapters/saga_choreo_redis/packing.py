"""What is kept as one value: a line of JSON, then the bytes it speaks of, one after the other.

The line is a list that begins with the format's number. A newer format only adds at the end, so that what was written last month is
read; what is missing there is a default. Nothing here knows Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

import orjson

from saga_choreo.ports import (
    COLUMNS,
    ITEM_COLUMNS,
    JOB_COLUMNS,
    LETTER_COLUMNS,
    BusinessKey,
    Held,
    Job,
    JobItem,
    Quarantined,
    Record,
    from_columns,
    to_columns,
)

__all__ = [
    "fades_ms",
    "held_of",
    "item_of",
    "job_of",
    "key_of",
    "pack_held",
    "pack_key",
    "pack_moved",
    "pack_quarantined",
    "pack_record",
    "pack_row",
    "pack_tried",
    "quarantined_of",
    "record_of",
]

_FORMAT = 1
_BLOBS = tuple(number for number, column in enumerate(COLUMNS) if column.kind == "bytes")
_ANNOUNCED = next(number for number, column in enumerate(COLUMNS) if column.name == "announced")


def _packed(values: Sequence[Any], blobs: Sequence[int]) -> bytes:
    line, tail = list(values), list[bytes]()
    for number in blobs:
        if line[number] is not None:
            tail.append(bytes(line[number]))
            line[number] = len(tail[-1])
    return b"".join((orjson.dumps([_FORMAT, *line]), b"\n", *tail))


def _unpacked(stored: bytes, blobs: Sequence[int]) -> list[Any]:
    line, found, tail = stored.partition(b"\n")
    number: int
    values: list[Any]
    try:
        number, *values = orjson.loads(line)
    except (ValueError, TypeError) as error:
        raise ValueError(f"a stored value begins with {stored[:40]!r}; it was not written by this toolkit") from error
    if not found or number != _FORMAT:
        raise ValueError(f"a stored value has format {number!r}, this saga_choreo knows {_FORMAT}; upgrade saga_choreo here")
    at = 0
    for place in blobs:
        if place < len(values) and values[place] is not None:
            size = values[place]
            values[place], at = tail[at : at + size], at + size
    if at != len(tail):
        raise ValueError("a stored value is cut short or too long; it was not written by this toolkit or is damaged")
    return values


def pack_record(record: Record) -> bytes:
    return _packed(to_columns(record), _BLOBS)


def record_of(stored: bytes, announced: int) -> Record:
    """`announced` is kept beside the record, since it is raised without a change of it."""
    values = _unpacked(stored, _BLOBS)
    values += [None] * (len(COLUMNS) - len(values))  # columns that came later may be empty
    values[_ANNOUNCED] = max(values[_ANNOUNCED], announced)
    return from_columns(values)


def pack_key(key: BusinessKey) -> bytes:
    return f"{key.saga_id.hex} {key.digest}".encode()


def key_of(service: str, choreography: str, key: str, stored: bytes) -> BusinessKey:
    saga_id, _, digest = stored.decode().partition(" ")
    return BusinessKey(service=service, choreography=choreography, key=key, saga_id=UUID(hex=saga_id), digest=digest)


def pack_quarantined(q: Quarantined) -> bytes:
    """By the names of the fields, of which later versions may have more."""
    named = {name: getattr(q, name) for name in LETTER_COLUMNS if name not in ("body", "headers", "number")}
    return _packed((named | {"headers": dict(q.headers)}, q.body), (1,))


def pack_moved(state: str, state_ms: int, operator: str, note: str) -> bytes:
    return _packed((state, state_ms, operator, note), ())


def pack_tried(code: str, detail: str, last_ms: int) -> bytes:
    """The script puts before it how often."""
    return _packed((code, detail, last_ms), ())


def fades_ms(state: str, since_ms: int) -> int | str:
    """Since when a letter may be forgotten; '' while a person has put it aside."""
    return "" if state == "archived" else since_ms


def quarantined_of(number: int, stored: bytes, moved: bytes | None, tried: bytes | None) -> Quarantined:
    """As it came, and what was said of it since."""
    named, body = _unpacked(stored, (1,))[:2]
    known = {name: value for name, value in named.items() if name in LETTER_COLUMNS}
    if moved:
        known |= zip(("state", "state_ms", "operator", "note"), _unpacked(moved, ()), strict=False)
    if tried:
        times, _, last = tried.partition(b" ")
        known |= zip(("code", "detail", "last_ms"), _unpacked(last, ()), strict=False)
        known["attempts"] = known.get("attempts", 1) + int(times)
    return Quarantined(**known, body=body, number=number)


def pack_row(row: Job | JobItem) -> bytes:
    """By the names of the fields, of which later versions may have more."""
    return _packed((asdict(row),), ())


def job_of(stored: bytes) -> Job:
    (named,) = _unpacked(stored, ())[:1]
    return Job(**{name: value for name, value in named.items() if name in JOB_COLUMNS})


def item_of(stored: bytes) -> JobItem:
    (named,) = _unpacked(stored, ())[:1]
    return JobItem(**{name: value for name, value in named.items() if name in ITEM_COLUMNS})


def pack_held(h: Held) -> bytes:
    return _packed((h.service, h.definition, h.channel, dict(h.headers), h.received_ms, h.body), (5,))


def held_of(number: int, stored: bytes, *, told: bool) -> Held:
    service, definition, channel, headers, received_ms, body = _unpacked(stored, (5,))[:6]
    return Held(
        service=service,
        definition=definition,
        channel=channel,
        headers=headers,
        body=body,
        received_ms=received_ms,
        number=number,
        told=told,
    )
