"""The header block as a whole: limits first, then one view with lower-case names.

Most blocks come from our own agents, lower-case and plain ASCII already; for those two joined strings answer all questions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from saga_choreo.codec.faults import Fault, fault, short

__all__ = ["HEADERS_BYTES_MAX", "attributes", "missing", "require", "require_text"]

# RabbitMQ's default frame and NATS' default header allowance are both far above; our own largest block is about 7 KiB.
HEADERS_BYTES_MAX = 16_384

# Sets of names that are remembered, and the size of each.
_KNOWN_MAX, _KNOWN_BYTES_MAX = 1_024, 2_048

_TRACE = ("traceparent", "tracestate")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def attributes(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers by lower-case name. Raises DecodeError on a block that is too large, a control character in a name, or an
    attribute given twice. Foreign headers are not looked at beyond that."""
    names = _names(*headers)
    values = "".join(headers.values())
    if names.size + _size(values) > HEADERS_BYTES_MAX:
        raise fault(Fault.HEADERS_TOO_LARGE, f"the headers are larger than {HEADERS_BYTES_MAX} bytes; find out what adds to them")
    if names.strange:
        raise fault(Fault.HEADER_NAME, f"the header name {short(names.strange)} has a control character; find out who wrote it")
    return headers if names.are_lower else _lowered(headers)


class _Names(NamedTuple):
    size: int
    strange: str
    are_lower: bool


def _names(*names: str) -> _Names:
    """Senders use few different sets of names, so they are looked at once; what is too large to be accepted is not remembered."""
    found = _known.get(names)
    if found is None:
        joined = "".join(names)
        strange = "" if joined.isprintable() else next((name for name in names if _CONTROL.search(name)), "")
        found = _Names(_size(joined), strange, joined.islower())
        if found.size <= _KNOWN_BYTES_MAX:
            if len(_known) >= _KNOWN_MAX:  # somebody makes them up: those that are really used are soon here again
                _known.clear()
            _known[names] = found
    return found


_known: dict[tuple[str, ...], _Names] = {}


def require(found: Mapping[str, str], name: str) -> str:
    value = found.get(name)
    if not value:
        raise missing(name)
    return value


def require_text(found: Mapping[str, str], name: str) -> str:
    """A value that no further rule looks at: at least printable ASCII."""
    value = require(found, name)
    if not (value.isascii() and value.isprintable()):
        raise fault(Fault.HEADER_VALUE, f"header {name!r} has {short(value)}; percent-encode everything but printable ASCII")
    return value


def missing(name: str) -> Exception:
    return fault(
        Fault.MISSING_ATTRIBUTE,
        f"header {name!r} is missing or empty; the message is not from a saga agent, or lost headers on its way",
    )


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _is_ours(name: str) -> bool:
    return name.startswith("ce-") or name in _TRACE


def _lowered(headers: Mapping[str, str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in found and _is_ours(lower):
            raise fault(Fault.HEADER_DUPLICATED, f"header {short(lower)} is given more than once, in different cases; send it once")
        found[lower] = value
    return found
