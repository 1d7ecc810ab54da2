"""One agent's process: it fetches, works on what is due, publishes, dies, and comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from saga_choreo.core.facts import Fact
from saga_choreo.core.graph import Plan
from saga_choreo.errors import SagaError
from saga_choreo.model.envelope import ChannelKind
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports.broker import Delivery
from saga_choreo.runtime.arrivals import Arrival
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.gates import Gates
from saga_choreo.runtime.pipeline import Pipeline, Steps
from saga_choreo.runtime.presuming import Presuming
from saga_choreo.runtime.stored import channel_from
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.broker import Letter, SimulatedBroker
from saga_choreo.testing.simulator.carried import said_with
from saga_choreo.testing.simulator.driving import Ended, Run
from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.guards import Watch
from saga_choreo.testing.simulator.handlers import Handlers
from saga_choreo.testing.simulator.hearsay import WHY
from saga_choreo.testing.simulator.oracle import Oracle
from saga_choreo.testing.simulator.publishing import Publishing
from saga_choreo.testing.simulator.store import SimulatedStore
from saga_choreo.testing.simulator.world import SECOND, World

__all__ = ["House", "LateCatalog", "Process"]

_BATCHES = (1, 1, 2, 4, 32)
# An end that was told in vain so often need not be told any more.
_TOLD_MAX = 8


class House(Protocol):
    """Where a process lives."""

    oracle: Oracle

    @property
    def broker(self) -> SimulatedBroker: ...

    def changed(self, process: Process, records: Sequence[Record]) -> None:
        """These are committed."""
        ...

    def died(self, process: Process) -> None: ...


class LateCatalog(Catalog):
    """One that knows which definitions are still to come."""

    def __init__(self, service: str) -> None:
        super().__init__(service)
        self._late: set[str] = set()

    def expect(self, plan: Plan) -> None:
        self._late.add(plan.definition)

    def awaits(self, definition: str) -> bool:
        """It is known, or will be."""
        return definition in self._late or self.get(definition) is not None


class _ProcessClock:
    """A `Clock`, as far as limits ask one."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def time_ns(self) -> int:
        return self._process.world.wall_ns(self._process.skew_ns)

    def monotonic(self) -> float:
        return self._process.world.now_ns / 1e9

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps in here", seconds)

    def chance(self) -> float:
        return self._process.jitter.random()

    def entropy(self, size: int) -> bytes:
        return self._process.jitter.entropy(size)


