"""One seed: services, stores, broker, outside and people put together, hurt for a while, then healed and held to every promise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from saga_choreo.core.graph import Plan, plan_of
from saga_choreo.model.choreography import ChoreographyStep, Undo
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.retry import OnExhausted, Retry
from saga_choreo.model.states import Outcome
from saga_choreo.ports.broker import Outgoing
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.invoke import Invocation
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.broker import SimulatedBroker
from saga_choreo.testing.simulator.external import Provider
from saga_choreo.testing.simulator.guards import GuardOptions, Guards, Watch
from saga_choreo.testing.simulator.handlers import Handlers
from saga_choreo.testing.simulator.oracle import Oracle
from saga_choreo.testing.simulator.people import People
from saga_choreo.testing.simulator.process import LateCatalog, Process
from saga_choreo.testing.simulator.settings import Settings, Verdict
from saga_choreo.testing.simulator.shapes import random_choreography
from saga_choreo.testing.simulator.starting import Client
from saga_choreo.testing.simulator.store import SimulatedStore
from saga_choreo.testing.simulator.strays import Strays
from saga_choreo.testing.simulator.streams import Stream
from saga_choreo.testing.simulator.week import LOGGED_MAX, NextWeek
from saga_choreo.testing.simulator.world import SECOND, World

__all__ = ["Simulation", "random_options", "run_seed", "verdict_of"]

# How long after the healing everything has to be over: rounds of repeated announcements are up to an hour apart.
_PATIENCE_NS = 12 * 3600 * SECOND


def run_seed(seed: int, settings: Settings) -> Verdict:
    """Run one seed to its end, or to the first broken promise."""
    return Simulation(seed, settings).run()


class Simulation:
    """Implements `House` for its processes."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.seed = seed
        self.world = world = World(seed, settings)
        self._stream = world.streams.named("workload")
        self._services = [f"s{number}" for number in range(3 + self._stream.below(3))]
        reannounce = self._stream.chance(0.4)
        self.limits = Limits(reannounce=reannounce if settings.reannounce is None else settings.reannounce)
        self._plans = self._draw_plans(settings)
        self._guards = Guards(world)
        self.oracle = Oracle(
            world, {plan.definition: plan for plan in self._plans}, self._guards.locks, self.limits, counts_runs=True
        )
        self._watch = Watch(world)
        self.provider = Provider(world, self.oracle.outside)
        readers = {
            event.name: sorted(
                {service for plan in self._plans for service in self._services if event.name in plan.events_read_by(service)}
            )
            for plan in self._plans
            for step in (plan.origin, *plan.steps)
            for event in step.outputs
        }
        self.broker = SimulatedBroker(world, readers, self._services)
        self.broker.wake = self._wake
        self.processes = {service: self._agents(service) for service in self._services}
        self.people = People(
            world, self.processes, {plan.definition: plan for plan in self._plans}, self.provider, self.oracle.policies
        )
        self._clients: list[Client] = []
        self.strays = Strays(world)
        self.broker.stray = self._stray
        self._next_week = world.hit("next_week") is not None
        self.broker.logs = LOGGED_MAX if self._next_week else 0

    def _draw_plans(self, settings: Settings) -> list[Plan]:
        given = settings.choreographies
        if given:
            self._services = sorted({owner for one in given for owner in one.owners} | {"client"})
            return [plan_of(one) for one in given]
        drawn = [random_choreography(self._stream, self._services, settings.shape, f"drawn-{n}") for n in range(2)]
        return [plan_of(one) for one in drawn]

    def _agents(self, service: str) -> list[Process]:
        store, world = SimulatedStore(self.world, service, self.oracle), self.world
        handlers = Handlers(self.world, self.provider, self._went_pending)
        catalog = LateCatalog(service)
        for plan in self._plans:
            own = plan.owned_by(service)
            bound: dict[int, BoundStep] = {}
            for step in own:
                definition = plan.choreography.steps[step.index]
                guards = self._guards.of(plan.definition, step.index, definition)
                options = self.oracle.policies.of(plan.definition, step, random_options(definition, self._stream, guards))
                if options.deadline_s is not None:
                    world.own_deadlines[plan.definition, step.index] = options.deadline_s
                bound[step.index] = _bound(definition, options, guards.lock)
            late = world.hit("late_definition")
            if late is None:
                catalog.add(plan, bound)
            else:
                catalog.expect(plan)
                world.after(int(late * 30 * SECOND), self._learn, service, plan, bound)
        count = 1 + self._stream.below(2)
        return [Process(self, self.world, store, catalog, handlers, self.limits, self._watch, number) for number in range(count)]

    def _learn(self, service: str, plan: Plan, bound: dict[int, BoundStep]) -> None:
        """A definition that comes late."""
        agents = self.processes[service]
        agents[0].catalog.add(plan, bound)
        for agent in agents:
            if agent.is_up:
                agent.expect_held()

    def _stray(self, message: Outgoing, service: str) -> Outgoing | None:
        return self.strays.made_from(message, self.processes[service][0].store)

    def _went_pending(self, record: Record) -> None:
        del record  # people notice it by its record

    def _wake(self, service: str) -> None:
        agents = self.processes[service]
        first = self._stream.below(len(agents))
        for number in range(len(agents)):
            if agents[(first + number) % len(agents)].wake():
                return

    def changed(self, process: Process, records: Sequence[Record]) -> None:
        """Timers and scans of this process know at once, those of its brothers within a second."""
        world, limits = self.world, self.limits
        for agent in self.processes[process.store.service]:
            if not agent.is_up:
                continue
            late = 0 if agent is process else int(agent.jitter.random() * SECOND)
            for record in records:
                if record.due_ms is not None:
                    agent.expect_due(world.now_ns + world.delay_until_wall_ms(record.due_ms, agent.skew_ns) + late)
                if record.announced < record.version:
                    wait_s = limits.start_unannounced_after_s if record.is_start else limits.unannounced_after_s
                    agent.publishing.expect(world.now_ns + int((wait_s + limits.scan_every_s) * SECOND) + late)
        for record in records:
            self.people.notice(record)

    def died(self, process: Process) -> None:
        """Its brothers find what it leaves due."""
        for agent in self.processes[process.store.service]:
            if agent.is_up:
                agent.expect_due(self.world.now_ns + SECOND)
                self._wake(process.store.service)

    def run(self) -> Verdict:
        world, settings = self.world, self.world.settings
        hurt_ns = int(self._stream.between(15, 60) * SECOND)
        for number in range(settings.sagas):
            at_ns = int(self._stream.random() ** 2 * hurt_ns * 0.8)
            service, plan = self._stream.pick(self._services), self._stream.pick(self._plans)
            if settings.keep is None or number in settings.keep:
                world.after(at_ns, self._start, number, service, plan)
        world.run(hurt_ns)
        world.note("WORLD", "is healed")
        world.heal()
        self.broker.heal()
        is_quiet = world.run(hurt_ns + _PATIENCE_NS)
        if not world.violations:
            self._judge(is_quiet=is_quiet)
        return verdict_of(self.seed, world, self.oracle)

    def _judge(self, *, is_quiet: bool) -> None:
        stores = [agents[0].store for agents in self.processes.values()]
        self.oracle.finish(stores, len(self.broker.open))
        if not self.world.violations:
            asking = [agents[0].store for agents in self.processes.values() if all(agent.tells for agent in agents)]
            self.oracle.ends.finish_told(self.oracle.ledgers.values(), [(one.service, set(one.records)) for one in asking])
        if not is_quiet and not self.world.violations:
            self.world.broken("L6", "something still goes on long after everything was healed")
        if self._next_week and not self.world.violations:
            NextWeek(self, {plan.definition: plan for plan in self._plans}).pass_by()
        if not self.world.violations:
            self.strays.judge(stores)
        if not self.world.violations:
            self.oracle.copies.judge(stores)

    def _start(self, number: int, service: str, plan: Plan) -> None:
        client = Client(self.world, self.processes[service], plan, number)
        self._clients.append(client)
        self.oracle.expect(number, client.record)
        client.try_to_start()
        self.people.cancel_later(service, client.record)


