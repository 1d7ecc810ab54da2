"""One view of both kinds of dead letters, so that people list, group and filter them alike and still tell them apart.

A *message* can never be applied as it is; nothing waits for it but its saga. A *step* keeps failing and is parked; its message has
been applied. The store is the truth of both (quarantine rows, rows on hold, parked records), and nothing is copied to make this view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from saga_choreo.codec.wire import decode
from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.errors import DecodeError
from saga_choreo.model.envelope import Envelope
from saga_choreo.model.record import ORIGIN_NAME, Record
from saga_choreo.model.states import State
from saga_choreo.ports.store import Held, Quarantined
from saga_choreo.runtime.failures import fingerprint, normalised
from saga_choreo.runtime.stored import channel_from

__all__ = [
    "DeadLetter",
    "Input",
    "LetterKind",
    "envelope_in",
    "letter_of_held",
    "letter_of_quarantined",
    "letter_of_step",
    "step_id",
]

UNKNOWN_DEFINITION = "unknown_definition"


class LetterKind(StrEnum):
    MESSAGE = "message"
    STEP = "step"


class Input(NamedTuple):
    """An event that a parked step has received, with its payload as it came."""

    event: str
    from_step: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """`id` names it in this store. `state` is 'open', 'archived' or 'resolved'; of a message that waits for its definition
    'waiting', of a step also 'taken' (a person has it). `code` is the word of the quarantine or the exception's type, `group` the
    fingerprint of the fault. Times are Unix milliseconds. `round` counts what people have said on a step."""

    id: str
    kind: LetterKind
    service: str
    state: str
    code: str
    detail: str
    group: str
    stack: str = ""
    saga_id: str = ""
    key: str = ""
    choreography: str = ""
    definition: str = ""
    step: str = ""
    channel: str = ""
    attempts: int = 1
    first_ms: int = 0
    last_ms: int = 0
    agent: str = ""
    version: str = ""
    operator: str = ""
    note: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    inputs: Sequence[Input] = ()
    round: int = 0
    number: int = 0


def envelope_in(channel: str, headers: Mapping[str, str], body: bytes) -> Envelope | DecodeError:
    try:
        return decode(channel_from(channel), headers, body)
    except DecodeError as error:
        return error
    except ValueError as error:  # a channel that no release of the toolkit has written
        return DecodeError("channel_mismatch", f"the channel {channel!r} is none: {error}")


def letter_of_quarantined(one: Quarantined) -> DeadLetter:
    envelope = envelope_in(one.channel, one.headers, one.body)
    about = _about(envelope, one.headers)
    about["saga_id"] = one.saga_id or about["saga_id"]
    return DeadLetter(
        id=f"m{one.number}",
        kind=LetterKind.MESSAGE,
        service=one.service,
        state=one.state,
        code=one.code,
        detail=one.detail,
        group=fingerprint(LetterKind.MESSAGE, one.service, one.code, one.channel, normalised(one.detail)),
        channel=one.channel,
        attempts=one.attempts,
        first_ms=one.received_ms,
        last_ms=one.last_ms or one.received_ms,
        agent=one.agent,
        version=one.version,
        operator=one.operator,
        note=one.note,
        headers=one.headers,
        body=one.body,
        number=one.number,
        **about,
    )


def letter_of_held(one: Held) -> DeadLetter:
    return DeadLetter(
        id=f"h{one.number}",
        kind=LetterKind.MESSAGE,
        service=one.service,
        state="waiting",
        code=UNKNOWN_DEFINITION,
        detail=f"waits for the definition {one.definition}, which is not known to the service",
        group=fingerprint(LetterKind.MESSAGE, one.service, UNKNOWN_DEFINITION, one.definition),
        channel=one.channel,
        first_ms=one.received_ms,
        last_ms=one.received_ms,
        headers=one.headers,
        body=one.body,
        number=one.number,
        **_about(envelope_in(one.channel, one.headers, one.body), one.headers),
    )


def _about(envelope: Envelope | DecodeError, headers: Mapping[str, str]) -> dict[str, Any]:
    """What the message is about; of one that cannot be decoded, what its headers say without a promise."""
    if isinstance(envelope, DecodeError):
        said = {name.lower(): value for name, value in headers.items()}
        return {"saga_id": said.get("ce-sagaid", ""), "key": said.get("ce-sagakey", "")}
    return {
        "saga_id": str(envelope.saga_id),
        "key": envelope.key,
        "choreography": envelope.choreography,
        "definition": envelope.definition,
        "step": envelope.to_step or envelope.from_step,
    }


def step_id(record: Record, step: StepPlan | None) -> str:
    return f"{record.saga_id}:{step.name if step is not None else record.step}"


def letter_of_step(record: Record, plan: Plan | None) -> DeadLetter:
    """A parked record. Without the plan the step is named by its number."""
    step = plan.step(record.step) if plan is not None else None
    name = step.name if step is not None else f"#{record.step}"
    why = record.failure
    side = "undo" if record.row.state is State.COMPENSATING else "do"
    code = why.kind if why is not None else record.error.partition(":")[0] or "parked"
    fault = (why.stack or normalised(record.error)) if why is not None else normalised(record.error)
    return DeadLetter(
        id=step_id(record, step),
        kind=LetterKind.STEP,
        service=record.service,
        state="taken" if record.row.operator else "open",
        code=code,
        detail=record.error,
        group=fingerprint(LetterKind.STEP, record.service, record.choreography, name, side, code, fault),
        stack=why.stack if why is not None else "",
        saga_id=str(record.saga_id),
        key=record.key,
        choreography=record.choreography,
        definition=record.definition,
        step=name,
        channel=", ".join(dict.fromkeys(f"event.{one.event}" for one in _inputs(record, plan))),
        attempts=record.row.attempt,
        first_ms=why.first_ms if why is not None else record.tried_since_ms or record.changed_ms,
        last_ms=why.last_ms if why is not None else record.changed_ms,
        agent=why.agent if why is not None else "",
        version=why.version if why is not None else "",
        operator=record.row.operator or (record.resolution.operator if record.resolution else ""),
        note=record.resolution.reason if record.resolution else "",
        inputs=_inputs(record, plan),
        round=record.resolution.number if record.resolution else 0,
    )


def _inputs(record: Record, plan: Plan | None) -> tuple[Input, ...]:
    if plan is None:
        return tuple(Input(f"#{bit}", "", payload) for bit, payload in sorted(record.inputs.items()))
    found: list[Input] = []
    for bit, payload in sorted(record.inputs.items()):
        source, event = plan.step(record.step).in_edges[bit]
        if event is not None:
            found.append(Input(event.name, ORIGIN_NAME if source < 0 else plan.step(source).name, payload))
    return tuple(found)
