"""The headers that only notices for people have: PARKED and RESOLVED."""

from __future__ import annotations

import re
from collections.abc import Mapping

from saga_choreo.codec.faults import Fault, fault, short
from saga_choreo.codec.headers import require, require_text
from saga_choreo.codec.values import percent_decode, percent_encode
from saga_choreo.model.envelope import MessageKind, Parking

__all__ = ["NOTICES", "OPERATOR_BYTES_MAX", "TEXT_BYTES_MAX", "VERBS", "cut", "notice_identity", "read_notice", "write_notice"]

NOTICES = frozenset({MessageKind.PARKED, MessageKind.RESOLVED})
VERBS = ("retry", "take", "give_back", "done", "fail", "waive")
TEXT_BYTES_MAX = 1_024
OPERATOR_BYTES_MAX = 128
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_NUMBER_MAX = 2**31 - 1


def cut(text: str, bytes_max: int) -> str:
    """The beginning of a text that has at most so many bytes in UTF-8, in whole characters."""
    return text.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")


def notice_identity(parking: Parking) -> str:
    """What tells notices of one step apart, beside their kind."""
    return f"/{parking.attempt}/{parking.round}"


def write_notice(parking: Parking) -> dict[str, str]:
    """The headers; empty ones are left out, a long error is cut."""
    written = {
        "ce-sagaattempt": str(parking.attempt),
        "ce-sagaround": str(parking.round),
        "ce-sagaoperator": percent_encode(cut(parking.operator, OPERATOR_BYTES_MAX)),
        "ce-sagaerror": percent_encode(cut(parking.error, TEXT_BYTES_MAX)),
        "ce-sagaresolution": parking.resolution,
    }
    return {name: value for name, value in written.items() if value}


def read_notice(kind: MessageKind, found: Mapping[str, str]) -> Parking:
    """The inverse. Raises DecodeError."""
    resolution = ""
    if kind is MessageKind.RESOLVED:
        resolution = require(found, "ce-sagaresolution")
        require(found, "ce-sagaoperator")
        if resolution not in VERBS:
            raise fault(Fault.RESOLUTION, f"header 'ce-sagaresolution' has {short(resolution)}; known are {list(VERBS)!r}")
    return Parking(
        attempt=_number(found, "ce-sagaattempt"),
        round=_number(found, "ce-sagaround"),
        operator=_text(found, "ce-sagaoperator", OPERATOR_BYTES_MAX),
        error=_text(found, "ce-sagaerror", TEXT_BYTES_MAX),
        resolution=resolution,
    )


def _number(found: Mapping[str, str], header: str) -> int:
    value = require(found, header)
    if not _NUMBER.fullmatch(value) or int(value) > _NUMBER_MAX:
        raise fault(Fault.NUMBER, f"header {header!r} has {short(value)}; write a whole number from 0 to {_NUMBER_MAX}")
    return int(value)


def _text(found: Mapping[str, str], header: str, bytes_max: int) -> str:
    if not found.get(header):
        return ""
    text = percent_decode(header, require_text(found, header))
    if len(text.encode()) > bytes_max:
        raise fault(
            Fault.REASON_TOO_LONG, f"header {header!r} has {len(text)} characters; at most {bytes_max} bytes of UTF-8 are accepted"
        )
    return text
