"""Limits, breakers and locks of simulated steps, and who watches that they do what they say.

The watch keeps its own account of what ran when, by the words of the promise: so many at once, so many a second, nothing while a
breaker is open and one call to find out. It never asks the limits of the product. Locks are judged by `LockLedger`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from saga_choreo.core.rows import is_finished
from saga_choreo.model.breaker import Breaker
from saga_choreo.model.choreography import ChoreographyStep
from saga_choreo.model.states import State
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.testing.simulator.ledger import Ledger
from saga_choreo.testing.simulator.world import World

__all__ = ["GuardOptions", "Guards", "LockLedger", "Watch"]

# Few names, so that sagas meet; every service has its own of each.
_LOCKS = ("till", "desk")
_KEEPS = frozenset({State.RUNNING, State.DONE, State.COMPENSATING})


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOptions:
    """What is drawn for one step, beside its other options. `lock`: the name it takes; '' for none."""

    concurrency: int | None = None
    rate_per_s: float | None = None
    breaker: Breaker | None = None
    lock: str = ""
    refuses: bool = False


class Guards:
    """Draws them. A step name has one set of limits in a service, whatever choreographies the step belongs to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._drawn: dict[tuple[str, str], GuardOptions] = {}
        # The lock of each step, by definition and number.
        self.locks: dict[tuple[str, int], str] = {}

    def of(self, definition: str, number: int, step: ChoreographyStep) -> GuardOptions:
        place = step.owner, step.name
        drawn = self._drawn.get(place)
        if drawn is None:
            drawn = self._drawn[place] = _draw(self._world)
        if not step.may_veto:  # of two sagas that want each other's lock, the younger has to give way, and this one could not
            drawn = replace(drawn, lock="", refuses=False)
        self.locks[(definition, number)] = drawn.lock
        return drawn


def _draw(world: World) -> GuardOptions:
    stream = world.streams.named("guards")
    concurrency, rate = 1 + stream.below(2), 0.2 * 50 ** stream.random()
    open_s = 0.5 * 200 ** stream.random()
    window_s, open_max_s = stream.between(5, 120), open_s * (1 + 4 * stream.random())
    breaker = Breaker(failures=1 + stream.below(3), window_s=window_s, open_s=open_s, open_max_s=open_max_s)
    name, refuses, locks = stream.pick(_LOCKS), stream.chance(0.3), world.hit("lock") is not None
    return GuardOptions(
        concurrency=concurrency if world.hit("concurrency") is not None else None,
        rate_per_s=rate if world.hit("rate") is not None else None,
        breaker=breaker if world.hit("breaker") is not None else None,
        lock=name if locks else "",
        refuses=locks and refuses,
    )


@dataclass(slots=True, eq=False)
class Watched:
    """One step in one process. `slack_s`: how long may pass between a permission and what is noted here."""

    name: str
    options: StepOptions
    slack_s: float
    running: dict[object, None] = field(default_factory=dict[object, None])
    began: deque[float] = field(default_factory=lambda: deque[float](maxlen=200))
    failed: list[float] = field(default_factory=list[float])
    open_s: float = 0.0
    until_s: float | None = None
    probe: object | None = None


class Watch:
    """Of all processes. A `place` is one incarnation of one: what it knows dies with it. With `breakers` it judges them too,
    which only those can ask for who know how every run ended."""

    def __init__(self, world: World, *, slack_s: float = 0.0, breakers: bool = True) -> None:
        self._world = world
        self._slack_s = slack_s
        self._breakers = breakers
        self._steps: dict[tuple[object, str], Watched] = {}

    def began(self, place: object, name: str, options: StepOptions, now_s: float) -> object:
        """A run is let through. Returns what `ended` wants to hear."""
        one = self._steps.setdefault((place, name), Watched(name, options, self._slack_s))
        run = object()
        one.running[run] = None
        one.began.append(now_s)
        if options.concurrency is not None and len(one.running) > options.concurrency:
            self._broken(f"{len(one.running)} runs of step {name!r} at once, its limit is {options.concurrency}")
        if options.rate_per_s is not None:
            self._rate(one, options.rate_per_s, now_s)
        if options.breaker is not None and self._breakers:
            self._probe(one, run, now_s)
        return run

    def ended(self, place: object, name: str, run: object, now_s: float, *, failed: bool | None) -> None:
        """`failed`: None when nobody can say (cut short, or it never ran)."""
        one = self._steps[(place, name)]
        one.running.pop(run, None)
        policy = one.options.breaker
        if policy is None or not self._breakers:
            return
        if run is one.probe:
            one.probe = None
            if failed:
                self._world.saw("a probe failed")
                self._open(one, min(2 * one.open_s, policy.open_max_s), now_s)
            elif failed is False:
                self._world.saw("a probe closed the breaker")
                one.until_s, one.failed = None, []
        elif failed and one.until_s is None:
            one.failed = [at_s for at_s in one.failed if at_s > now_s - policy.window_s] + [now_s]
            if len(one.failed) >= policy.failures:
                self._open(one, policy.open_s, now_s)

    def _open(self, one: Watched, open_s: float, now_s: float) -> None:
        one.open_s, one.until_s, one.failed = open_s, now_s + open_s, []

    def _rate(self, one: Watched, rate: float, now_s: float) -> None:
        """In any stretch of time at most its share, and a tenth of a second's worth (at least one) at once."""
        for count, at_s in enumerate(reversed(one.began), 1):
            allowed = max(1.0, 0.1 * rate) + rate * (now_s - at_s + one.slack_s) + 0.1
            if count > allowed:
                self._broken(f"{count} runs of step {one.name!r} within {now_s - at_s:.3f} s, its limit is {rate:g} a second")
                return

    def _probe(self, one: Watched, run: object, now_s: float) -> None:
        if one.until_s is None:
            return
        if now_s < one.until_s:
            self._broken(f"step {one.name!r} ran while its breaker was open, for {one.until_s - now_s:.3f} s more")
        elif one.probe is not None:
            self._broken(f"step {one.name!r} ran while another run was finding out whether it works")
        one.probe = run

    def _broken(self, text: str) -> None:
        self._world.broken("LIMIT", text)