def verdict_of(seed: int, world: World, oracle: Oracle) -> Verdict:
    outcomes = [ledger.rows[ORIGIN].outcome for ledger in oracle.ledgers.values() if ORIGIN in ledger.rows]
    return Verdict(
        seed=seed,
        sagas=len(oracle.ledgers),
        completed=sum(outcome is Outcome.COMPLETED for outcome in outcomes),
        aborted=sum(outcome in (Outcome.ABORTED, Outcome.FAILED) for outcome in outcomes),
        operations=world.operations,
        violations=world.violations,
        sometimes=world.sometimes,
        faults=world.faults.happened,
        digest=world.digest,
        trace=world.trace,
    )


async def _never(*arguments: object) -> None:
    """The simulator answers for handlers; nobody calls one."""
    raise AssertionError("a simulated step has no function of its own", arguments)


def _bound(step: ChoreographyStep, options: StepOptions, lock: str) -> BoundStep:
    """A step with random options and without handlers."""
    never = cast("Invocation", _never)
    return BoundStep(step, options, never, never if step.undo is not Undo.NONE else None, (), lambda _: lock)


def random_options(step: ChoreographyStep, stream: Stream, guards: GuardOptions) -> StepOptions:
    vetoes = stream.chance(0.4) and step.may_veto
    return StepOptions(
        retry=Retry(attempts=1 + stream.below(5), delay_max_s=8.0, on_exhausted=OnExhausted.VETO if vetoes else OnExhausted.PARK),
        undo_retry=Retry(attempts=2 + stream.below(4), delay_max_s=8.0),
        own_transaction=stream.chance(0.1) and not step.external,
        on_park_continue=stream.chance(0.2),
        deadline_s=stream.between(2, 20) if step.deadline_event is not None else None,
        concurrency=guards.concurrency,
        rate_per_s=guards.rate_per_s,
        breaker=guards.breaker,
        lock=(lambda: guards.lock) if guards.lock else None,
        on_conflict="refuse" if guards.refuses else "wait",
    )
