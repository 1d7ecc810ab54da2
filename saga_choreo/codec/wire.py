"""Envelope <-> headers and body: CloudEvents 1.0 in binary mode, as on every broker.

The facts of an envelope that are the same for all sagas of a choreography (who says what to whom) are checked and
written once per combination and remembered, at most CACHED_MAX of them; what is left per message is ids, times, key and
payload. Decoding is total: any headers and bytes give an envelope or a DecodeError with one of the words of `Fault`.

What is not self-evident on the wire: `ce-id` is the message's identity in the protocol, so a message that is published
again has the same id; the event's version is `ce-sagaeventversion` (`ce-dataschema` is not written and not read, for it
must be a URI and there is no registry to point to); a message without a payload has no body and no content type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from saga_choreo.codec.faults import Fault, fault, short
from saga_choreo.codec.headers import attributes, require, require_text
from saga_choreo.codec.messages import (
    PROTOCOL_VERSION,
    RAW_HEADERS,
    Fixed,
    RawFixed,
    check_channel,
    check_fixed,
    identity,
    is_fact,
    read_fixed,
    write_fixed,
)
from saga_choreo.codec.notices import NOTICES, cut, notice_identity, read_notice, write_notice
from saga_choreo.codec.strict_json import check_object
from saga_choreo.codec.values import parse_saga_id, parse_time, percent_decode, percent_encode, time_text
from saga_choreo.errors import DecodeError, ResultTooLarge
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, Parking

__all__ = [
    "BODY_BYTES_MAX",
    "KEY_BYTES_MAX",
    "PROTOCOL_VERSION",
    "REASON_BYTES_MAX",
    "Template",
    "checked_key",
    "decode",
    "encode",
    "filled",
    "is_plain",
    "template",
]

# What every broker accepts in its default settings, with room to spare (the smallest default is 1 MB).
BODY_BYTES_MAX = 65_536
# In UTF-8, before percent-encoding, which makes at most three bytes of one.
REASON_BYTES_MAX = 1_024
KEY_BYTES_MAX = 512
# Combinations of a choreography's fixed facts: a few per edge of the graph.
CACHED_MAX = 4_096

_KEY_TOO_LONG, _REASON_TOO_LONG = Fault.KEY_TOO_LONG, Fault.REASON_TOO_LONG
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# The W3C asks for at least 512 characters to be passed on.
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")


class Template(NamedTuple):
    """What is written of a message's fixed facts: once for all sagas."""

    headers: dict[str, str]
    identity: str
    has_payload: bool
    fixed: Fixed


def encode(envelope: Envelope) -> tuple[dict[str, str], bytes]:
    """Headers and body of a message. A reason longer than REASON_BYTES_MAX is cut; a trace context that is none is left out.

    Raises ResultTooLarge on a payload over BODY_BYTES_MAX, and ValueError on an envelope the protocol does not know (a bug
    of ours, or a business key that was not checked when the saga was started).
    """
    e = envelope
    fixed = Fixed(
        e.kind,
        e.choreography,
        e.definition,
        e.origin,
        e.sender,
        e.from_step,
        e.to_step,
        e.event,
        e.cause,
        e.outcome,
        e.debt,
        e.reannounced,
    )
    return filled(
        template(fixed, e.channel),
        saga_id=str(e.saga_id),
        sent_ns=e.sent_ns,
        key=e.key,
        deadline_ms=e.deadline_ms,
        payload=e.payload,
        reason=e.reason,
        parking=e.parking,
        traceparent=e.traceparent,
        tracestate=e.tracestate,
    )


def filled(
    form: Template,
    *,
    saga_id: str,
    sent_ns: int,
    key: str,
    deadline_ms: int | None,
    payload: bytes = b"",
    reason: str = "",
    parking: Parking | None = None,
    traceparent: str = "",
    tracestate: str = "",
) -> tuple[dict[str, str], bytes]:
    """Headers and body of one saga's message, see `encode`."""
    kind, from_step = form.fixed.kind, form.fixed.from_step
    if form.has_payload != bool(payload):
        raise ValueError(
            f"a message {kind.value!r} of step {from_step!r} has {len(payload)} payload bytes; events have one, others none"
        )
    if (parking is not None) != (kind in NOTICES):
        raise ValueError(f"a message {kind.value!r} of step {from_step!r} has the notice {parking!r}; parked and resolved have one")
    if len(payload) > BODY_BYTES_MAX:
        raise ResultTooLarge(
            f"event {str(form.fixed.event)!r} has {len(payload)} bytes, more than {BODY_BYTES_MAX}; send a reference"
        )
    headers = form.headers.copy()
    headers["ce-id"] = saga_id + form.identity
    headers["ce-subject"] = headers["ce-sagaid"] = saga_id
    headers["ce-time"] = time_text(sent_ns)
    if key:
        headers["ce-sagakey"] = percent_encode(checked_key(key))
    if deadline_ms is not None:
        headers["ce-sagadeadline"] = time_text(deadline_ms * 10**6, 3)
    if reason:
        headers["ce-sagareason"] = percent_encode(cut(reason, REASON_BYTES_MAX))
    if parking is not None:
        headers |= write_notice(parking)
        headers["ce-id"] += notice_identity(parking)
    if traceparent and _TRACEPARENT.fullmatch(traceparent):
        headers["traceparent"] = traceparent
        if tracestate and _TRACESTATE.fullmatch(tracestate):
            headers["tracestate"] = tracestate
    return headers, payload


