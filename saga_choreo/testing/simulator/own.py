"""One seed with the agents of a user: their own handlers on SQLite files, killed and hurt in virtual time.

What handlers do through `ctx` is under the simulator's hand. Threads, sockets and clients of real services are not: such calls
need a stand-in in the user's own code.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import cast
from uuid import UUID

from saga_choreo.core.rows import is_finished
from saga_choreo.errors import ConfigurationError, SagaError
from saga_choreo.model.event import Event
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Outcome, Parked
from saga_choreo.ports.store import SagaFilter
from saga_choreo.runtime.plugins import WholeStore, make_store
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.views import plan_from, view_of
from saga_choreo.testing.simulator.live_house import House
from saga_choreo.testing.simulator.own_oracle import fetch_from, findings, said_by
from saga_choreo.testing.simulator.own_process import OwnProcess
from saga_choreo.testing.simulator.settings import OwnAgents, Settings, Verdict
from saga_choreo.testing.simulator.world import SECOND

__all__ = ["run_own_seed"]

_PATIENCE_S = 1800
_FOUND_MAX = 100_000
# Where files need no disk, if the system has such a place: a simulated power cut is none of the faults.
_MEMORY = "/dev/shm"  # noqa: S108  the folder below it has a name of its own


def run_own_seed(seed: int, settings: Settings, own: OwnAgents) -> Verdict:
    """Run one seed to its end, or to the first broken promise. Raises ConfigurationError for agents that cannot run the sagas."""
    numbers = [number for number in range(settings.sagas) if settings.keep is None or number in settings.keep]
    events = {number: _start_event(own, seed, number) for number in numbers}
    _require_fit(own, events.values())
    with TemporaryDirectory(prefix="saga-simulation-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as folder:
        return _OwnSimulation(seed, settings, own, events, folder).run()


def _start_event(own: OwnAgents, seed: int, number: int) -> Event:
    try:
        return own.start(number, random.Random(f"{seed}/{number}"))  # noqa: S311  a seed
    except Exception as error:
        raise ConfigurationError(
            f"the start function failed for saga {number!r} with {type(error).__name__}: {error}; it is called with a number and a "
            "Random, and has to return the event that starts the saga"
        ) from error


class _OwnSimulation(House):
    def __init__(self, seed: int, settings: Settings, own: OwnAgents, events: Mapping[int, Event], folder: str) -> None:
        super().__init__(seed, settings)
        self._own = own
        self._stream = stream = self.world.streams.named("workload")
        reannounce = stream.chance(0.4) if settings.reannounce is None else settings.reannounce
        self.limits = Limits(reannounce=reannounce, alive_every_s=1e6)
        urls = {agent.name: f"sqlite:///{folder}/{agent.name}.db?durability=relaxed" for agent in own.agents}
        self._readers: dict[str, WholeStore] = {name: make_store(url, inline=True) for name, url in urls.items()}
        self.processes = {
            agent.name: [OwnProcess(self, agent, urls[agent.name], number) for number in range(1 + stream.below(2))]
            for agent in own.agents
        }
        self._origin = own.agents[0].name
        self._events = events
        self._records: dict[str, list[Record]] = {}
        self._thinking: set[tuple[UUID, str, int]] = set()
        self._outcomes: list[Outcome] = []
        self._quiet_rounds = 0

    def run(self) -> Verdict:
        self.run_loop(self._main())
        world = self.world
        return Verdict(
            seed=self.seed,
            sagas=len(self._outcomes),
            completed=sum(outcome is Outcome.COMPLETED for outcome in self._outcomes),
            aborted=sum(outcome in (Outcome.ABORTED, Outcome.FAILED) for outcome in self._outcomes),
            operations=world.operations,
            violations=world.violations,
            sometimes=world.sometimes,
            faults=world.faults.happened,
            digest=world.digest,
            trace=world.trace,
        )

    async def _main(self) -> None:
        operating = self.loop.create_task(self._operate())
        try:
            await self.open_bus()
            for reader in self._readers.values():
                await reader.open()
            for agents in self.processes.values():
                for process in agents:
                    process.boot()
            hurt_s = self._stream.between(10, 30)
            for number in self._events:
                bad = self.world.hit("deadline")
                deadline = None if bad is None else timedelta(seconds=1 + bad * 59)
                self.world.after(int(self._stream.random() ** 2 * hurt_s * SECOND), self._start, number, deadline)
                when = self.world.hit("cancel")
                if when is not None:
                    self.world.after(int(when * when * 40 * SECOND), self._cancel, number)
            await self.hurt_for(hurt_s)
            await self.wait(_PATIENCE_S, self._is_quiet)
            if not self.world.violations:
                operating.cancel()
                await self._judge()
        finally:
            operating.cancel()
            for reader in self._readers.values():
                await reader.close()

    def _up(self, service: str) -> OwnProcess | None:
        up = [process for process in self.processes[service] if process.is_up]
        return self._stream.pick(up) if up else None

    def _start(self, number: int, deadline: timedelta | None) -> None:
        """Until it is there."""
        key, process = f"SAGA-{number}", self._up(self._origin)
        if key in self._records:
            return
        if process is not None:
            process.start_saga(self._events[number], key, deadline)
        self.world.after(int(2.5 * SECOND), self._start, number, deadline)

    def _cancel(self, number: int) -> None:
        saga, process = self._records.get(f"SAGA-{number}"), self._up(self._origin)
        if saga and process is not None:
            self.world.saw("cancelled")
            process.cancel(next(record for record in saga if record.step == ORIGIN))

    async def _read(self) -> None:
        """What is stored everywhere, by the key of the saga."""
        found: dict[UUID, list[Record]] = {}
        for service, reader in self._readers.items():
            for group in await reader.sagas(SagaFilter(service=service, limit=_FOUND_MAX)):
                for record in group:
                    found.setdefault(record.saga_id, []).append(record)
        self._records = {origin.key: saga for saga in found.values() for origin in saga if origin.step == ORIGIN}

    async def _operate(self) -> None:
        """What an operator does all day: look for parked steps, think for a while, have them tried again."""
        while True:
            with suppress(SagaError):
                await self._read()
            for record in (record for saga in self._records.values() for record in saga):
                place = (record.saga_id, record.service, record.step)
                if record.row.parked is not Parked.NO and place not in self._thinking:
                    self._thinking.add(place)
                    self.world.saw("parked and retried")
                    self.world.after(int(self._stream.between(0.5, 12) * SECOND), self._retry, place, record)
            await asyncio.sleep(1)

    def _retry(self, place: tuple[UUID, str, int], record: Record) -> None:
        self._thinking.discard(place)
        process = self._up(record.service)
        if process is not None:
            process.retry(record)

    def _is_quiet(self) -> bool:
        is_up = all(process.is_up for agents in self.processes.values() for process in agents)
        is_over = len(self._records) >= len(self._events) and all(
            is_finished(record.row) and record.announced >= record.version for saga in self._records.values() for record in saga
        )
        self._quiet_rounds = self._quiet_rounds + 1 if is_up and is_over and self.is_bus_empty else 0
        # For longer than a scan needs to find what nobody has published.
        return self._quiet_rounds > 5

    async def _judge(self) -> None:
        """The records, then the user's own tables."""
        world, fetch = self.world, fetch_from(self._readers)
        await self.stop([process for agents in self.processes.values() for process in agents])
        await self._read()
        definitions = await self._readers[self._origin].definitions()
        for number in self._events:
            saga = self._records.get(f"SAGA-{number}")
            if saga is None:
                world.broken("L1", f"saga 'SAGA-{number}' could not be started at {self._origin!r} in {_PATIENCE_S} s", number)
                continue
            view, plan = view_of(saga, None), plan_from(definitions, saga[0].definition)
            assert plan is not None, "an origin keeps the definitions of its sagas"
            self._outcomes.append(next(record.row.outcome for record in saga if record.step == ORIGIN))
            states = ", ".join(f"{plan.step(one.step).name}={one.row.state.name}" for one in saga if one.step != ORIGIN)
            world.note("END", f"{view.key} {view.saga_id} {view.state.value}: {states}")
            wrong = findings(plan, saga)
            if not wrong and self._own.check is not None:
                found = await said_by(self._own.check, view, fetch)
                wrong = [("CHECK", f"saga {view.key!r} ({view.state.value}): {text}") for text in found]
            for code, text in wrong:
                world.broken(code, text, number)
        await self._judge_rest()

    async def _judge_rest(self) -> None:
        world = self.world
        for service, reader in self._readers.items():
            for lost in await reader.quarantined(service):
                world.broken("L5", f"service {service!r} quarantined a message of {lost.channel!r}: {lost.detail}")
        if not self.is_bus_empty and not world.violations:
            world.broken("L5", "messages are still on the broker long after everything was healed")


def _require_fit(own: OwnAgents, events: Collection[Event]) -> None:
    """A saga that nobody starts, or with a step that nobody runs, would only never begin."""
    first = own.agents[0]
    starts = {form.start for form in (*first.choreographies, first.open_choreography) if form is not None}
    others = [event for event in events if not isinstance(cast("object", event), Event)]
    if others:
        raise ConfigurationError(f"the start function gave {others[0]!r}, not an Event; return the event that starts the saga")
    strange = next((event for event in events if event.event not in starts), None)
    if strange is not None:
        raise ConfigurationError(
            f"{str(strange.event)!r} starts no choreography of agent {first.name!r}; name the agent first that starts the sagas"
        )
    names = {agent.name for agent in own.agents}
    if len(names) < len(own.agents):
        raise ConfigurationError("two of the agents have the same name; name each agent once, the simulator makes several of it")
    for form in own.agents[0].choreographies:
        missing = [owner for owner in form.owners if owner not in names]
        if missing:
            raise ConfigurationError(
                f"choreography {form.name!r} has steps of {', '.join(map(repr, missing))}, and no such agent was given; name all agents"
            )
