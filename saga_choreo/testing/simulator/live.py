"""One seed with real agents: sessions, consumers, relays, timers and handlers run on a virtual loop, with faults at the ports.

Slower than the simulation of the pipeline alone, and finds what is asyncio's own: lost wake-ups, swallowed cancels, tasks that
leak, a shutdown that hangs or loses something.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

from saga_choreo.core.graph import Plan, plan_of
from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.memory.bus import bus_of
from saga_choreo.memory.store import MemoryStore
from saga_choreo.model.record import ORIGIN
from saga_choreo.ports.broker import Outgoing, Topology
from saga_choreo.ports.store import SagaFilter
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.external import Provider
from saga_choreo.testing.simulator.live_handlers import LiveHandlers
from saga_choreo.testing.simulator.live_ports import Committed
from saga_choreo.testing.simulator.live_process import LiveProcess
from saga_choreo.testing.simulator.oracle import Oracle
from saga_choreo.testing.simulator.people import People
from saga_choreo.testing.simulator.settings import Settings, Verdict
from saga_choreo.testing.simulator.shapes import random_choreography
from saga_choreo.testing.simulator.simulation import random_options, verdict_of
from saga_choreo.testing.simulator.store import Write
from saga_choreo.testing.simulator.world import SECOND, World
from saga_choreo.testing.virtual_loop import NothingLeft, VirtualLoop

__all__ = ["LiveSimulation", "run_live_seed"]

_PATIENCE_S = 3600
_STOP_S = 120
# Names of buses and stores in this process; what is in a name changes nothing.
_places = count()


def run_live_seed(seed: int, settings: Settings) -> Verdict:
    """Run one seed to its end, or to the first broken promise."""
    return LiveSimulation(seed, settings).run()


class _LoopWorld(World):
    """The same world, whose events are the loop's timers. They belong to no process."""

    def __init__(self, seed: int, settings: Settings) -> None:
        super().__init__(seed, settings)
        self.loop = VirtualLoop(self.streams.named("schedule"), self._passed)
        self.outside = contextvars.Context()

    def _passed(self, now_s: float) -> None:
        self.now_ns = int(now_s * 1e9)

    def after(self, delay_ns: int, call: Callable[..., object], *arguments: Any) -> None:
        self.loop.call_later(delay_ns / 1e9, call, *arguments, context=self.outside)

    def soon(self, call: Callable[..., object], *arguments: Any) -> None:
        self.after(int(self.latency.random() ** 4 * 60_000_000) + 50_000, call, *arguments)


