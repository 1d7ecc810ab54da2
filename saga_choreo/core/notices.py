"""What a record tells people: that a step is parked, and what somebody decided on it.

Derived from the record like its messages to other services, so that the crash path repeats a notice which was not published;
kept apart from `core.emissions`, because no service acts on a notice and the protocol does not depend on one.
"""

from __future__ import annotations

from typing import NamedTuple

from saga_choreo.model.envelope import MessageKind, Parking
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Parked

__all__ = ["Note", "notices"]

_NOT_PARKED = Parked.NO


class Note(NamedTuple):
    """One notice: `reason` is the person's, of RESOLVED only."""

    kind: MessageKind
    parking: Parking
    reason: str = ""


def notices(record: Record) -> tuple[Note, ...]:
    """Everything this record tells people, the oldest first."""
    word = record.resolution
    if record.step == ORIGIN or (word is None and record.row.parked is _NOT_PARKED):
        return ()
    told: list[Note] = []
    if word is not None:
        said = Parking(attempt=word.attempt, round=word.number, operator=word.operator, resolution=word.verb)
        told.append(Note(MessageKind.RESOLVED, said, word.reason))
    if record.row.parked in (Parked.PARKED, Parked.PASSED):
        number = 0 if word is None else word.number
        told.append(Note(MessageKind.PARKED, Parking(attempt=record.row.attempt, round=number, error=record.error)))
    return tuple(told)
