"""Every way in which a message can be wrong, as one closed list of words.

The word is what a quarantine row, a metric and a dead letter carry, so words are only ever added, never changed.
"""

from __future__ import annotations

from enum import StrEnum

from saga_choreo.errors import DecodeError

__all__ = ["Fault", "fault", "short"]


class Fault(StrEnum):
    """`DecodeError.code` of a message that cannot be read is always one of these."""

    BODY_TOO_LARGE = "body_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    HEADER_NAME = "header_name"
    HEADER_VALUE = "header_value"
    HEADER_DUPLICATED = "header_duplicated"
    MISSING_ATTRIBUTE = "missing_attribute"
    SPEC_VERSION = "spec_version"
    PROTOCOL_VERSION = "protocol_version"
    CONTENT_TYPE = "content_type"
    UNKNOWN_MESSAGE = "unknown_message"
    TYPE_MISMATCH = "type_mismatch"
    CHANNEL_MISMATCH = "channel_mismatch"
    SUBJECT_MISMATCH = "subject_mismatch"
    SAGA_ID = "saga_id"
    SAGA_ID_VERSION = "saga_id_version"
    DEFINITION = "definition"
    SOURCE = "source"
    NAME = "name"
    NUMBER = "number"
    TIME = "time"
    FLAG = "flag"
    CAUSE = "cause"
    OUTCOME = "outcome"
    RESOLUTION = "resolution"
    PERCENT_ENCODING = "percent_encoding"
    KEY_TOO_LONG = "key_too_long"
    REASON_TOO_LONG = "reason_too_long"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    NOT_A_NUMBER = "not_a_number"
    NESTING_TOO_DEEP = "nesting_too_deep"
    DUPLICATE_KEY = "duplicate_key"
    PAYLOAD_NOT_OBJECT = "payload_not_object"
    UNEXPECTED_PAYLOAD = "unexpected_payload"


def fault(code: Fault, message: str) -> DecodeError:
    """The error to raise; the code as a plain word, so that it can be stored and compared as one."""
    return DecodeError(code.value, message)


def short(value: str) -> str:
    """A value from outside, in repr form, bounded: it goes into messages that people and logs get."""
    return repr(value if len(value) <= 80 else value[:79] + "…")
