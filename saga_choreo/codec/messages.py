"""The part of a message that is the same for every saga of a choreography: who says what to whom, and in which words.

The table of CloudEvents types and `ce-sagamsg` words lives here, once for both directions. What is read is written again
in thought: a message is accepted only if its words are those this table gives to what was understood.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from saga_choreo.codec.faults import Fault, fault, short
from saga_choreo.codec.headers import missing
from saga_choreo.codec.notices import NOTICES
from saga_choreo.model.choreography import checked_name
from saga_choreo.model.envelope import Channel, ChannelKind, MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN_NAME
from saga_choreo.model.states import Cause, Outcome

__all__ = [
    "PROTOCOL_VERSION",
    "RAW_HEADERS",
    "Fixed",
    "RawFixed",
    "check_channel",
    "check_fixed",
    "identity",
    "is_fact",
    "message_words",
    "read_fixed",
    "write_fixed",
]

PROTOCOL_VERSION = "1"
_SOURCE = "/saga/"
_CONTENT_TYPE = re.compile(r"application/json(?:; ?charset=utf-8)?", re.IGNORECASE)
_DEFINITION = re.compile(r"[0-9a-f]{32}")
# CloudEvents integers have 32 bits and a sign.
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_NUMBER_MAX = 2**31 - 1

_KIND_BY_WORD = {
    "saga.started": MessageKind.DONE,
    "step.completed": MessageKind.DONE,
    "step.skipped": MessageKind.SKIP,
    "step.failed": MessageKind.ABORT,
    "compensation.completed": MessageKind.CLEAR,
    "compensation.event": MessageKind.UNDONE,
    "saga.cancel_requested": MessageKind.CANCEL_REQUEST,
    "saga.completed": MessageKind.OUTCOME,
    "saga.failed": MessageKind.OUTCOME,
    "saga.cancelled": MessageKind.OUTCOME,
    "saga.timed_out": MessageKind.OUTCOME,
    "step.parked": MessageKind.PARKED,
    "step.resolved": MessageKind.RESOLVED,
}
# Looking a member up on its enum class costs as much as the rest of a check.
_EVENT, _OUTCOME, _DLQ = ChannelKind.EVENT, ChannelKind.OUTCOME, ChannelKind.DLQ
_FACTS = (MessageKind.DONE, MessageKind.UNDONE)
_NEEDS_FROM = NOTICES | {MessageKind.DONE, MessageKind.SKIP, MessageKind.CLEAR, MessageKind.UNDONE}


class Fixed(NamedTuple):
    """The envelope's fields that do not change from saga to saga."""

    kind: MessageKind
    choreography: str
    definition: str
    origin: str
    sender: str
    from_step: str
    to_step: str
    event: EventRef | None
    cause: Cause
    outcome: Outcome
    debt: bool
    reannounced: bool


class RawFixed(NamedTuple):
    """The same as header values, in the order of RAW_HEADERS; empty where there is no such header."""

    spec_version: str
    protocol_version: str
    content_type: str
    word: str
    type: str
    source: str
    choreography: str
    definition: str
    origin: str
    from_step: str
    to_step: str
    event: str
    event_version: str
    cause: str
    outcome: str
    debt: str
    reannounced: str


RAW_HEADERS = (
    "ce-specversion",
    "ce-sagaversion",
    "ce-datacontenttype",
    "ce-sagamsg",
    "ce-type",
    "ce-source",
    "ce-saganame",
    "ce-sagadef",
    "ce-sagaorigin",
    "ce-sagafrom",
    "ce-sagato",
    "ce-sagaevent",
    "ce-sagaeventversion",
    "ce-sagacause",
    "ce-sagaoutcome",
    "ce-sagadebt",
    "ce-sagaagain",
)
_RAW_REQUIRED = frozenset(RAW_HEADERS[:2] + RAW_HEADERS[3:9])


def is_fact(fixed: Fixed) -> bool:
    """Whether the message carries an event with its payload, for readers without an agent too."""
    return fixed.event is not None and fixed.kind in _FACTS


def message_words(fixed: Fixed) -> tuple[str, str]:
    """The CloudEvents type and the `ce-sagamsg` word."""
    event_name = fixed.event.name if fixed.event else ""
    match fixed.kind:
        case MessageKind.DONE:
            return event_name or "step.completed", "saga.started" if fixed.from_step == ORIGIN_NAME else "step.completed"
        case MessageKind.UNDONE:
            return event_name, "compensation.event"
        case MessageKind.SKIP:
            return "step.skipped", "step.skipped"
        case MessageKind.ABORT:
            return "step.failed", "step.failed"
        case MessageKind.CLEAR:
            return "compensation.completed", "compensation.completed"
        case MessageKind.CANCEL | MessageKind.CANCEL_REQUEST:
            return "saga.cancel_requested", "saga.cancel_requested"
        case MessageKind.OUTCOME:
            word = _outcome_word(fixed.outcome, fixed.cause)
            return word, word
        case MessageKind.PARKED:
            return "step.parked", "step.parked"
        case MessageKind.RESOLVED:
            return "step.resolved", "step.resolved"


