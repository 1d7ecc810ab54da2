"""What counts as a store that went back in time, and what a person has accepted. Pure, and without clocks, which differ.

Positions only rise, also from one history to the next: whoever goes on with what was accepted raises the position above all that was
told. So `covers` in the note of an acceptance, the highest position told until then, says which words about other histories are
settled; a later one is not. Each acceptance has an id and serves once: it is marked in the store when an agent goes on with it, and
told to all, so that a backup from before that mark does not bring it back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace

from saga_choreo.ports.upkeep import Epoch

__all__ = ["Acceptance", "accept", "unused", "went_back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """The note that is kept with a position: `operator` accepts the history `identity`, at this position, as it is. `at_ms` is for
    people."""

    id: str
    identity: str
    position: int
    operator: str = ""
    reason: str = ""
    at_ms: int = 0
    covers: int = 0
    is_used: bool = False

    @classmethod
    def of(cls, note: str) -> Acceptance | None:
        """None when the note is none. A later release may have written more."""
        try:
            read = json.loads(note)
            one = cls(**{name: read[name] for name in cls.__slots__ if name in read})
        except (ValueError, TypeError):
            return None
        typed = ((one.id, str), (one.identity, str), (one.position, int), (one.covers, int), (one.is_used, bool))
        return one if all(type(value) is wanted for value, wanted in typed) else None

    def note(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    def used(self, told: Mapping[str, int]) -> Acceptance:
        """After an agent has gone on with it, above all positions that were told until then."""
        return replace(self, is_used=True, covers=max(self.covers, *told.values(), 0))


def accept(now: Epoch, acceptance_id: str, operator: str, reason: str, at_ms: int) -> Acceptance:
    """Of the store as it is. What an earlier acceptance covers stays covered."""
    before = Acceptance.of(now.note)
    return Acceptance(
        id=acceptance_id,
        identity=now.identity,
        position=now.position,
        operator=operator,
        reason=reason,
        at_ms=at_ms,
        covers=before.covers if before is not None else 0,
    )


def went_back(told: Mapping[str, int], now: Epoch) -> str:
    """Why the store is not what it was told to be (position by history); empty when it is."""
    if now.position < (reached := told.get(now.identity, 0)):
        return f"it is at position {now.position}, and had reached {reached}: commits are missing (a restored backup?)"
    note = Acceptance.of(now.note)
    covers = note.covers if note is not None and note.identity == now.identity else 0
    for identity, position in told.items():
        if identity != now.identity and position > covers:
            return f"it is {now.identity!r}, and was {identity!r}: another database, or one after a failover"
    return ""


def unused(now: Epoch, used: Collection[str]) -> Acceptance | None:
    """A person's acceptance of this very history, with which no agent has gone on yet; `used` are those that others have told of."""
    note = Acceptance.of(now.note)
    if note is None or note.identity != now.identity or note.is_used or note.id in used:
        return None
    return note
