"""Between abstract messages (numbers) and letters on the wire (names, channels, bytes)."""

from __future__ import annotations

from collections.abc import Mapping

from saga_choreo.codec.wire import encode
from saga_choreo.core.emissions import Message
from saga_choreo.core.graph import TO_SINK, Plan
from saga_choreo.core.notices import Note
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN_NAME, Record
from saga_choreo.ports.broker import Outgoing

__all__ = [
    "TELLS_WHY",
    "channel_of",
    "envelope_of",
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


def message_of(envelope: Envelope, plan: Plan) -> Message | str:
    """The message an envelope stands for under this plan, or why it cannot be one."""
    source = plan.number(envelope.from_step) if envelope.from_step else -1
    if source is None:
        return f"the definition has no step {envelope.from_step!r}"
    event = TO_SINK
    if envelope.kind in (MessageKind.DONE, MessageKind.SKIP) and envelope.event is not None:
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


def channel_of(message: Message, record: Record, plan: Plan) -> Channel:
    event = event_of(message, plan)
    if event is not None and message.kind in (MessageKind.DONE, MessageKind.UNDONE):
        return Channel(ChannelKind.EVENT, event.name)
    if message.kind is MessageKind.OUTCOME:
        return _OUTCOME
    return Channel(ChannelKind.CONTROL, receiver_of(message, record))


def event_of(message: Message, plan: Plan) -> EventRef | None:
    if message.kind is MessageKind.UNDONE:
        return plan.choreography.steps[message.source].undo_event
    return None if message.event == TO_SINK else plan.step(message.source).outputs[message.event]


def envelope_of(message: Message, record: Record, plan: Plan, now_ns: int, *, again: bool = False) -> Envelope:
    """The letter for one message that this record implies."""
    payload = b""
    if message.kind is MessageKind.DONE and message.event != TO_SINK:
        payload = record.results.get(message.event, b"{}")
    elif message.kind is MessageKind.UNDONE:
        payload = record.undo_result or b"{}"
    traceparent, _, tracestate = record.trace.partition("\n")
    return Envelope(
        kind=message.kind,
        saga_id=record.saga_id,
        choreography=record.choreography,
        definition=record.definition,
        origin=record.origin,
        sender=record.service,
        channel=channel_of(message, record, plan),
        from_step=plan.step(message.source).name,
        to_step=plan.step(message.target).name if message.kind is MessageKind.CLEAR else "",
        event=event_of(message, plan),
        key=record.key,
        deadline_ms=record.deadline_ms,
        reason=record.reason if message.kind in TELLS_WHY else "",
        cause=message.cause,
        outcome=message.outcome,
        debt=message.debt,
        reannounced=again,
        payload=payload,
        traceparent=traceparent,
        tracestate=tracestate,
        sent_ns=now_ns,
    )


def letter_of(message: Message, record: Record, plan: Plan, now_ns: int, *, again: bool = False) -> Outgoing | None:
    """The letter as bytes; None for a message with nothing to say to anybody (a compensation that publishes no event)."""
    if message.kind is MessageKind.UNDONE and (event_of(message, plan) is None or record.undo_result is None):
        return None
    envelope = envelope_of(message, record, plan, now_ns, again=again)
    headers, body = encode(envelope)
    has_reader = envelope.channel.kind is not ChannelKind.EVENT or (message.source, message.event) in plan.readers
    return Outgoing(envelope.channel, str(record.saga_id), headers, body, must_route=has_reader)


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