def _outcome_word(outcome: Outcome, cause: Cause) -> str:
    if outcome is Outcome.COMPLETED:
        return "saga.completed"
    match cause:
        case Cause.CANCELLED:
            return "saga.cancelled"
        case Cause.TIMED_OUT:
            return "saga.timed_out"
        case Cause.NONE | Cause.REFUSED:
            return "saga.failed"


def identity(fixed: Fixed, channel: Channel) -> str:
    """What, with the saga's id, makes two messages the same one, however often and with whatever time they are published."""
    # One step tells several owners: then the owner's control channel is the receiver.
    receiver = fixed.to_step or (channel.name if channel.kind is ChannelKind.CONTROL else "")
    event = f"{fixed.event.name}@{fixed.event.version}" if fixed.event else ""
    return f"/{fixed.kind.value}/{fixed.from_step}/{receiver}/{event}"


def check_fixed(fixed: Fixed) -> None:
    """Raises DecodeError unless the fields make up a message of the protocol."""
    kind, event = fixed.kind, fixed.event
    for label, name in (("choreography", fixed.choreography), ("service", fixed.origin), ("service", fixed.sender)):
        _check_name(label, name)
    for name in (fixed.from_step, fixed.to_step):
        if name and name != ORIGIN_NAME:
            _check_name("step", name)
    if not _DEFINITION.fullmatch(fixed.definition):
        raise fault(
            Fault.DEFINITION, f"the definition {short(fixed.definition)} is not a hash of 32 hexadecimal digits; announce it again"
        )
    if not fixed.from_step and kind in _NEEDS_FROM:
        raise _missing("ce-sagafrom", kind)
    if not fixed.to_step and kind is MessageKind.CLEAR:
        raise _missing("ce-sagato", kind)
    if event is None and (kind is MessageKind.UNDONE or (kind is MessageKind.DONE and fixed.from_step == ORIGIN_NAME)):
        raise _missing("ce-sagaevent", kind)
    if (kind is MessageKind.CANCEL) != (fixed.from_step == ORIGIN_NAME) and kind in (
        MessageKind.CANCEL,
        MessageKind.CANCEL_REQUEST,
    ):
        raise fault(
            Fault.TYPE_MISMATCH, f"a message {kind.value!r} cannot come from {fixed.from_step!r}; only the origin sends a cancel"
        )
    if kind is MessageKind.OUTCOME and fixed.outcome is Outcome.OPEN:
        raise _missing("ce-sagaoutcome", kind)
    if event is not None and event.version > _NUMBER_MAX:
        raise fault(Fault.NUMBER, f"the event {event.name!r} has version {event.version!r}; at most {_NUMBER_MAX} can be sent")


def check_channel(fixed: Fixed, channel: Channel) -> None:
    """Raises DecodeError on a message that does not belong on this channel: a reader without an agent would meet it there."""
    kind = channel.kind
    if kind is _EVENT:
        fits = fixed.event is not None and fixed.event.name == channel.name and fixed.kind in _FACTS
    else:
        fits = (kind is not _OUTCOME or fixed.kind is MessageKind.OUTCOME) and (kind is _DLQ or fixed.kind not in NOTICES)
    if not fits:
        raise fault(
            Fault.CHANNEL_MISMATCH,
            f"a message {fixed.kind.value!r} (event {str(fixed.event)!r}) is not for channel {str(channel)!r}; check who sent it",
        )


def _check_name(label: str, name: str) -> None:
    try:
        checked_name(label, name[:65])
    except ValueError as exc:
        raise fault(Fault.NAME, str(exc)) from exc


def _missing(header: str, kind: MessageKind) -> Exception:
    return fault(
        Fault.MISSING_ATTRIBUTE, f"header {header!r} is missing in a message {kind.value!r}; its publisher is not a saga agent"
    )


def write_fixed(fixed: Fixed) -> dict[str, str]:
    """The headers of these fields; empty and false ones are left out."""
    kind_type, word = message_words(fixed)
    event = fixed.event
    written = {
        "ce-specversion": "1.0",
        "ce-source": _SOURCE + fixed.sender,
        "ce-type": kind_type,
        "ce-sagaversion": PROTOCOL_VERSION,
        "ce-sagamsg": word,
        "ce-saganame": fixed.choreography,
        "ce-sagadef": fixed.definition,
        "ce-sagaorigin": fixed.origin,
        "ce-sagafrom": fixed.from_step,
        "ce-sagato": fixed.to_step,
        "ce-sagaevent": event.name if event else "",
        "ce-sagaeventversion": str(event.version) if event else "",
        "ce-sagacause": fixed.cause.value,
        "ce-sagaoutcome": fixed.outcome.value,
        "ce-sagadebt": "true" if fixed.debt else "",
        "ce-sagaagain": "true" if fixed.reannounced else "",
        "ce-datacontenttype": "application/json" if is_fact(fixed) else "",
    }
    return {name: value for name, value in written.items() if value}


