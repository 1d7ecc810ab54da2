"""One seed with real agents: sessions, consumers, relays, timers and handlers run on a virtual loop, with faults at the ports.

Slower than the simulation of the pipeline alone, and finds what is asyncio's own: lost wake-ups, swallowed cancels, tasks that
leak, a shutdown that hangs or loses something.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from saga_choreo.core.graph import Plan, plan_of
from saga_choreo.memory.store import MemoryStore
from saga_choreo.model.choreography import Choreography
from saga_choreo.model.ids import started_ms
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.ports.broker import Outgoing
from saga_choreo.ports.store import SagaFilter
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.external import Provider
from saga_choreo.testing.simulator.guards import Guards, Watch
from saga_choreo.testing.simulator.live_handlers import LiveHandlers
from saga_choreo.testing.simulator.live_house import House
from saga_choreo.testing.simulator.live_ports import Committed
from saga_choreo.testing.simulator.live_process import LiveProcess
from saga_choreo.testing.simulator.oracle import Oracle
from saga_choreo.testing.simulator.people import People
from saga_choreo.testing.simulator.settings import Settings, Verdict
from saga_choreo.testing.simulator.shapes import random_choreography
from saga_choreo.testing.simulator.simulation import random_options, verdict_of
from saga_choreo.testing.simulator.store import LockWrites, Write
from saga_choreo.testing.simulator.strays import UNKNOWN, Strays
from saga_choreo.testing.simulator.world import SECOND

__all__ = ["LiveSimulation", "run_live_seed"]

_PATIENCE_S = 3600
_FOUND_MAX = 100_000
_LEARNT_NS = 12 * SECOND
# From the permission to run to the handler: the commit that claims the attempt, in a slow store.
_ON_THE_WAY_S = 15.0


def run_live_seed(seed: int, settings: Settings) -> Verdict:
    """Run one seed to its end, or to the first broken promise."""
    return LiveSimulation(seed, settings).run()


class LiveSimulation(House):
    """Real agents of a few services, around one memory broker."""

    def __init__(self, seed: int, settings: Settings) -> None:
        super().__init__(seed, settings)
        self._stream = stream = self.world.streams.named("workload")
        self._services = [f"s{number}" for number in range(3 + stream.below(2))]
        reannounce = stream.chance(0.4) if settings.reannounce is None else settings.reannounce
        # Idle agents do little but look around; looking less often finds the same a little later.
        self.limits = Limits(
            reannounce=reannounce,
            nudge_first_s=5,
            nudge_max_s=30,
            scan_every_s=2.0,
            look_every_s=3.0,
            held_look_s=5.0,
            alive_every_s=1e6,
            # Where stores answer soon, some attempts outlast the patience of an agent that stops.
            stop_grace_s=25.0 if self.world.faults.rates["store_slow"] or self.world.faults.rates["store_cut"] else 2.0,
        )
        shape = settings.shape
        self._plans = [plan_of(one) for one in settings.choreographies] or [
            plan_of(self._timed(random_choreography(stream, self._services, shape, f"drawn-{number}"))) for number in range(2)
        ]
        self._services = sorted({*self._services, *(owner for plan in self._plans for owner in plan.owners)})
        by_definition = {plan.definition: plan for plan in self._plans}
        self._guards = Guards(self.world)
        self.oracle = Oracle(self.world, by_definition, self._guards.locks, self.limits, counts_runs=False)
        self.provider = Provider(self.world, self.oracle.outside)
        self._handlers = LiveHandlers(
            self.world, self.oracle, self.provider, Watch(self.world, slack_s=_ON_THE_WAY_S, breakers=False)
        )
        self._learns = False
        self.processes = {service: self._agents(service) for service in self._services}
        self.people = People(self.world, self.processes, by_definition, self.provider, self.oracle.policies)
        self._started: dict[str, None] = {}
        self._deadlines: dict[str, timedelta | None] = {}
        self._quiet_rounds = 0
        self._strays = Strays(self.world)
        self._stream_of_strays = self.world.streams.named("strays/where")

    def _timed(self, choreography: Choreography) -> Choreography:
        """Some have a deadline for all sagas that are started without one."""
        after_s = self.world.streams.named("default deadlines").between(-120, 240)
        return replace(choreography, deadline_after=timedelta(seconds=after_s)) if after_s > 0 else choreography

    def _agents(self, service: str) -> list[LiveProcess]:
        store, known = Committed(service, self._committed), list[Known]()
        for plan in self._plans:
            bound: dict[int, BoundStep] = {}
            for step in plan.owned_by(service):
                definition = plan.choreography.steps[step.index]
                guards = self._guards.of(plan.definition, step.index, definition)
                options = self.oracle.policies.of(plan.definition, step, random_options(definition, self._stream, guards))
                if options.deadline_s is not None:
                    self.world.own_deadlines[plan.definition, step.index] = options.deadline_s
                bound[step.index] = self._handlers.bound(plan, step, options, guards.lock)
            known.append(Known(plan, plan.owned_by(service), bound))
        late = self._late(service)
        return [LiveProcess(self, known, store, number, late, self.oracle.times) for number in range(1 + self._stream.below(2))]

    def _late(self, service: str) -> dict[str, float]:
        """Definitions that the agents of this service have to learn, and how long the word of each is on its way. One service has each
        from the beginning, and tells the others."""
        plans = [plan for plan in self._plans if service != plan.owners[0] and not self._is_alike(plan, service)]
        hits = ((plan, self.world.hit("late_definition")) for plan in plans)
        found = {plan.definition: 20 * late for plan, late in hits if late is not None}
        self._learns = self._learns or bool(found)
        return found

    def _is_alike(self, plan: Plan, service: str) -> bool:
        """Whether a step of it is one of another definition too: an agent has one code for both, which here have options of their own."""
        mine = {plan.choreography.steps[step.index] for step in plan.owned_by(service)}
        return any(not mine.isdisjoint(other.choreography.steps) for other in self._plans if other is not plan)

    def spread(self, message: Outgoing, delay_ns: int) -> None:
        super().spread(message, delay_ns)
        services = self.bus.receivers(message.channel)
        if services and self.world.hit("stray") is not None:
            service = self._stream_of_strays.pick(services)
            stray = self._strays.made_from(message, self.processes[service][0].store)
            if stray is not None:
                self.world.after(delay_ns, self.bus.queues[service].put, stray)

    def _committed(self, service: str, writes: Sequence[Write], effects: Sequence[Effect], locks: LockWrites) -> None:
        for old, new in writes:
            if new.step == ORIGIN and old is None and new.saga_id not in self.oracle.ledgers:
                number = int(new.key.removeprefix("SAGA-"))
                if new.key in self._started:
                    self.world.broken("BUG", f"the saga with key {new.key!r} was started twice")
                self._started[new.key] = None
                self._require_deadline(new)
                self.oracle.expect(number, new)
                self.people.cancel_later(service, new)
        self.oracle.committed(writes, effects, locks)
        for _, new in writes:
            self.people.notice(new)

    def _require_deadline(self, started: Record) -> None:
        """The one that was asked for, or that all sagas of the choreography have."""
        wanted = self._deadlines[started.key]
        wanted_ms = None if wanted is None else started_ms(started.saga_id) + int(1000 * wanted.total_seconds())
        if started.deadline_ms != wanted_ms:
            self.world.broken("L3", f"saga {started.key!r} was started with the deadline {started.deadline_ms}, not {wanted_ms}")

    def run(self) -> Verdict:
        try:
            self.run_loop(self._main())
        finally:
            for service in self._services:
                MemoryStore.drop(f"{self.place}-{service}")
        return verdict_of(self.seed, self.world, self.oracle)

    async def _main(self) -> None:
        world = self.world
        await self.open_bus()
        for service in self._services:  # bound before anybody publishes, as readiness would have it
            self.bus.bind(service, tuple(sorted({e for plan in self._plans for e in plan.events_read_by(service)})))
            for process in self.processes[service]:
                process.boot()
        for agents in self.processes.values():
            await agents[0].say_it_holds(self._broker)
        hurt_s = self._stream.between(10, 30)
        for number in range(world.settings.sagas):
            service, plan = self._stream.pick(self._services), self._stream.pick(self._plans)
            bad = world.hit("deadline")
            deadline = None if bad is None else timedelta(seconds=1 + bad * 59)
            if world.settings.keep is None or number in world.settings.keep:
                world.after(int(self._stream.random() ** 2 * hurt_s * SECOND), self._start, service, plan, number, deadline)
        await self.hurt_for(hurt_s)
        is_quiet = await self.wait(_PATIENCE_S, self._is_quiet)
        if not world.violations:
            await self._judge(is_quiet=is_quiet)

    def _start(self, service: str, plan: Plan, number: int, deadline: timedelta | None) -> None:
        """Until it is there."""
        key = f"SAGA-{number}"
        up = [process for process in self.processes[service] if process.is_up]
        known = up[0].catalog.get(plan.definition) if up else None
        if key in self._started:
            if known is not None:
                self._stream.pick(up).start_another(known, key)
            return
        if known is not None:
            self._deadlines[key] = deadline or plan.choreography.deadline_after
            self._stream.pick(up).start_saga(known, key, deadline)
        self.world.after(int(2.5 * SECOND), self._start, service, plan, number, deadline)

    def _is_quiet(self) -> bool:
        asked = self.world.settings
        expected = asked.sagas if asked.keep is None else len(asked.keep)
        is_up = all(process.is_up for agents in self.processes.values() for process in agents)
        is_over = len(self.world.ended) >= expected and not self._is_open() and not self.people.is_awaited
        # What waited for a definition is applied by then.
        is_over = is_over and (not self._learns or self.world.now_ns > (self.world.healed_ns or 0) + _LEARNT_NS)
        is_quiet = is_up and self.is_bus_empty and is_over
        self._quiet_rounds = self._quiet_rounds + 1 if is_quiet else 0
        # For longer than a scan needs to find what nobody has published.
        return self._quiet_rounds > 5

    def _is_open(self) -> bool:
        return any(
            record.due_ms is not None
            for agents in self.processes.values()
            for rows in agents[0].store.records.values()
            for record in rows.values()
        )

    async def _judge(self, *, is_quiet: bool) -> None:
        world = self.world
        await asyncio.sleep(5)  # what is published is noted down within a second
        await self.stop([process for agents in self.processes.values() for process in agents])
        stores = [agents[0].store for agents in self.processes.values()]
        for store in stores:
            await self._read_back(store)
        self.oracle.finish(stores, sum(queue.size for queue in self.bus.queues.values()))
        if not world.violations:
            self.oracle.ends.finish_told(self.oracle.ledgers.values(), [(one.service, set(one.records)) for one in stores])
        if not is_quiet and not world.violations:
            world.broken("L6", "something still goes on long after everything was healed")
        if not world.violations:
            self._strays.judge(stores)
        if not world.violations:
            self.oracle.copies.judge(stores)

    async def _read_back(self, store: Committed) -> None:
        """What is really stored: announcing is not a change that the oracle hears of."""
        reader = MemoryStore(f"memory://{self.place}-{store.service}")
        await reader.open()
        store.quarantined = [*await reader.quarantined(store.service, _FOUND_MAX)]
        store.held = {one.number: one for one in await reader.held(store.service, [UNKNOWN], _FOUND_MAX)}
        store.held |= {one.number: one for one in await reader.untold(store.service, 1 << 62, _FOUND_MAX)}
        for group in await reader.sagas(SagaFilter(service=store.service, limit=_FOUND_MAX)):
            for record in group:
                seen = store.records[record.saga_id][record.record_key]
                if replace(record, announced=0) != replace(seen, announced=0):
                    self.world.broken("S10", f"the store holds version {record.version}, committed was {seen.version}")
                store.records[record.saga_id][record.record_key] = record
