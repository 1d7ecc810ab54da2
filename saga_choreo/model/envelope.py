"""The envelope: what one message says about one saga.

On the wire it is a CloudEvents 1.0 message in binary mode (see `codec`); here it is a plain value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from saga_choreo.model.event import EventRef
from saga_choreo.model.states import Cause, Outcome

__all__ = ["Channel", "ChannelKind", "Envelope", "MessageKind", "Parking"]


class MessageKind(StrEnum):
    """The protocol's messages. START is a DONE whose from-step is the origin."""

    DONE = "done"
    SKIP = "skip"
    ABORT = "abort"
    CLEAR = "clear"
    CANCEL = "cancel"
    CANCEL_REQUEST = "cancel_request"
    OUTCOME = "outcome"
    UNDONE = "undone"  # the event a compensation publishes: a fact for the world, not an edge of the graph
    PARKED = "parked"  # for people: a step waits for their word
    RESOLVED = "resolved"  # for people: what somebody decided on a parked step


class ChannelKind(StrEnum):
    EVENT = "event"
    CONTROL = "control"
    OUTCOME = "outcome"
    DEFS = "defs"
    DLQ = "dlq"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True)
class Channel:
    """Where a message goes: an event's channel by event name, a service's control channel by service name, or a single channel."""

    kind: ChannelKind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}" if self.name else str(self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parking:
    """What PARKED and RESOLVED tell beside the step. `round` counts the words people had said on the step, so that a step that
    parks again after the same number of attempts gives another notice. `resolution` is the verb, of RESOLVED only."""

    attempt: int = 0
    round: int = 0
    operator: str = ""
    error: str = ""
    resolution: str = ""


class Envelope(NamedTuple):
    """One message. `from_step` and `to_step` are step names ('origin' for the virtual source and sink).

    `sent_ns` is the time of publishing (Unix nanoseconds); `deadline_ms` is absolute. `reannounced` marks a repeated
    announcement: only such a message is answered by a record that has ended.
    """

    kind: MessageKind
    saga_id: UUID
    choreography: str
    definition: str
    origin: str
    sender: str
    channel: Channel
    from_step: str = ""
    to_step: str = ""
    event: EventRef | None = None
    key: str = ""
    deadline_ms: int | None = None
    reason: str = ""
    cause: Cause = Cause.NONE
    outcome: Outcome = Outcome.OPEN
    debt: bool = False
    reannounced: bool = False
    payload: bytes = b""
    parking: Parking | None = None
    traceparent: str = ""
    tracestate: str = ""
    sent_ns: int = 0