def read_fixed(raw: RawFixed) -> Fixed:
    """The inverse of `write_fixed`. Raises DecodeError."""
    _check_versions(raw)
    for header, value in zip(RAW_HEADERS, raw, strict=True):
        if not value and header in _RAW_REQUIRED:
            raise missing(header)
    kind = _KIND_BY_WORD.get(raw.word)
    if kind is None:
        raise fault(
            Fault.UNKNOWN_MESSAGE,
            f"header 'ce-sagamsg' has {short(raw.word)}, which is not a message of this protocol version; upgrade",
        )
    if kind is MessageKind.CANCEL_REQUEST and raw.from_step == ORIGIN_NAME:
        kind = MessageKind.CANCEL
    if not raw.source.startswith(_SOURCE):
        raise fault(
            Fault.SOURCE,
            f"header 'ce-source' has {short(raw.source)}, which is not '/saga/' and a service; its publisher is no saga agent",
        )
    fixed = Fixed(
        kind=kind,
        choreography=raw.choreography,
        definition=raw.definition,
        origin=raw.origin,
        sender=raw.source[len(_SOURCE) :],
        from_step=raw.from_step,
        to_step=raw.to_step,
        event=_read_event(raw.event, raw.event_version),
        cause=_read_cause(raw.cause),
        outcome=_read_outcome(raw.outcome),
        debt=_read_flag("ce-sagadebt", raw.debt),
        reannounced=_read_flag("ce-sagaagain", raw.reannounced),
    )
    check_fixed(fixed)
    if message_words(fixed) != (raw.type, raw.word):
        raise fault(
            Fault.TYPE_MISMATCH,
            f"type {short(raw.type)} and message {short(raw.word)} contradict the other headers; expected {message_words(fixed)!r}",
        )
    if is_fact(fixed) and not raw.content_type:
        raise missing("ce-datacontenttype")
    if raw.content_type and not _CONTENT_TYPE.fullmatch(raw.content_type):
        raise fault(
            Fault.CONTENT_TYPE, f"header 'ce-datacontenttype' has {short(raw.content_type)}; publish events as 'application/json'"
        )
    return fixed


def _check_versions(raw: RawFixed) -> None:
    """First of all: a message of another version may differ in everything else."""
    if not raw.spec_version or not raw.protocol_version:
        raise missing("ce-specversion" if not raw.spec_version else "ce-sagaversion")
    if raw.spec_version != "1.0":
        raise fault(
            Fault.SPEC_VERSION, f"header 'ce-specversion' has {short(raw.spec_version)}; this is a reader of CloudEvents '1.0'"
        )
    if raw.protocol_version != PROTOCOL_VERSION:
        raise fault(
            Fault.PROTOCOL_VERSION,
            f"header 'ce-sagaversion' has {short(raw.protocol_version)}, this agent knows {PROTOCOL_VERSION!r}; upgrade it",
        )


def _read_event(name: str, version: str) -> EventRef | None:
    if not name and not version:
        return None
    if not name or not version:
        raise fault(
            Fault.MISSING_ATTRIBUTE, "headers 'ce-sagaevent' and 'ce-sagaeventversion' must be given together; send both or none"
        )
    if not _NUMBER.fullmatch(version):
        raise fault(Fault.NUMBER, f"header 'ce-sagaeventversion' has {short(version)}; write a whole number from 1")
    try:
        return EventRef(name[:129], int(version))
    except ValueError as exc:
        raise fault(Fault.NAME, str(exc)) from exc


def _read_cause(value: str) -> Cause:
    try:
        return Cause(value)
    except ValueError as exc:
        raise fault(Fault.CAUSE, f"header 'ce-sagacause' has {short(value)}; known are {[c.value for c in Cause if c]!r}") from exc


def _read_outcome(value: str) -> Outcome:
    try:
        return Outcome(value)
    except ValueError as exc:
        raise fault(
            Fault.OUTCOME, f"header 'ce-sagaoutcome' has {short(value)}; known are {[o.value for o in Outcome if o]!r}"
        ) from exc


def _read_flag(header: str, value: str) -> bool:
    if value not in ("", "true", "false"):
        raise fault(Fault.FLAG, f"header {header!r} has {short(value)}; write 'true' or 'false'")
    return value == "true"
