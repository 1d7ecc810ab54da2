"""The outside: a provider that does a call once per idempotency key, and whose answer may be lost.

A refusal is durable under its key. A call that is on its way arrives even if whoever sent it has died.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.world import SECOND, World

__all__ = ["Provider", "Reply"]

Place = tuple[UUID, int, bool]


@dataclass(slots=True)
class Reply:
    """What the provider knows under one key. `choice` is what was chosen when it was done."""

    is_done: bool = False
    is_declined: bool = False
    is_pending: bool = False
    choice: int = 0


class Provider:
    """`took_effect` hears of every effect, once per key."""

    def __init__(self, world: World, took_effect: Callable[[Effect], None]) -> None:
        self._world = world
        self._took_effect = took_effect
        self._replies: dict[str, Reply] = {}
        self._keys: dict[Place, list[str]] = {}

    def known(self, place: Place) -> Reply | None:
        """What was done or refused for this step, whatever the key (the look-up a person uses)."""
        replies = [self._replies[key] for key in self._keys.get(place, ())]
        return next((reply for reply in replies if reply.is_done), replies[-1] if replies else None)

    def void(self, place: Place) -> None:
        """Refuse whatever of this step is still on its way or comes again under a key used so far."""
        for key in self._keys.get(place, ()):
            if not self._replies[key].is_done:
                self._replies[key].is_declined = True

    def call(self, key: str, place: Place, choice: int, answer: Callable[[Reply | None], None], *, pending: bool) -> None:
        """Send a call: `answer` gets the reply, or None when it was lost on one of its ways."""
        world = self._world
        if key not in self._replies:
            self._replies[key] = Reply()
            self._keys.setdefault(place, []).append(key)
        there = world.hit("provider_lost")
        way = int(world.latency.random() ** 3 * 8 * SECOND)
        if there is not None:
            world.saw("provider call lost")
            world.after(way + int(there * 10 * SECOND), answer, None)
            return
        declined = world.hit("provider_decline") is not None
        lost = world.hit("provider_unknown")
        world.after(way, self._arrive, key, place, choice, declined, pending)
        if lost is not None:
            world.saw("provider did it, answer lost")
            # The caller may give up before the call has even arrived.
            world.after(int(way * 2 * lost) + 1, answer, None)
        else:
            world.after(way + 1_000_000, lambda: answer(self._replies[key]))

    def _arrive(self, key: str, place: Place, choice: int, declined: bool, pending: bool) -> None:
        reply = self._replies[key]
        if reply.is_done or reply.is_declined:
            return
        if declined:
            self._world.saw("provider declined")
            reply.is_declined = True
            return
        reply.is_done, reply.choice, reply.is_pending = True, choice, pending
        saga_id, step, is_undo = place
        self._took_effect(Effect(saga_id, step, is_undo, by="provider"))
