"""The written form of single header values: times, ids, percent-encoded text. One form each, in both directions."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes
from uuid import UUID

from saga_choreo.codec.faults import Fault, fault, short

__all__ = ["TIME_MAX_NS", "parse_saga_id", "parse_time", "percent_decode", "percent_encode", "time_text"]

# Year 10000: RFC 3339 has four digits for the year.
TIME_MAX_NS = 253_402_300_800 * 10**9

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d", re.ASCII)
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
# What the CloudEvents HTTP binding leaves as it is: printable ASCII without space, double quote and percent sign.
_PLAIN = re.compile(r"[!#$&-~]*")
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@lru_cache(maxsize=256)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def time_text(unix_ns: int, digits: int = 9) -> str:
    """RFC 3339 in UTC with this many digits after the point. Raises ValueError outside the years 1970 to 9999."""
    if not 0 <= unix_ns < TIME_MAX_NS:
        raise ValueError(f"the time {unix_ns!r} ns is outside the years 1970 to 9999; pass Unix nanoseconds")
    second, fraction = divmod(unix_ns, 10**9)
    return f"{_second_text(second)}.{fraction:09d}"[: 20 + digits] + "Z"


@lru_cache(maxsize=256)
def _second(text: str) -> int:
    if not _SECOND.fullmatch(text):
        raise ValueError(text)
    return int((datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH).total_seconds())


def parse_time(header: str, value: str) -> int:
    """Unix nanoseconds of an RFC 3339 time in UTC ('Z'), with at most nine digits after the point."""
    fraction = value[20:-1]
    try:
        if (
            value[-1:] != "Z"
            or len(fraction) > 9
            or (value[19:-1] and not (value[19] == "." and fraction.isdecimal() and fraction.isascii()))
        ):
            raise ValueError(value)
        second = _second(value[:19])
        if second < 0:
            raise ValueError(value)
    except ValueError as exc:
        raise fault(
            Fault.TIME,
            f"header {header!r} has {short(value)}, which is not a time; write RFC 3339 in UTC, as 2026-01-31T09:00:00.000Z",
        ) from exc
    return second * 10**9 + (int(fraction.ljust(9, "0")) if fraction else 0)


@lru_cache(maxsize=4_096)
def parse_saga_id(value: str) -> UUID:
    """A UUIDv7 in its canonical lower-case form. The messages of a saga come close together, and its id is read once for them."""
    if _UUID7.fullmatch(value):
        return UUID(int=int(value.replace("-", ""), 16))
    if _UUID.fullmatch(value):
        raise fault(Fault.SAGA_ID_VERSION, f"the saga id {short(value)} is not a UUID of version 7; its start time cannot be read")
    raise fault(Fault.SAGA_ID, f"the saga id {short(value)} is not a UUID; write it in lower-case canonical form")


def percent_encode(text: str) -> str:
    """As the CloudEvents HTTP binding says (section 3.1.3.2). Raises ValueError on half a surrogate pair."""
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE)


def percent_decode(header: str, value: str) -> str:
    if "%" not in value:
        return value
    if _BAD_PERCENT.search(value):
        raise fault(
            Fault.PERCENT_ENCODING,
            f"header {header!r} has a '%' without two hexadecimal digits in {short(value)}; encode '%' as '%25'",
        )
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError as exc:
        raise fault(
            Fault.PERCENT_ENCODING, f"header {header!r} has {short(value)}, which does not decode to UTF-8; encode UTF-8"
        ) from exc
