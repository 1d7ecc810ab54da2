"""Dead letters: of each message that is put in quarantine one copy goes to the channel for people, with why, and of no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from saga_choreo.ports.broker import Outgoing
from saga_choreo.ports.store import Held, Quarantined
from saga_choreo.testing.simulator.world import World

__all__ = ["Copies"]

# After one of these a copy may be missing: it follows the commit, and nobody repeats it. The row is there all the same.
_EXCUSES = frozenset({"crash", "publish_refused", "publish_unknown", "commit_unknown"})
_BEFORE_S, _AFTER_S = 6.0, 12.0
_ON_HOLD = "unknown_definition"
# Service, code, and what the letter is.
_Letter = tuple[str, str, bytes, frozenset[tuple[str, str]]]


class Shelf(Protocol):
    """What a store has put aside."""

    service: str
    quarantined: list[Quarantined]
    held: dict[int, Held]


class Copies:
    """Of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._copies: Counter[_Letter] = Counter()

    def hear(self, message: Outgoing) -> None:
        """A broker has taken over a copy."""
        headers = message.headers
        service, code = headers.get("saga-quarantine-service", ""), headers["saga-quarantine-code"]
        self._copies[_letter(service, code, headers, message.body)] += 1

    def judge(self, stores: Sequence[Shelf]) -> None:
        rows: Counter[_Letter] = Counter()
        excused: set[_Letter] = set()
        for store in stores:
            for one in store.quarantined:
                letter = _letter(store.service, one.code, one.headers, one.body)
                rows[letter] += 1
                if self._is_excused(one.received_ms):
                    excused.add(letter)
            for waiting in store.held.values():
                letter = _letter(store.service, _ON_HOLD, waiting.headers, waiting.body)
                if waiting.told and not self._copies[letter]:
                    self._broken(f"a message that waits at {store.service!r} counts as told of, and people have no copy of it")
        for letter, count in rows.items():
            if self._copies[letter] < count and letter not in excused:
                self._broken(
                    f"people have {self._copies[letter]} copies of {count} messages quarantined as {letter[1]!r} at {letter[0]!r}"
                )
        for letter, count in self._copies.items():
            if letter[1] != _ON_HOLD and count > rows[letter]:
                self._broken(f"people have {count} copies of {rows[letter]} messages quarantined as {letter[1]!r} at {letter[0]!r}")

    def _broken(self, text: str) -> None:
        if not self._world.violations:
            self._world.broken("L5", text)

    def _is_excused(self, received_ms: int) -> bool:
        world = self._world
        at_s = (received_ms * 1_000_000 - world.wall_ns() + world.now_ns) / 1e9
        troubles = [when for (name, _), when in world.faults.happened if name in _EXCUSES]
        return world.settings.crash_at is not None or any(
            at_s - _BEFORE_S < when < at_s + _AFTER_S for when in (*troubles, *world.stops)
        )


def _letter(service: str, code: str, headers: Mapping[str, str], body: bytes) -> _Letter:
    return service, code, body, frozenset((name, value) for name, value in headers.items() if name.startswith("ce-"))
