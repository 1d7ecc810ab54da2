"""What is kept as one value: a line of JSON, then the bytes it speaks of, one after the other.

The line is a list that begins with the format's number. A newer format only adds at the end, so that what was written last month is
read; what is missing there is a default. Nothing here knows Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any
from uuid import UUID

import orjson

from saga_choreo.ports import COLUMNS, BusinessKey, Held, Quarantined, Record, from_columns, to_columns

__all__ = [
    "held_of",
    "key_of",
    "pack_held",
    "pack_key",
    "pack_quarantined",
    "pack_record",
    "quarantined_of",
    "record_of",
]

_FORMAT = 1
_BLOBS = tuple(number for number, column in enumerate(COLUMNS) if column.kind == "bytes")
_LETTER = tuple(one.name for one in fields(Quarantined))
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
    named = {name: getattr(q, name) for name in _LETTER if name not in ("body", "headers", "number")}
    return _packed((named | {"headers": dict(q.headers)}, q.body), (1,))


def quarantined_of(number: int, stored: bytes) -> Quarantined:
    named, body = _unpacked(stored, (1,))[:2]
    known = {name: value for name, value in named.items() if name in _LETTER}
    return Quarantined(**known, body=body, number=number)


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
