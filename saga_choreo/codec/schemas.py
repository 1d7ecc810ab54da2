"""The wire contract for other languages: JSON Schemas (2020-12) of headers, messages and log lines, and one sample each.

Made from the code (`python schemas/generate.py` writes them) and compared with it by a test, so they cannot drift apart.
Limits that JSON Schema cannot say (bytes of UTF-8, the size of the block, names and keys given twice) are in descriptions.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from saga_choreo.codec.faults import Fault
from saga_choreo.codec.headers import HEADERS_BYTES_MAX
from saga_choreo.codec.messages import PROTOCOL_VERSION, RAW_HEADERS
from saga_choreo.codec.notices import NOTICES, OPERATOR_BYTES_MAX, TEXT_BYTES_MAX, VERBS
from saga_choreo.codec.strict_json import NESTING_MAX
from saga_choreo.codec.wire import BODY_BYTES_MAX, KEY_BYTES_MAX, REASON_BYTES_MAX, encode
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind, Parking
from saga_choreo.model.event import EventRef
from saga_choreo.model.states import Cause, Outcome

__all__ = ["files", "samples"]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NAME = "^[a-z][a-z0-9_-]{0,63}$"
_EVENT = r"^(?=.{3,128}$)[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)+$"
_SAGA_ID = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z$"
_EVENT_PAIR = ("ce-sagaevent", "ce-sagaeventversion")
_PRINTABLE = "^[ -~]+$"
_COUNT = "^(0|[1-9][0-9]{0,9})$"


def _string(pattern: str, description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, "description": description, **more}


def _word(values: list[str], description: str) -> dict[str, Any]:
    return {"enum": values, "description": description}


def _properties() -> dict[str, Any]:
    flag = ["true", "false"]
    return {
        "ce-specversion": _word(["1.0"], "CloudEvents version."),
        "ce-id": _string(_PRINTABLE, "Identity of the message in its saga; the same when it is published again."),
        "ce-source": _string("^/saga/[a-z][a-z0-9_-]{0,63}$", "'/saga/' and the sending service."),
        "ce-type": _string(_EVENT, "The event's own name, or the message's word where it carries no event."),
        "ce-subject": _string(_SAGA_ID, "The saga's id."),
        "ce-time": _string(_TIME, "When this copy was published; RFC 3339, UTC."),
        "ce-datacontenttype": _string("^application/json(; ?charset=utf-8)?$", "Given where there is a body."),
        "ce-sagaversion": _word([PROTOCOL_VERSION], "Version of this protocol."),
        "ce-sagaid": _string(_SAGA_ID, "The saga's id: a UUIDv7, whose time is the start of the saga."),
        "ce-sagamsg": _word(sorted({encode(e)[0]["ce-sagamsg"] for e in samples().values()}), "What the message says."),
        "ce-sagadef": _string("^[0-9a-f]{32}$", "Content hash of the choreography."),
        "ce-saganame": _string(_NAME, "Name of the choreography."),
        "ce-sagaorigin": _string(_NAME, "The service that started the saga."),
        "ce-sagakey": _string(
            _PRINTABLE, f"Business key, percent-encoded UTF-8 of at most {KEY_BYTES_MAX} bytes.", maxLength=3 * KEY_BYTES_MAX
        ),
        "ce-sagafrom": _string(_NAME, "The step that says it; 'origin' for the start and end of the saga."),
        "ce-sagato": _string(_NAME, "The step it is said to."),
        "ce-sagaevent": _string(_EVENT, "Name of the event that came, or will not come."),
        "ce-sagaeventversion": _string("^[1-9][0-9]{0,9}$", "Its version, at most 2147483647."),
        "ce-sagadeadline": _string(_TIME, "When the saga is aborted where it still can be; RFC 3339, UTC."),
        "ce-sagareason": _string(
            _PRINTABLE, f"Free text, percent-encoded UTF-8 of at most {REASON_BYTES_MAX} bytes.", maxLength=3 * REASON_BYTES_MAX
        ),
        "ce-sagacause": _word([cause.value for cause in Cause if cause], "Why the saga is aborted."),
        "ce-sagaoutcome": _word([outcome.value for outcome in Outcome if outcome], "How the saga ended."),
        "ce-sagadebt": _word(flag, "An undo was waived: the saga ended, but not everything is undone."),
        "ce-sagaagain": _word(flag, "A repeated announcement; one that has ended answers it with the outcome."),
        "ce-sagaattempt": _string(_COUNT, "After how many attempts the step was parked, at most 2147483647."),
        "ce-sagaround": _string(_COUNT, "How many words people have said on this step, this one included."),
        "ce-sagaoperator": _string(
            _PRINTABLE,
            f"Who said it, percent-encoded UTF-8 of at most {OPERATOR_BYTES_MAX} bytes.",
            maxLength=3 * OPERATOR_BYTES_MAX,
        ),
        "ce-sagaerror": _string(
            _PRINTABLE, f"Why it parked, percent-encoded UTF-8 of at most {TEXT_BYTES_MAX} bytes.", maxLength=3 * TEXT_BYTES_MAX
        ),
        "ce-sagaresolution": _word(list(VERBS), "What was decided on the parked step."),
        "traceparent": {"type": "string", "description": "W3C trace context; ignored where it is not valid."},
        "tracestate": {"type": "string", "description": "W3C trace context; ignored without a valid traceparent."},
    }


_REQUIRED = sorted({*RAW_HEADERS[:2], *RAW_HEADERS[3:9], "ce-id", "ce-subject", "ce-time", "ce-sagaid"})


def _headers_schema() -> dict[str, Any]:
    return {
        "$schema": _DRAFT,
        "title": "Headers of a saga message (CloudEvents 1.0, binary mode)",
        "description": f"Names in any case, each once; at most {HEADERS_BYTES_MAX} bytes in all. Unknown headers are ignored.",
        "type": "object",
        "properties": _properties(),
        "required": _REQUIRED,
        "dependentRequired": {one: [other] for one, other in (_EVENT_PAIR, _EVENT_PAIR[::-1])},
        "additionalProperties": {"type": "string"},
    }


def _message_schema(name: str, envelope: Envelope) -> dict[str, Any]:
    headers, body = encode(envelope)
    # An event's type is its own name, so only the words of the protocol are constants.
    fixed = ("ce-sagamsg",) if body else ("ce-sagamsg", "ce-type")
    always = {"ce-sagafrom", "ce-sagato", "ce-sagaoutcome", "ce-datacontenttype", "ce-sagaevent", "ce-sagaeventversion"}
    if envelope.kind in (MessageKind.ABORT, MessageKind.CANCEL_REQUEST, MessageKind.OUTCOME):
        always -= {"ce-sagafrom"}
    if envelope.kind is not MessageKind.CLEAR:
        always -= {"ce-sagato"}
    if envelope.kind in NOTICES:
        always |= {"ce-sagaattempt", "ce-sagaround"}
    if envelope.kind is MessageKind.RESOLVED:
        always |= {"ce-sagaoperator", "ce-sagaresolution"}
    if envelope.kind is MessageKind.SKIP:
        always -= {"ce-sagaevent", "ce-sagaeventversion"}
    narrowed: dict[str, Any] = {header: {"const": headers[header]} for header in fixed}
    if envelope.from_step == "origin" and "ce-sagafrom" in always:
        narrowed["ce-sagafrom"] = {"const": "origin"}
    if envelope.kind is MessageKind.OUTCOME:
        narrowed["ce-sagaoutcome"] = {"const": envelope.outcome.value}
    if envelope.outcome is Outcome.ABORTED:
        narrowed["ce-sagacause"] = {"const": envelope.cause.value}
        # No cause at all counts as refused.
        always |= {"ce-sagacause"} if envelope.cause is not Cause.REFUSED else set()
    if envelope.kind is MessageKind.CANCEL_REQUEST:
        narrowed["ce-sagafrom"] = {"not": {"const": "origin"}}
    payload = {"type": "object", "description": f"The event: at most {BODY_BYTES_MAX} bytes, {NESTING_MAX} levels, no key twice."}
    return {
        "$schema": _DRAFT,
        "title": name,
        "description": _MEANING[name],
        "type": "object",
        "properties": {
            "headers": {"$ref": "headers.schema.json", "properties": narrowed, "required": sorted(always & headers.keys())},
            "body": payload if body else {"type": "null", "description": "No body."},
        },
        "required": ["headers", "body"],
        "additionalProperties": False,
    }


_MEANING = {
    "saga-started": "The start event of a saga; its readers are the first steps.",
    "step-completed": "A step is done; the event is what it published.",
    "last-step-completed": "A step that publishes to nobody else tells the origin that it is done.",
    "step-skipped": "A step, or the branch behind one of its events, will not happen.",
    "step-failed": "A step refuses: all owners stop, and undo what was done.",
    "compensation-completed": "A step and all after it are undone or will never run; its predecessor may undo.",
    "compensation-event": "A fact for the world: what a compensation published. Not an edge of the graph.",
    "step-parked": "For people, on the dead-letter channel: a step, or the undo of one, waits for their word.",
    "step-resolved": "For people, on the dead-letter channel: what somebody decided on a parked step.",
    "saga-cancel": "The origin asks all owners to refuse where they still can.",
    "saga-cancel-requested": "Somebody asks the origin to cancel the saga.",
    "saga-completed": "Every last step is done or skipped: the saga is complete.",
    "saga-failed": "The saga was refused and everything is undone (or, with debt, all but what was waived).",
    "saga-cancelled": "The saga was cancelled and everything is undone (or, with debt, all but what was waived).",
    "saga-timed-out": "The saga's deadline passed and everything is undone (or, with debt, all but what was waived).",
}


def samples() -> dict[str, Envelope]:
    """One valid envelope per message type."""
    done = Envelope(
        kind=MessageKind.DONE,
        saga_id=UUID("01a0c450-6c00-7839-8313-233343536373"),
        choreography="order-processing",
        definition="5f1d9c0b7a3e48d2916c4b8e0f7a2d35",
        origin="orders",
        sender="payment",
        channel=Channel(ChannelKind.EVENT, "payment.charged"),
        from_step="charge-payment",
        event=EventRef("payment.charged"),
        key="ORDER-7712/ä",
        deadline_ms=1_790_001_800_000,
        payload=b'{"order_id":"ORDER-7712","amount":"49.90","currency":"EUR"}',
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        sent_ns=1_790_000_000_123_456_789,
    )
    bare = done._replace(event=None, payload=b"", channel=Channel(ChannelKind.CONTROL, "orders"))
    order, refund = EventRef("order.created"), EventRef("payment.refunded")
    ended = bare._replace(kind=MessageKind.OUTCOME, sender="orders", from_step="origin", channel=Channel(ChannelKind.OUTCOME))
    aborted = ended._replace(outcome=Outcome.ABORTED)
    return {
        "saga-started": done._replace(
            sender="orders", from_step="origin", event=order, channel=Channel(ChannelKind.EVENT, order.name)
        ),
        "step-completed": done,
        "last-step-completed": bare,
        "step-skipped": bare._replace(kind=MessageKind.SKIP, event=done.event, channel=Channel(ChannelKind.CONTROL, "shipping")),
        "step-failed": bare._replace(kind=MessageKind.ABORT, cause=Cause.REFUSED, reason="card declined: 100 % sure"),
        **_samples_for_people(bare),
        "compensation-completed": bare._replace(kind=MessageKind.CLEAR, to_step="origin", reannounced=True),
        "compensation-event": done._replace(kind=MessageKind.UNDONE, event=refund, channel=Channel(ChannelKind.EVENT, refund.name)),
        "saga-cancel": bare._replace(
            kind=MessageKind.CANCEL,
            sender="orders",
            from_step="origin",
            cause=Cause.TIMED_OUT,
            channel=Channel(ChannelKind.CONTROL, "stock"),
        ),
        "saga-cancel-requested": bare._replace(
            kind=MessageKind.CANCEL_REQUEST, from_step="", cause=Cause.CANCELLED, reason="changed my mind"
        ),
        "saga-completed": ended._replace(outcome=Outcome.COMPLETED),
        "saga-failed": aborted._replace(cause=Cause.REFUSED, reason="card declined", debt=True),
        "saga-cancelled": aborted._replace(cause=Cause.CANCELLED, reason="changed my mind"),
        "saga-timed-out": aborted._replace(cause=Cause.TIMED_OUT),
    }


def _samples_for_people(bare: Envelope) -> dict[str, Envelope]:
    parked = Parking(attempt=5, error="ConnectError: card service is down")
    resolved = Parking(attempt=5, round=1, operator="ana", resolution="retry")
    told = bare._replace(channel=Channel(ChannelKind.DLQ))
    return {
        "step-parked": told._replace(kind=MessageKind.PARKED, parking=parked),
        "step-resolved": told._replace(kind=MessageKind.RESOLVED, parking=resolved, reason="card service is back, ticket 4411"),
    }


def _log_line_schema() -> dict[str, Any]:
    known = {"type": ["string", "null"]}
    return {
        "$schema": _DRAFT,
        "title": "One line of the JSON log",
        "type": "object",
        "properties": {
            "timestamp": _string(_TIME, "RFC 3339, UTC."),
            "level": {"type": "string"},
            "logger": {"type": "string"},
            "message": {"type": "string"},
            "saga_id": known,
            "step_id": known,
            "event": known,
            "duration_ms": {"type": ["number", "null"]},
            "metadata": {
                "type": "object",
                "properties": {"service": {"type": "string"}, "version": {"type": "string"}},
                "required": ["service", "version"],
            },
            "error": {"type": "string", "description": "Traceback, where there is one; the end of it when it is long."},
        },
        "required": ["timestamp", "level", "logger", "message", "saga_id", "step_id", "event", "duration_ms", "metadata"],
        "additionalProperties": False,
    }


def _sample(envelope: Envelope) -> dict[str, Any]:
    headers, body = encode(envelope)
    return {"headers": headers, "body": json.loads(body) if body else None}


def files() -> dict[str, str]:
    """Every file of `schemas/`, by its path in there."""
    documents: dict[str, Any] = {
        "headers.schema.json": _headers_schema(),
        "log-line.schema.json": _log_line_schema(),
        "faults.json": [fault.value for fault in Fault],
    }
    for name, envelope in samples().items():
        documents[f"{name}.schema.json"] = _message_schema(name, envelope)
        documents[f"samples/{name}.json"] = _sample(envelope)
    return {path: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for path, document in documents.items()}
