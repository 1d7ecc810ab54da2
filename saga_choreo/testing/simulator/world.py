"""Virtual time: a queue of what happens when. Time moves only from one event to the next."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any
from uuid import UUID

from saga_choreo.core.facts import Resolved
from saga_choreo.model.record import RecordKey
from saga_choreo.model.states import SagaState
from saga_choreo.ports.broker import Outgoing
from saga_choreo.testing.simulator.faults import Faults
from saga_choreo.testing.simulator.settings import Settings, Violation
from saga_choreo.testing.simulator.streams import Streams

__all__ = ["SECOND", "World"]

SECOND = 1_000_000_000
# For each saga. Many times what any run needs, and a run that never ends has eaten little memory by then.
_EVENTS_MAX = 500_000
# Virtual time 0 as a wall clock, so that saga ids and deadlines look like real ones.
_EPOCH_NS = 1_767_225_600 * SECOND


@dataclass(slots=True)
class Owed:
    """A message that a commit has promised."""

    words: str
    saga: int
    is_told: bool = False


class World:
    """Clock, event queue, randomness and the record of what happened, for one seed."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.settings = settings
        self.streams = Streams(seed)
        self.faults = Faults(self.streams, settings)
        self.latency = self.streams.named("latency")
        self.now_ns = 0
        self.operations = 0
        self.healed_ns: int | None = None
        self.sometimes: dict[str, int] = {}
        self.ended: dict[str, None] = {}
        # What is committed and has to be published, by the messages' identity, until a broker has taken it over.
        self.owed: dict[str, Owed] = {}
        # What people have said on parked steps.
        self.said: dict[RecordKey, list[Resolved]] = {}
        # Sagas that somebody wanted to cancel, and the seconds of steps' own deadlines.
        self.cancelled: set[UUID] = set()
        self.own_deadlines: dict[tuple[str, int], float] = {}
        # How sagas are said to have ended, to whom; of these a message came so often that it need not be told any more.
        self.told: dict[tuple[str, UUID], list[SagaState]] = {}
        self.worn: set[UUID] = set()
        # When agents were told to stop, in seconds.
        self.stops: list[float] = []
        # Until when some agent is cut off from its store.
        self.cut_until_s = 0.0
        self.violations: list[Violation] = []
        self.digest = 0
        self.trace: list[str] = []
        # Called with every message that a broker has taken over.
        self.hears: Callable[[Outgoing], object] = id
        # The incarnation of a process that does what happens now, where that can be told.
        self.who: Callable[[], object] = bool
        self._is_traced = settings.trace
        self._queue: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._number = 0
        self._events_max = _EVENTS_MAX * max(settings.sagas, 1)

    def after(self, delay_ns: int, call: Callable[..., object], *arguments: Any) -> None:
        self._number += 1
        heappush(self._queue, (self.now_ns + delay_ns, self._number, call, arguments))

    def soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """After a few milliseconds, seldom more: what an answer from a machine nearby takes."""
        self._number += 1
        delay = int(self.latency.random() ** 4 * 60_000_000) + 50_000
        heappush(self._queue, (self.now_ns + delay, self._number, call, arguments))

    def run(self, until_ns: int) -> bool:
        """Let things happen until then, or until a promise is broken. Returns whether nothing is left to happen."""
        queue = self._queue
        while queue and not self.violations:
            if queue[0][0] > until_ns:
                self.now_ns = until_ns
                return False
            self.now_ns, number, call, arguments = heappop(queue)
            if number > self._events_max:
                self.broken("L6", f"something goes on for ever: {number} things have happened")
            call(*arguments)
        return not queue

    def now_s(self) -> float:
        return self.now_ns / 1e9

    def wall_ns(self, skew_ns: int = 0) -> int:
        return _EPOCH_NS + self.now_ns + skew_ns

    def delay_until_wall_ms(self, wall_ms: int, skew_ns: int) -> int:
        """Nanoseconds until a clock that is wrong by `skew_ns` shows this time; at least 1."""
        return max(wall_ms * 1_000_000 - self.wall_ns(skew_ns), 1)

    def heal(self) -> None:
        """No faults any more."""
        self.faults.is_healed = True
        self.healed_ns = self.now_ns

    def hit(self, fault: str) -> float | None:
        return self.faults.hit(fault, self.now_ns)

    def saw(self, situation: str) -> None:
        """A rare situation was reached: a full run must reach every one of them."""
        self.sometimes[situation] = self.sometimes.get(situation, 0) + 1

    def broken(self, code: str, text: str, saga: int = -1) -> None:
        self.violations.append(Violation(code, text, self.now_ns / 1e9, saga))
        self.note("BROKEN", f"{code} {text}")

    def owes(self, identity: str, words: str, saga: int) -> None:
        """A commit says this to whoever reads it."""
        self.owed.setdefault(identity, Owed(words, saga))

    def took(self, message: Outgoing) -> None:
        """A broker has this message; what becomes of it there is another matter."""
        self.hears(message)
        owed = self.owed.get(message.headers.get("ce-id", ""))
        if owed is not None:
            owed.is_told = True

    def note(self, what: str, of: object) -> None:
        """One line of the trace, and of its digest."""
        if self._is_traced:
            line = f"{self.now_ns / 1e9:10.4f} {what:<9} {of}"
            self.digest = zlib.crc32(line.encode(), self.digest)
            self.trace.append(line)

    @property
    def is_traced(self) -> bool:
        return self._is_traced
