"""Whether a step may run now, and if not, when to ask again: plain arithmetic on small values. `gates` holds the values.

What is held back waits in the store, not here: a record gets a later due time, and these values only say which. Times given out
are spread (`Queue`), so that a thousand records that wait do not come back at once and ask in vain; that also makes a refused
question rare, and memory constant. Who waited goes before who comes new: a new one is held back as long as times given out lie
in the future. Seconds are of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from saga_choreo.model.breaker import Breaker, BreakerState

__all__ = ["Bucket", "Circuit", "Places", "Queue", "Verdict"]

# A record may come back a moment before its token is whole: the store keeps times in milliseconds.
_ALMOST = 0.95
# A bucket holds a tenth of a second's worth (at least one): the rate is kept within any second, not only on average.
_BURST_S = 0.1
# What a breaker held back comes back at most so fast: whatever has just recovered is not knocked over again.
_RETURN_EVERY_S = 0.01
# A place is looked for again no more often, and no less often, than this.
_PLACE_FIRST_S = 0.01
_PLACE_MAX_S = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`wait_s` is 0 for: run now."""

    wait_s: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Queue:
    """The times at which those that wait come back: `next_s` is the first one not given out."""

    next_s: float = 0.0

    def has_waiting(self, now_s: float) -> bool:
        return self.next_s > now_s

    def join(self, now_s: float, first_s: float, gap_s: float) -> tuple[Queue, float]:
        """A time not before `first_s` and not before anybody else's, and how long that is from now."""
        at_s = max(self.next_s, first_s)
        return Queue(at_s + gap_s), at_s - now_s


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: at most `rate` runs a second."""

    rate: float
    tokens: float = 1.0
    at_s: float = 0.0
    queue: Queue = Queue()

    def ask(self, now_s: float, *, waited: bool) -> tuple[Bucket, Verdict]:
        tokens = min(max(1.0, self.rate * _BURST_S), self.tokens + max(0.0, now_s - self.at_s) * self.rate)
        if tokens >= _ALMOST and (waited or not self.queue.has_waiting(now_s)):
            return replace(self, tokens=tokens - 1.0, at_s=now_s), Verdict()
        queue, wait_s = self.queue.join(now_s, now_s + (1.0 - min(tokens, 1.0)) / self.rate, 1.0 / self.rate)
        return replace(self, tokens=tokens, at_s=now_s, queue=queue), Verdict(wait_s, f"its rate limit is {self.rate:g} a second")


@dataclass(frozen=True, slots=True)
class Places:
    """At most `limit` at once. When a place will be free is not known: it is guessed from how long runs take."""

    limit: int
    taken: int = 0
    usual_s: float = 0.1
    queue: Queue = Queue()

    def ask(self, now_s: float, oldest_s: float, *, waited: bool) -> tuple[Places, Verdict]:
        """`oldest_s` is how long the longest run has been going on."""
        if self.taken < self.limit and (waited or not self.queue.has_waiting(now_s)):
            return replace(self, taken=self.taken + 1), Verdict()
        gap_s = min(max(self.usual_s, oldest_s, _PLACE_FIRST_S), _PLACE_MAX_S) / self.limit
        queue, wait_s = self.queue.join(now_s, now_s + gap_s, gap_s)
        return replace(self, queue=queue), Verdict(wait_s, f"its concurrency limit is {self.limit}")

    def leave(self, took_s: float) -> Places:
        return replace(self, taken=self.taken - 1, usual_s=0.8 * self.usual_s + 0.2 * took_s)


@dataclass(frozen=True, slots=True)
class Circuit:
    """A circuit breaker. `open_s` is how long it opens the next time; `until_s` when it may be probed."""

    policy: Breaker
    state: BreakerState = BreakerState.CLOSED
    failed_at: tuple[float, ...] = ()
    open_s: float = 0.0
    until_s: float = 0.0
    probing: bool = False
    queue: Queue = Queue()

    def ask(self, now_s: float) -> tuple[Circuit, Verdict]:
        if self.state is BreakerState.CLOSED:
            return self, Verdict()
        if now_s >= self.until_s and not self.probing:
            return replace(self, state=BreakerState.HALF_OPEN, probing=True), Verdict()
        # Nobody knows how long a probe takes: those that wait for it ask again, at most once in `open_s`.
        first_s = now_s + min(self.policy.open_s, 1.0) if self.probing else self.until_s
        queue, wait_s = self.queue.join(now_s, first_s, _RETURN_EVERY_S)
        return replace(self, queue=queue), Verdict(wait_s, f"its circuit breaker is {self.state.value}")

    def worked(self, *, probe: bool) -> Circuit:
        """A run ended, or said a business no: what it calls is there. One that began before the breaker opened proves nothing."""
        if probe:
            return Circuit(self.policy, queue=self.queue)
        return self

    def failed(self, now_s: float, *, probe: bool) -> Circuit:
        if probe:
            return self._opened(now_s, min(2 * self.open_s, self.policy.open_max_s))
        if self.state is not BreakerState.CLOSED:
            return self
        since_s = now_s - self.policy.window_s
        failed_at = (*(at_s for at_s in self.failed_at if at_s > since_s), now_s)
        if len(failed_at) < self.policy.failures:
            return replace(self, failed_at=failed_at)
        return self._opened(now_s, self.policy.open_s)

    def unknown(self, *, probe: bool) -> Circuit:
        """A run that was cut short says nothing: if it was the probe, the next one probes."""
        return replace(self, probing=False) if probe else self

    def _opened(self, now_s: float, open_s: float) -> Circuit:
        return Circuit(self.policy, BreakerState.OPEN, open_s=open_s, until_s=now_s + open_s, queue=self.queue)
