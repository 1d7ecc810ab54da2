"""Between abstract messages (numbers) and letters on the wire (names, channels, bytes)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from saga_choreo.codec.messages import Fixed
from saga_choreo.codec.wire import Template, encode, filled, template
from saga_choreo.core.emissions import Message
from saga_choreo.core.graph import TO_SINK, Plan
from saga_choreo.core.notices import Note
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN_NAME, Record
from saga_choreo.ports.broker import Outgoing

__all__ = [
    "TELLS_WHY",
    "event_of",
    "harmless",
    "letter_of",
    "message_of",
    "notice_letter",
    "receiver_of",
]

# Messages that tell why: the reason for which an optional step was skipped, say, is not that of the whole saga.
TELLS_WHY = frozenset({MessageKind.ABORT, MessageKind.CANCEL, MessageKind.CANCEL_REQUEST, MessageKind.OUTCOME})
_OUTCOME = Channel(ChannelKind.OUTCOME)
_DLQ = Channel(ChannelKind.DLQ)
_OF_EVENTS, _UNDONE = (MessageKind.DONE, MessageKind.SKIP), MessageKind.UNDONE


def message_of(envelope: Envelope, plan: Plan) -> Message | str:
    """The message an envelope stands for under this plan, or why it cannot be one."""
    source = plan.number(envelope.from_step) if envelope.from_step else -1
    if source is None:
        return f"the definition has no step {envelope.from_step!r}"
    event = TO_SINK
    if envelope.kind in _OF_EVENTS and envelope.event is not None:
        number = plan.event_number(source, envelope.event)
        if number is None:
            return f"step {envelope.from_step!r} does not publish {envelope.event}"
        event = number
    target = plan.number(envelope.to_step) if envelope.to_step else -1
    if target is None:
        return f"the definition has no step {envelope.to_step!r}"
    return Message(
        envelope.kind, source, event=event, target=target, outcome=envelope.outcome, cause=envelope.cause, debt=envelope.debt
    )


def receiver_of(message: Message, record: Record) -> str:
    """The service a control message is for; '' for an event or an outcome, which whoever is bound receives."""
    return record.origin if message.service == ORIGIN_NAME else message.service


def event_of(message: Message, plan: Plan) -> EventRef | None:
    if message.kind is MessageKind.UNDONE:
        return plan.choreography.steps[message.source].undo_event
    return None if message.event == TO_SINK else plan.step(message.source).outputs[message.event]


class _Form(NamedTuple):
    """What is the same of a message for every saga of a choreography."""

    template: Template
    channel: Channel
    has_reader: bool
    payload_of: int | None
    tells_why: bool


# One for each edge of the graph, roughly.
@lru_cache(maxsize=4096)
def _form(message: Message, plan: Plan, origin: str, sender: str, again: bool) -> _Form:
    event = event_of(message, plan)
    receiver = origin if message.service == ORIGIN_NAME else message.service
    if event is not None and message.kind in (MessageKind.DONE, MessageKind.UNDONE):
        channel = Channel(ChannelKind.EVENT, event.name)
    elif message.kind is MessageKind.OUTCOME:
        channel = _OUTCOME
    else:
        channel = Channel(ChannelKind.CONTROL, receiver)
    fixed = Fixed(
        kind=message.kind,
        choreography=plan.choreography.name,
        definition=plan.definition,
        origin=origin,
        sender=sender,
        from_step=plan.step(message.source).name,
        to_step=plan.step(message.target).name if message.kind is MessageKind.CLEAR else "",
        event=event,
        cause=message.cause,
        outcome=message.outcome,
        debt=message.debt,
        reannounced=again,
    )
    is_read = channel.kind is not ChannelKind.EVENT or (message.source, message.event) in plan.readers
    carries = message.event if message.kind is MessageKind.DONE and message.event != TO_SINK else None
    return _Form(template(fixed, channel), channel, is_read, carries, message.kind in TELLS_WHY)


def letter_of(message: Message, record: Record, plan: Plan, now_ns: int, *, again: bool = False) -> Outgoing | None:
    """The letter as bytes, for one message that this record implies; None for one with nothing to say to anybody (a compensation
    that publishes no event)."""
    payload = b""
    if message.kind is _UNDONE:
        if event_of(message, plan) is None or record.undo_result is None:
            return None
        payload = record.undo_result or b"{}"
    form = _form(message, plan, record.origin, record.service, again)
    if form.payload_of is not None:
        payload = record.results.get(form.payload_of, b"{}")
    traceparent, _, tracestate = record.trace.partition("\n")
    saga_id = str(record.saga_id)
    headers, body = filled(
        form.template,
        saga_id=saga_id,
        sent_ns=now_ns,
        key=record.key,
        deadline_ms=record.deadline_ms,
        payload=payload,
        reason=record.reason if form.tells_why else "",
        traceparent=traceparent,
        tracestate=tracestate,
    )
    return Outgoing(form.channel, saga_id, headers, body, must_route=form.has_reader)


def notice_letter(note: Note, record: Record, plan: Plan, now_ns: int, *, again: bool = False) -> Outgoing:
    """The letter for people about a parked or resolved step."""
    traceparent, _, tracestate = record.trace.partition("\n")
    envelope = Envelope(
        kind=note.kind,
        saga_id=record.saga_id,
        choreography=record.choreography,
        definition=record.definition,
        origin=record.origin,
        sender=record.service,
        channel=_DLQ,
        from_step=plan.step(record.step).name,
        key=record.key,
        deadline_ms=record.deadline_ms,
        reason=note.reason,
        reannounced=again,
        parking=note.parking,
        traceparent=traceparent,
        tracestate=tracestate,
        sent_ns=now_ns,
    )
    headers, body = encode(envelope)
    return Outgoing(_DLQ, str(record.saga_id), headers, body, must_route=False)


def harmless(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that describe a message. Others may be commands to a broker (delete what came before, say), and a copy must
    not pass them on; the store keeps them all."""
    kept = ("ce-", "traceparent", "tracestate", "content-type")
    return {name: value for name, value in headers.items() if name.lower().startswith(kept)}
