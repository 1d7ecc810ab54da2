"""S10 for what no other promise depends on: a record whose words count as published has said all of them, to everybody.

Worked out from the record by the words of the protocol, and not with the product's own emissions: a refusal is told to every owner
and the origin, a cancel to every owner or from a participant to the origin, and people hear of parked steps and of what was said.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from saga_choreo.model.envelope import ChannelKind, Envelope, MessageKind
from saga_choreo.model.record import ORIGIN, Record, RecordKey
from saga_choreo.model.states import Cancel, Outcome, Parked, State
from saga_choreo.runtime.operations import Publication
from saga_choreo.testing.simulator.ledger import Ledger
from saga_choreo.testing.simulator.world import World

__all__ = ["WHY", "Hearsay"]

# Saga, kind, from-step, the service it is for ('' for people), and how many words people had said on the step.
_Word = tuple[UUID, MessageKind, str, str, int]
# What people give as their reason.
WHY = "asked by a person"
_ALMOST_MS = 5
_TOLD = frozenset({Parked.PARKED, Parked.PASSED})
_HEARD = frozenset({MessageKind.ABORT, MessageKind.CANCEL, MessageKind.CANCEL_REQUEST, MessageKind.PARKED, MessageKind.RESOLVED})


class Hearsay:
    """Of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._heard: set[_Word] = set()
        # Versions of records with which nothing new is to be told of their being parked, and how many words people had said.
        self._quiet: dict[tuple[RecordKey, int], str] = {}

    def hear(self, envelope: Envelope) -> None:
        """A broker has taken this over."""
        if envelope.kind in _HEARD:
            to = envelope.channel.name if envelope.channel.kind is ChannelKind.CONTROL else ""
            words = 0 if envelope.parking is None else envelope.parking.round
            self._heard.add((envelope.saga_id, envelope.kind, envelope.from_step, to, words))

    def committed(self, ledger: Ledger, old: Record | None, new: Record) -> None:
        if old is not None and new.announced >= old.version:
            self.told(ledger, old, ledger.words.get(new.step, 0))
            # Where the store itself says so, whoever writes the next version knows that people have heard all this.
            if old.announced == old.version and old.row.parked in _TOLD:
                self._quiet[new.record_key, new.version] = str(ledger.words.get(new.step, 0))
        if new.resolution is not None and (old is None or new.resolution != old.resolution):
            self._word(ledger, old, new)

    def says(self, publication: Publication) -> None:
        """Somebody publishes what he has just committed: of a parked step people are told once, not with every change."""
        words = self._quiet.pop((publication.key, publication.version), None)
        for letter in publication.messages if words is not None else ():
            if letter.headers.get("ce-sagamsg") == "step.parked" and letter.headers.get("ce-sagaround", "0") == words:
                text = f"version {publication.version} of {publication.key!r} tells people again of a step they know to be parked"
                self._world.broken("S10", text)

    def _word(self, ledger: Ledger, old: Record | None, record: Record) -> None:
        """Who said what, when and why is kept, and words are counted."""
        number = ledger.words[record.step] = ledger.words.get(record.step, 0) + 1
        word, known = record.resolution, self._world.said.get(record.record_key, ())
        assert word is not None
        is_said = any((word.verb, word.operator) == (one.verb, one.operator) for one in known) and word.reason == WHY
        attempt, late_ms = 0 if old is None else old.row.attempt, abs(word.at_ms - record.changed_ms)
        if word.number != number or not is_said or word.attempt != attempt or late_ms > _ALMOST_MS:
            text = f"{word!r} is noted as word {number} on {ledger.name(record.step)}, said were {list(known)!r}"
            self._world.broken("L4", text, ledger.number)

    def told(self, ledger: Ledger, record: Record, words: int) -> None:
        """What this record says is published."""
        name = ledger.plan.step(record.step).name
        for kind, to in _owed(ledger, record):
            if (record.saga_id, kind, name, to, 0 if to else words) not in self._heard:
                whom = f"service {to!r}" if to else "people"
                text = f"{kind.value} of {ledger.name(record.step)} counts as published, and {whom} has not been told"
                self._world.broken("S10", text, ledger.number)


def _owed(ledger: Ledger, record: Record) -> Iterator[tuple[MessageKind, str]]:
    row, owners, here = record.row, ledger.plan.owners, record.service
    if record.step == ORIGIN:
        aborts, cancels = row.state is State.ABORTING and row.vetoer, row.state is State.OPEN and row.cancel & Cancel.ASKED
        for owner in owners if aborts or cancels else ():
            if owner != here:
                yield MessageKind.ABORT if aborts else MessageKind.CANCEL, owner
        return
    if row.vetoer:
        for owner in dict.fromkeys((*owners, record.origin)):
            if owner != here:
                yield MessageKind.ABORT, owner
    if row.cancel & Cancel.ASKED and row.outcome is Outcome.OPEN and record.origin != here:
        yield MessageKind.CANCEL_REQUEST, record.origin
    if row.parked in (Parked.PARKED, Parked.PASSED):
        yield MessageKind.PARKED, ""
    if record.resolution is not None:
        yield MessageKind.RESOLVED, ""
