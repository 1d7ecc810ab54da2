"""What records say: the messages that follow from a record, and what is published of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saga_choreo.core.emissions import Message, emissions
from saga_choreo.core.graph import Plan
from saga_choreo.core.notices import Note, notices
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN_NAME, Record
from saga_choreo.ports.broker import Outgoing
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.letters import letter_of, notice_letter, receiver_of
from saga_choreo.runtime.operations import Publication

__all__ = ["Said", "everything", "is_needless", "publication_of", "publications_of", "said_again"]

# Asked for with every message; to look a member up on its class costs as much as a call (Python 3.11).
_UNDONE, _ABORT = MessageKind.UNDONE, MessageKind.ABORT


@dataclass(frozen=True, slots=True)
class Said:
    """What the new version of one record says to the outside, and what it tells people."""

    record: Record
    messages: tuple[Message, ...]
    notes: tuple[Note, ...] = ()


def everything(record: Record, plan: Plan) -> tuple[Message, ...]:
    """All that a record says to other services, as if nothing had been said yet."""
    said = emissions(record.row, plan.step(record.step), plan)
    return tuple(m for m in said if receiver_of(m, record) != record.service and not is_needless(m, record, plan))


def is_needless(message: Message, record: Record, plan: Plan) -> bool:
    """A compensation that published no event has nothing to tell the world; an origin that owns steps hears an ABORT once."""
    kind = message.kind
    if kind is _UNDONE:
        return record.undo_result is None
    return kind is _ABORT and message.service == ORIGIN_NAME and record.origin in plan.owners


def said_again(record: Record, plan: Plan, now_ns: int) -> list[Outgoing]:
    """Everything once more, flagged: repairs whatever the broker lost."""
    letters = [letter_of(m, record, plan, now_ns, again=True) for m in everything(record, plan)]
    parked = [note for note in notices(record) if note.kind is MessageKind.PARKED]
    letters += [notice_letter(note, record, plan, now_ns, again=True) for note in parked]
    return [letter for letter in letters if letter is not None]


def publication_of(said: Said, catalog: Catalog, now_ns: int) -> Publication:
    record = said.record
    known = catalog.get(record.definition)
    assert known is not None
    letters = [letter_of(message, record, known.plan, now_ns) for message in said.messages]
    letters += [notice_letter(note, record, known.plan, now_ns) for note in said.notes]
    return Publication(record.record_key, record.version, tuple(letter for letter in letters if letter is not None))


def publications_of(records: Sequence[Record], catalog: Catalog, now_ns: int) -> list[Publication]:
    """Everything these records say, as if nothing had been published yet; without those whose definition is not known."""
    known = [(record, catalog.get(record.definition)) for record in records]
    said = [Said(record, everything(record, one.plan), notices(record)) for record, one in known if one is not None]
    return [publication_of(one, catalog, now_ns) for one in said]
