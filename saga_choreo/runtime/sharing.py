"""Which agent of a service takes what waits: one before the others as long as it keeps up, since few large batches cost less than many
small ones; what it leaves goes to the next. Where handlers wait for something, each takes a like part: there every agent adds to the speed.

Each agent decides for itself, by its own measure and by the others it has heard of. Whatever they believe of each other, everything that
waits is offered to all of them.
"""

from __future__ import annotations

from collections.abc import Callable

from saga_choreo.ports.broker import RANK_LAST, Broker, Prefers
from saga_choreo.runtime.timing import Limits

__all__ = ["Sharing"]

# Handlers wait when they take so long, and so much of the time that their batches take: on a slow machine everything takes long.
_WAITING_S, _WAITING_SHARE = 0.005, 0.75
# One that takes longer than this, and than a transaction has time for, says nothing of the others.
_LONG_S = 0.1
# How much of what was measured before the last batch still counts.
_KEPT = 0.9
# More of a service make batches wait no longer than so many do.
_AGENTS_MAX = 4


class Sharing:
    """`place`: this agent's among those of its service, from 0, and how many they are."""

    def __init__(self, broker: Broker, limits: Limits, place: Callable[[], tuple[int, int]] = lambda: (0, 1)) -> None:
        self._balances = broker.features.balances_backlog
        self._prefers = broker if isinstance(broker, Prefers) else None
        self._limits = limits
        self._place = place
        self._messages = self._batches_s = self._handlers_s = 0.0
        self._waited_s = 0.0  # since the last batch
        self._long_s = max(_LONG_S, limits.fast_budget_s)

    def waited(self, seconds: float) -> None:
        """For a handler, or until a limit lets it run."""
        self._waited_s += min(seconds, self._long_s)

    def worked(self, messages: int, seconds: float) -> None:
        """A batch of so many messages took so long."""
        self._messages = _KEPT * self._messages + messages
        self._batches_s = _KEPT * self._batches_s + seconds
        self._handlers_s = _KEPT * self._handlers_s + self._waited_s
        self._waited_s = 0.0

    def divide(self, *, is_well: bool = True) -> int:
        """Tell the broker what this agent takes from now on: the least when it is not well or too slow. Returns how many have a like
        part each."""
        place, agents = self._place()
        likely = min(agents, _AGENTS_MAX) if self._balances else 1
        if self._prefers is None:
            return likely
        if agents == 1:
            self._prefers.prefer(0)
            return 1
        if is_well and self._handlers_wait():
            self._prefers.prefer(RANK_LAST)
            return likely
        if not is_well or self._is_slow():
            self._prefers.prefer(RANK_LAST, self._limits.batch_max)
            return likely
        preferred = self._prefers.prefer(min(place, RANK_LAST - 1), self._held_max())
        return 1 if preferred and place == 0 else likely

    def _handlers_wait(self) -> bool:
        return self._handlers_s > max(_WAITING_S * self._messages, _WAITING_SHARE * self._batches_s)

    def _is_slow(self) -> bool:
        """It takes longer for a message than one transaction has time for: what others could do at once would wait for this agent."""
        return self._batches_s > self._long_s * self._messages

    def _held_max(self) -> int:
        """What one transaction's budget is enough for: more would only wait here while others have nothing to do."""
        each_s = self._batches_s / self._messages if self._messages else 0.0
        return max(self._limits.batch_max, int(self._limits.fast_budget_s / max(each_s, 0.0005)))