def checked_key(key: str) -> str:
    """The business key itself. Raises ValueError when it cannot be sent: for whoever starts a saga, before anything is stored."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError as exc:
        raise ValueError(f"the key {short(key)} has half of a surrogate pair; pass whole characters") from exc
    if size > KEY_BYTES_MAX:
        raise ValueError(f"the key {short(key)} has {size} bytes in UTF-8, more than {KEY_BYTES_MAX}; use a shorter one")
    return key


def decode(channel: Channel, headers: Mapping[str, str], body: bytes) -> Envelope:
    """The envelope of a message that came over this channel. Raises DecodeError, and never anything else."""
    if len(body) > BODY_BYTES_MAX:
        raise fault(Fault.BODY_TOO_LARGE, f"the body has {len(body)} bytes, more than {BODY_BYTES_MAX}; send a reference instead")
    found = attributes(headers)
    fixed, has_payload = _read(tuple(map(found.get, RAW_HEADERS)))
    check_channel(fixed, channel)
    id_text = require(found, "ce-sagaid")
    saga_id = parse_saga_id(id_text)
    if require(found, "ce-subject") != id_text:
        raise fault(
            Fault.SUBJECT_MISMATCH,
            f"header 'ce-subject' has {short(found['ce-subject'])}, but the saga is {id_text!r}; send the saga's id in both",
        )
    require_text(found, "ce-id")
    deadline = found.get("ce-sagadeadline")
    _check_body(fixed, has_payload, body)
    trace = found.get("traceparent", "")
    if trace and not _TRACEPARENT.fullmatch(trace):
        trace = ""
    state = found.get("tracestate", "") if trace else ""
    kind, choreography, definition, origin, sender, from_step, to_step, event, cause, outcome, debt, reannounced = fixed
    # By position, in a quarter of the time: in the order of the class.
    return Envelope(
        kind,
        saga_id,
        choreography,
        definition,
        origin,
        sender,
        channel,
        from_step,
        to_step,
        event,
        _text(found, "ce-sagakey", KEY_BYTES_MAX, _KEY_TOO_LONG),
        parse_time("ce-sagadeadline", deadline) // 10**6 if deadline else None,
        _text(found, "ce-sagareason", REASON_BYTES_MAX, _REASON_TOO_LONG),
        cause,
        outcome,
        debt,
        reannounced,
        body,
        read_notice(kind, found) if kind in NOTICES else None,
        trace,
        state if state and _TRACESTATE.fullmatch(state) else "",
        parse_time("ce-time", require(found, "ce-time")),
    )


def is_plain(channel: Channel, headers: Mapping[str, str]) -> bool:
    """An event of a service without an agent: no header says that it is of a saga, and CloudEvents headers, if it has any, name the
    event of the channel."""
    said = {name.lower(): value for name, value in headers.items()}
    is_of_saga = any(name.startswith("ce-saga") for name in said)
    return channel.kind is ChannelKind.EVENT and not is_of_saga and said.get("ce-type", channel.name) == channel.name


@lru_cache(maxsize=CACHED_MAX)
def template(fixed: Fixed, channel: Channel) -> Template:
    """Raises ValueError, see `encode`."""
    try:
        check_fixed(fixed)
        check_channel(fixed, channel)
    except DecodeError as exc:
        raise ValueError(f"an envelope cannot be encoded: {exc}") from exc
    return Template(write_fixed(fixed), identity(fixed, channel), is_fact(fixed), fixed)


@lru_cache(maxsize=CACHED_MAX)
def _read(raw: tuple[str | None, ...]) -> tuple[Fixed, bool]:
    # Failures are not remembered, and what is remembered has bounded names: garbage cannot fill the memory.
    fixed = read_fixed(RawFixed(*(value or "" for value in raw)))
    return fixed, is_fact(fixed)


def _check_body(fixed: Fixed, has_payload: bool, body: bytes) -> None:
    if has_payload:
        check_object(body)
    elif body:
        raise fault(
            Fault.UNEXPECTED_PAYLOAD, f"a message {fixed.kind.value!r} has a body of {len(body)} bytes; only events have one"
        )


def _text(found: Mapping[str, str], header: str, bytes_max: int, too_long: Fault) -> str:
    if not found.get(header):
        return ""
    value = require_text(found, header)
    text = percent_decode(header, value)
    # Printable ASCII percent-decodes to no more bytes than it had; the slow count is for the few in between.
    if len(value) > bytes_max and len(text.encode()) > bytes_max:
        raise fault(too_long, f"header {header!r} has {len(text)} characters; at most {bytes_max} bytes of UTF-8 are accepted")
    return text