class Process:
    """An agent of a service. `number` tells the agents of one service apart."""

    def __init__(
        self,
        house: House,
        world: World,
        store: SimulatedStore,
        catalog: LateCatalog,
        handlers: Handlers,
        limits: Limits,
        watch: Watch,
        number: int,
    ) -> None:
        self.house = house
        self.world = world
        self.store = store
        self.catalog = catalog
        self.handlers = handlers
        self.limits = limits
        self.watch = watch
        self.name = f"{store.service}/{number}"
        self.jitter = world.streams.named(f"process/{self.name}")
        self.skew_ns = int(self.jitter.between(-1, 1) * SECOND)
        self._slots = 1 + self.jitter.below(3)
        # Some programs ask to be told how their sagas end; for the others, good ends are recorded without a look at the records.
        self.tells = bool(world.streams.named(f"tells/{self.name}").below(2))
        # Some conclude from a saga's good end that others have read what is not known to be published.
        self.single_copy = bool(world.streams.named(f"single_copy/{self.name}").below(2))
        self._graveyard: list[Steps] = []
        self.is_up = False
        self.boot()

    def boot(self) -> None:
        """A new incarnation, with nothing in memory but what the store tells."""
        self.is_up = True
        self.publishing = Publishing(self)
        self.gates = Gates(_ProcessClock(self))
        # Brothers that think they are alone: a wrong guess costs time, and nothing else.
        self.presuming = Presuming(self.store.service, self.limits.horizon_s, lambda: True)
        known = self.publishing.announcing.known
        self.pipeline = Pipeline(self.store.service, self.catalog, self.limits, known, self.presuming, tells=self.tells)
        self.pipeline.single_copy = self.single_copy
        self._runs: dict[Run, None] = {}
        self._working: dict[RecordKey, None] = {}
        self._batches = 0
        self._will_fetch = False
        self._trouble_until_ns = 0
        self._look_at_ns: int | None = None
        self._looks_at_held = False
        self.expect_held()
        self.expect_due(self.world.now_ns + 1)
        self.publishing.expect(self.world.now_ns + 1)

    def dies_here(self, at: Run | None) -> bool:
        """One operation boundary. Returns whether the process has just died there."""
        world = self.world
        world.operations += 1
        if world.operations != world.settings.crash_at and world.hit("crash") is None:
            return False
        self._notice_crash(at)
        self.crash()
        return True

    def _notice_crash(self, at: Run | None) -> None:
        for run in self._runs:
            if run is at and not run.has_committed:
                self.world.saw("crash before a commit")
            if run.has_committed and run.unacked and not run.has_acked:
                self.world.saw("crash between commit and ack")
            if run.owes_publishing:
                self.world.saw("crash between commit and publish")
            if run.is_calling:
                self.world.saw("crash during a call to the outside")

    def crash(self) -> None:
        """Killed: no cleanup runs. The connections break, so that the broker delivers again what was not acknowledged."""
        self.world.note(self.name, "dies")
        self.is_up = False
        self.publishing.is_dead = True
        for run in self._runs:
            run.kill()
            # Kept, so that no generator is closed (and could clean up) while the world goes on.
            self._graveyard.append(run.steps)
            for letter in run.unacked:
                self.house.broker.give_back(letter, self.jitter.between(0, 5))
        self._runs.clear()
        self.world.after(int(self.jitter.random() ** 2 * 30 * SECOND), self._restart)
        self.house.died(self)

    def _restart(self) -> None:
        self.world.note(self.name, "comes back")
        self.boot()
        self.wake()

    def _start(self, run: Run) -> None:
        self._runs[run] = None
        run.go()

    def wake(self) -> bool:
        """Something is there to be fetched. Returns whether this process will fetch it."""
        if not self.is_up or self._will_fetch or self._batches >= self._slots or not self.house.broker.ready[self.store.service]:
            return False
        self._will_fetch = True
        wait_ns = max(self._trouble_until_ns - self.world.now_ns, 0) + int(self.jitter.random() * 5_000_000)
        self.world.after(wait_ns, self._fetch, self.publishing)
        return True

    def _fetch(self, incarnation: Publishing) -> None:
        if incarnation is not self.publishing or not self.is_up:
            return
        self._will_fetch = False
        letters = self.house.broker.take(self.store.service, self.jitter.pick(_BATCHES))
        outcomes = [letter for letter in letters if letter.channel.kind is ChannelKind.OUTCOME]
        others = [letter for letter in letters if letter.channel.kind is not ChannelKind.OUTCOME]
        for batch in (outcomes, others):
            if batch and self.is_up and incarnation is self.publishing:
                self._handle(batch)
            elif batch:
                for letter in batch:  # the first batch has killed the process
                    self.house.broker.give_back(letter, 1.0)
        self.wake()

    def _handle(self, letters: Sequence[Letter]) -> None:
        if any(letter.attempt > self.limits.deliveries_fast for letter in letters):
            self.world.saw("delivered more than three times")
        self.world.worn |= {
            UUID(one.headers["ce-sagaid"]) for one in letters if one.attempt > _TOLD_MAX and "ce-sagaid" in one.headers
        }
        if self.world.ended and any(letter.headers.get("ce-sagaid") in self.world.ended for letter in letters):
            self.world.saw("delivered after the end")
        arrivals = [
            Arrival.of(Delivery(one.channel, one.headers, one.body, one.attempt > 1, one.attempt, token=one)) for one in letters
        ]
        self._batches += 1
        self._start(Run(self, f"batch of {len(letters)}", self.pipeline.handle(arrivals), self._batch_ended, letters))

    def _batch_ended(self, run: Run, value: Any, error: SagaError | None) -> None:
        """As a session does: what could not be done is handed back, and consuming pauses a little."""
        del value
        self._runs.pop(run, None)
        self._batches -= 1
        for letter in run.unacked:
            self.house.broker.give_back(letter, 1.0)
        if error is not None:
            self._trouble_until_ns = self.world.now_ns + SECOND // 2
        self.wake()

    def expect_held(self) -> None:
        """Messages may be on hold whose definition has come, or comes: look again and again while there are any."""
        if not self._looks_at_held and any(self.catalog.awaits(one.definition) for one in self.store.held.values()):
            self._looks_at_held = True
            self.world.after(SECOND + int(self.jitter.random() * SECOND), self._look_at_held, self.publishing)

    def _look_at_held(self, incarnation: Publishing) -> None:
        if not self.is_up or incarnation is not self.publishing:
            return
        held = [one for one in self.store.held.values() if self.catalog.get(one.definition) is not None]
        if not held:
            self._held_handled(None, None, None)
            return
        self.world.saw("applied once its definition had come")
        arrivals = [Arrival(channel_from(one.channel), one.headers, one.body, held_number=one.number) for one in held]
        self._start(Run(self, f"{len(held)} on hold", self.pipeline.handle(arrivals), self._held_handled))

    def _held_handled(self, run: Run | None, value: Any, error: SagaError | None) -> None:
        del value, error
        if run is not None:
            self._runs.pop(run, None)
        self._looks_at_held = False
        self.expect_held()

    def expect_due(self, at_ns: int) -> None:
        """Look for due records then, unless that is done before."""
        if self._look_at_ns is None or at_ns < self._look_at_ns:
            self._look_at_ns = at_ns
            self.world.after(max(at_ns - self.world.now_ns, 1), self._look, at_ns, self.publishing)

    def _look(self, at_ns: int, incarnation: Publishing) -> None:
        if not self.is_up or incarnation is not self.publishing or at_ns != self._look_at_ns:
            return
        self._look_at_ns = None
        if self.world.hit("store_error") is not None:
            self.expect_due(self.world.now_ns + SECOND)
            return
        now_ms = self.world.wall_ns(self.skew_ns) // 1_000_000
        for key in self.store.due(now_ms):
            if key not in self._working and len(self._working) < self.limits.slow_at_once:
                self._working[key] = None
                self._start(Run(self, f"work on {key.step}", self.pipeline.work(key), self._worked(key, incarnation)))
                if incarnation is not self.publishing or not self.is_up:
                    return
        self.expect_next()

    def expect_next(self) -> None:
        """Look again when the next record is due that is not being worked on here."""
        due = min((due_ms for key, due_ms in self.store.timed.items() if key not in self._working), default=None)
        if due is not None:
            self.expect_due(self.world.now_ns + max(self.world.delay_until_wall_ms(due, self.skew_ns), 10_000_000))

    def _worked(self, key: RecordKey, incarnation: Publishing) -> Ended:
        def over() -> None:
            if incarnation is self.publishing and self.is_up:
                self._working.pop(key, None)
                self.expect_next()

        def ended(run: Run, value: Any, error: SagaError | None) -> None:
            del value
            self._runs.pop(run, None)
            if error is None:
                over()
            else:
                self.world.after(int((1 + self.jitter.random()) * SECOND), over)

        return ended

    def command(self, key: RecordKey, step: int | None, fact: Fact, ended: Ended, effects: Sequence[Effect] = ()) -> None:
        """A person's word, said to this process."""

        def over(run: Run, value: Any, error: SagaError | None) -> None:
            self._runs.pop(run, None)
            ended(run, value, error)

        record = self.store.get(key)
        said = {} if record is None else said_with(record, fact)
        steps = self.pipeline.command(key.saga_id, step, fact, WHY, **said)
        self._start(Run(self, f"command {type(fact).__name__}", steps, over, effects=effects))

    def begin(self, steps: Steps, ended: Ended) -> None:
        """A client's own generator, in this process."""

        def over(run: Run, value: Any, error: SagaError | None) -> None:
            self._runs.pop(run, None)
            ended(run, value, error)

        self._start(Run(self, "start", steps, over))