class LockLedger:
    """S13: who holds which lock by what was done and undone, against what the stores say. `names` are the locks of steps."""

    def __init__(self, world: World, names: Mapping[tuple[str, int], str]) -> None:
        self._world = world
        self._names = names
        self._holders: dict[tuple[str, str], UUID] = {}
        self._done: dict[tuple[str, str], list[tuple[Ledger, int]]] = {}
        self._freed: list[tuple[tuple[str, str], UUID]] = []

    def written(self, locks: Iterable[tuple[tuple[str, str], UUID | None]]) -> None:
        """What a commit writes of locks: before its effects are heard of."""
        for place, saga_id in locks:
            before = self._holders.pop(place, None)
            if saga_id is not None:
                self._holders[place] = saga_id
            if before is not None and before != saga_id:
                self._freed.append((place, before))

    def _place(self, ledger: Ledger, step: int) -> tuple[str, str] | None:
        name = self._names.get((ledger.identity[0], step))
        return (ledger.plan.step(step).owner, name) if name else None

    def forward(self, ledger: Ledger, step: int) -> None:
        """A step took effect, which it may only under its lock."""
        place = self._place(ledger, step)
        if place is None:
            return
        # Where the saga ends in the very commit, its lock is taken and freed in one.
        if self._holders.get(place) != ledger.saga_id and _keeps(ledger, step):
            self._world.broken("S13", f"{ledger.name(step)} took effect without holding lock {place[1]!r}", ledger.number)
        done = self._done.setdefault(place, [])
        done[:] = [one for one in done if _keeps(*one)]
        for other, number in done:
            if other is not ledger:
                self._world.broken(
                    "S13", f"{ledger.name(step)} took effect while {other.name(number)} holds lock {place[1]!r}", ledger.number
                )
        done.append((ledger, step))

    def judge(self) -> None:
        """After a commit: what was freed is not needed any more."""
        freed, self._freed = self._freed, []
        for place, saga_id in freed:
            for ledger, step in self._done.get(place, ()):
                if ledger.saga_id == saga_id and _keeps(ledger, step):
                    self._world.broken("S13", f"lock {place[1]!r} was freed while {ledger.name(step)} needs it", ledger.number)

    def moved(self, ledger: Ledger, step: int) -> None:
        """After a commit that changed this step: a lock that none of the saga's steps needs any more is free."""
        place = self._place(ledger, step)
        if place is None or self._holders.get(place) != ledger.saga_id:
            return
        if not any(_may_need(ledger, one.index) for one in ledger.plan.steps if self._place(ledger, one.index) == place):
            text = f"lock {place[1]!r} is kept though {ledger.name(step)} does not need it any more"
            self._world.broken("S13", text, ledger.number)

    def finish(self, left: Iterable[tuple[str, str]], sagas: Sequence[Ledger]) -> None:
        for service, name in left:
            number = next((one.number for one in sagas if one.saga_id == self._holders.get((service, name))), -1)
            self._world.broken("S13", f"lock {name!r} of service {service!r} is still held after the end", number)


def _may_need(ledger: Ledger, step: int) -> bool:
    row = ledger.rows.get(step)
    return row is not None and row.state in _KEEPS and not is_finished(row)


def _keeps(ledger: Ledger, step: int) -> bool:
    """Done and not undone, in a saga that has not completed: where it has, a service may free a lock before it has heard so for every
    step that has it."""
    return ledger.forward[step] > ledger.undone[step] and not ledger.is_completed and _may_need(ledger, step)