class LiveSimulation:
    """Real agents of a few services, around one memory broker."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.seed = seed
        self.place = f"live{next(_places)}"
        self.world = _LoopWorld(seed, settings)
        self.loop = self.world.loop
        self._stream = stream = self.world.streams.named("workload")
        self._services = [f"s{number}" for number in range(3 + stream.below(2))]
        reannounce = stream.chance(0.4) if settings.reannounce is None else settings.reannounce
        self.limits = Limits(reannounce=reannounce, nudge_first_s=5, nudge_max_s=30)
        shape = settings.shape
        self._plans = [plan_of(one) for one in settings.choreographies] or [
            plan_of(random_choreography(stream, self._services, shape, f"drawn-{number}")) for number in range(2)
        ]
        self._services = sorted({*self._services, *(owner for plan in self._plans for owner in plan.owners)})
        by_definition = {plan.definition: plan for plan in self._plans}
        self.oracle = Oracle(self.world, by_definition)
        self.provider = Provider(self.world, self.oracle.outside)
        self._handlers = LiveHandlers(self.world, self.provider)
        self._bus = bus_of(self.place, "saga")
        self.processes = {service: self._agents(service) for service in self._services}
        self.people = People(self.world, self.processes, by_definition, self.provider)
        self._started: dict[str, None] = {}
        self._under_way = self._quiet_rounds = 0

    def _agents(self, service: str) -> list[LiveProcess]:
        store, known = Committed(service, self._committed), list[Known]()
        for plan in self._plans:
            definitions = plan.choreography.steps
            bound = {
                step.index: self._handlers.bound(
                    definitions[step.index], step, random_options(definitions[step.index], self._stream)
                )
                for step in plan.owned_by(service)
            }
            known.append(Known(plan, plan.owned_by(service), bound))
        return [LiveProcess(self, known, store, number) for number in range(1 + self._stream.below(2))]

    def _committed(self, service: str, writes: Sequence[Write], effects: Sequence[Effect]) -> None:
        for old, new in writes:
            if new.step == ORIGIN and old is None and new.saga_id not in self.oracle.ledgers:
                number = int(new.key.removeprefix("SAGA-"))
                if new.key in self._started:
                    self.world.broken("BUG", f"the saga with key {new.key!r} was started twice")
                self._started[new.key] = None
                self.oracle.expect(number, new)
                self.people.cancel_later(service, new)
        self.oracle.committed(writes, effects)
        for _, new in writes:
            self.people.notice(new)

    def spread(self, message: Outgoing, delay_ns: int) -> None:
        """Put a message on the bus after a while; nobody's death takes it back."""
        self._under_way += 1
        self.world.after(delay_ns, self._spread, message)

    def _spread(self, message: Outgoing) -> None:
        self.loop.create_task(self._put(message), context=self.world.outside.copy())

    async def _put(self, message: Outgoing) -> None:
        await self._broker.publish([message])
        self._under_way -= 1

    def run(self) -> Verdict:
        try:
            self.loop.run(self._main())
        except NothingLeft as error:
            self.world.broken("L1", f"deadlock: {error}")
        finally:
            for service in self._services:
                MemoryStore.drop(f"{self.place}-{service}")
        return verdict_of(self.seed, self.world, self.oracle)

    async def _main(self) -> None:
        world = self.world
        self._broker = MemoryBroker(f"memory://{self.place}")
        await self._broker.open(Topology(service="world", agent="world", events=(), receives=False))
        for service in self._services:  # bound before anybody publishes, as readiness would have it
            self._bus.bind(service, tuple(sorted({e for plan in self._plans for e in plan.events_read_by(service)})))
            for process in self.processes[service]:
                process.boot()
        hurt_s = self._stream.between(10, 30)
        for number in range(world.settings.sagas):
            service, plan = self._stream.pick(self._services), self._stream.pick(self._plans)
            bad = world.hit("deadline")
            deadline = None if bad is None else timedelta(seconds=1 + bad * 59)
            if world.settings.keep is None or number in world.settings.keep:
                world.after(int(self._stream.random() ** 2 * hurt_s * SECOND), self._start, service, plan, number, deadline)
        await self._wait(hurt_s, lambda: False)
        world.note("WORLD", "is healed")
        world.faults.is_healed = True
        is_quiet = await self._wait(_PATIENCE_S, self._is_quiet)
        if not world.violations:
            await self._judge(is_quiet=is_quiet)

    async def _wait(self, seconds: float, is_over: Callable[[], bool]) -> bool:
        until = self.loop.time() + seconds
        while self.loop.time() < until and not self.world.violations:
            if is_over():
                return True
            await asyncio.sleep(1.0)
        return False

    def _start(self, service: str, plan: Plan, number: int, deadline: timedelta | None) -> None:
        """Until it is there."""
        key = f"SAGA-{number}"
        if key in self._started:
            return
        up = [process for process in self.processes[service] if process.is_up]
        if up:
            known = up[0].catalog.get(plan.definition)
            assert known is not None
            self._stream.pick(up).start_saga(known, key, deadline)
        self.world.after(int(2.5 * SECOND), self._start, service, plan, number, deadline)

    def _is_quiet(self) -> bool:
        asked = self.world.settings
        expected = asked.sagas if asked.keep is None else len(asked.keep)
        is_up = all(process.is_up for agents in self.processes.values() for process in agents)
        is_empty = not self._under_way and not any(queue.size for queue in self._bus.queues.values())
        is_quiet = is_up and is_empty and len(self.world.ended) >= expected and not self._is_open()
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
        processes = [process for agents in self.processes.values() for process in agents]
        for process in processes:
            process.close()
        if not await self._wait(_STOP_S, lambda: not any(process.is_up for process in processes)):
            names = ", ".join(process.name for process in processes if process.is_up)
            world.broken("STOP", f"did not stop within {_STOP_S} s: {names}")
        await self._wait(_STOP_S, lambda: not self.loop.open_tasks())  # a client's call may still wait for an answer
        leaked = [task.get_coro() for task in self.loop.open_tasks()]
        if leaked:
            world.broken("LEAK", f"{len(leaked)} tasks outlived their agent: {leaked[0]}")
        stores = [agents[0].store for agents in self.processes.values()]
        for store in stores:
            await self._read_back(store)
        self.oracle.finish(stores, sum(queue.size for queue in self._bus.queues.values()))
        if not is_quiet and not world.violations:
            world.broken("L6", "something still goes on long after everything was healed")

    async def _read_back(self, store: Committed) -> None:
        """What is really stored: announcing is not a change that the oracle hears of."""
        reader = MemoryStore(f"memory://{self.place}-{store.service}")
        await reader.open()
        for group in await reader.sagas(SagaFilter(service=store.service, limit=100_000)):
            for record in group:
                seen = store.records[record.saga_id][record.record_key]
                if replace(record, announced=0) != replace(seen, announced=0):
                    self.world.broken("S10", f"the store holds version {record.version}, committed was {seen.version}")
                store.records[record.saga_id][record.record_key] = record
