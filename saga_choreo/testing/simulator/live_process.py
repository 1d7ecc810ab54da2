"""One real agent's session in virtual time: it serves, is killed or stopped, and comes back."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

from saga_choreo.core.facts import Fact
from saga_choreo.errors import KeyConflict, SagaError, StopCutShort
from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.model.record import ORIGIN, RecordKey
from saga_choreo.ports.broker import Notice, Outgoing
from saga_choreo.runtime.catalog import Catalog, Known
from saga_choreo.runtime.driver import Driver
from saga_choreo.runtime.part import Part
from saga_choreo.runtime.sagas import Start, start
from saga_choreo.runtime.session import Session
from saga_choreo.runtime.telling import SagaOutcome
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.carried import said_with, text_of
from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.hearsay import WHY
from saga_choreo.testing.simulator.live_handlers import event_class
from saga_choreo.testing.simulator.live_ports import BY_HAND, Committed, FaultyBroker, WatchedStore
from saga_choreo.testing.simulator.starting import trace_of
from saga_choreo.testing.simulator.times import Times
from saga_choreo.testing.simulator.world import SECOND, World
from saga_choreo.testing.virtual_loop import Life, VirtualClock, VirtualLoop

__all__ = ["AgentProcess", "Home", "LiveProcess"]


class Home(Protocol):
    """Where processes live. `place` names the bus, `spread` puts a message on it after so many nanoseconds."""

    place: str
    limits: Limits

    @property
    def world(self) -> World: ...
    @property
    def loop(self) -> VirtualLoop: ...
    def spread(self, message: Outgoing, delay_ns: int) -> None: ...


class AgentProcess:
    """An agent of a service. `number` tells the agents of one service apart."""

    def __init__(self, house: Home, service: str, number: int) -> None:
        self._house = house
        self._world = house.world
        self.service = service
        self.name = f"{service}/{number}"
        self._stream = house.world.streams.named(f"process/{self.name}")
        self._clock = VirtualClock(house.loop, self._stream, house.world.wall_ns(), self._stream.between(-1, 1))
        self.is_up = False
        self.is_closing = False
        self.task: asyncio.Task[None] | None = None

    def boot(self) -> None:
        """A new incarnation, with nothing in memory but what the store tells."""
        if self.is_closing or self.is_up:
            return
        self._world.note(self.name, "comes up")
        self.life = Life(self.name)
        self.life.run_in(self._launch)
        self._world.after(int(self._stream.between(1, 40) * SECOND), self._stop_gracefully, self.life)

    def _launch(self) -> None:
        self.is_up = True
        self._stop = asyncio.Event()
        inner = MemoryBroker(f"memory://{self._house.place}?ack_wait=4", clock=self._clock)
        broker = FaultyBroker(self._world, inner, self._house.spread, self._boundary)
        self._session = self._new_session(broker)
        self.task = self._house.loop.create_task(self._serve(self._session, self._stop))

    def _new_session(self, broker: FaultyBroker) -> Session:
        raise NotImplementedError

    def _said_with(self, key: RecordKey, fact: Fact) -> dict[str, Any]:
        """What a person says beside the word."""
        del key, fact
        return {}

    def _stopped(self) -> None:
        """In peace."""

    def _lose_store(self) -> None:
        """What its death does to its connections to the store."""
        raise NotImplementedError

    async def _serve(self, session: Session, stop: asyncio.Event) -> None:
        life = self.life
        try:
            if await session.open(serves=True, stop=stop):
                await session.serve(stop)
        except StopCutShort as cut:  # the process ends, with everything that would not: in here, nothing has a reason to
            if not life.is_over:
                self._world.broken("BUG", str(cut))
                self.crash()
        except Exception:  # noqa: BLE001  an agent must never end by itself
            # A killed one is closed only when everything is over, and so are all of a run that was broken off.
            if not life.is_over and self._house.loop.is_running():
                self._world.broken("BUG", traceback.format_exc(limit=-4))
        if life.is_over:
            return
        await session.close()
        self.is_up = False
        self._world.note(self.name, "has stopped")
        self._stopped()
        self._world.after(int(self._stream.random() * 5 * SECOND), self.boot)

    async def _boundary(self) -> None:
        """One call to the outside begins or ends: the process may die here, and then never goes on."""
        world = self._world
        world.operations += 1
        if world.operations == world.settings.crash_at or world.hit("crash") is not None:
            self.crash()
            await self._house.loop.create_future()

    def crash(self) -> None:
        self._world.note(self.name, "dies")
        self._world.saw("crash of an agent")
        self.is_up = False
        self._house.loop.bury(self.life)
        self._lose_store()
        self._world.after(int(self._stream.random() ** 2 * 30 * SECOND), self.boot)

    def _stop_gracefully(self, life: Life) -> None:
        if self.is_up and life is self.life and not self._world.faults.is_healed and not self._stop.is_set():
            self._world.saw("graceful stop")
            self._world.stops.append(self._world.now_s())
            self._stop.set()

    def close(self) -> None:
        """For good."""
        self.is_closing = True
        if self.is_up:
            self._stop.set()

    def _do(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A task of this process, besides its agent."""
        self.life.run_in(lambda: self._house.loop.create_task(work()))

    def command(
        self, key: RecordKey, step: int | None, fact: Fact, ended: Callable[..., None], effects: Sequence[Effect] = ()
    ) -> None:
        """A person's word, said to this process."""
        session = self._session

        async def say() -> None:
            BY_HAND.set(tuple(effects))
            try:
                said = self._said_with(key, fact)
                steps = session.pipeline.command(key.saga_id, step, fact, WHY, **said)
                value = await Driver(session).run(steps)
            except SagaError as error:
                self._world.note(self.name, f"cannot: {error}")
                return
            ended(None, value, None)

        self._do(say)


class LiveProcess(AgentProcess):
    """An agent with simulated handlers, on a memory store."""

    def __init__(
        self, house: Home, known: Sequence[Known], store: Committed, number: int, late: Mapping[str, float], judge: Times
    ) -> None:
        """`late`: definitions that it has code for and has to learn, and how many seconds the word of each takes to arrive."""
        super().__init__(house, store.service, number)
        self._known = tuple(one for one in known if one.plan.definition not in late)
        self._late = {one.plan.definition: one.plan.choreography for one in known if one.plan.definition in late}
        self._late_s = late
        self._judge = judge
        bound = [one for each in known for one in each.handlers.values()]
        self._part = Part(store.service, bound, [each.plan.choreography for each in known])
        self.store = store

    def _new_session(self, broker: FaultyBroker) -> Session:
        self.catalog = Catalog(self.service, self._known)  # what an agent learns, it learns anew, or finds it in its store
        broker.late = self._late_s
        self._inner_store = WatchedStore(self._world, f"{self._house.place}-{self.service}", self.store, self._boundary)
        return Session(self._part, self.catalog, self._inner_store, broker, self._clock, self._house.limits, (self._outcome,))

    def _lose_store(self) -> None:
        self._inner_store.inner.crash()

    def _stopped(self) -> None:
        records = (record for rows in self.store.records.values() for record in rows.values())
        self._judge.stopped(self.life, records)

    def _said_with(self, key: RecordKey, fact: Fact) -> dict[str, Any]:
        record = self.store.get(key)
        return {} if record is None else said_with(record, fact)

    async def _outcome(self, outcome: SagaOutcome) -> None:
        if self._world.hit("tell_fails") is not None:
            self._world.saw("callback told again")
            raise ValueError("simulated: the callback failed")
        self._world.told.setdefault((self.service, outcome.saga_id), []).append(outcome.state)

    async def say_it_holds(self, broker: MemoryBroker) -> None:
        """Of what it is still to learn: others may start such sagas because an agent of the service that is gone by now has held it."""
        for definition, form in self._late.items():
            body = {
                "service": self.service,
                "agent": "",
                "definition": definition,
                "choreography": form.name,
                "version": form.version,
            }
            await broker.notify(Notice(f"holds.{definition}.{self.service}", json.dumps(body).encode()))

    def start_saga(self, known: Known, key: str, deadline: timedelta | None) -> None:
        """A client's call, in this process. Whether it worked is seen in the store."""
        session, what = self._session, _start_of(known, key, text_of(key, ORIGIN, 0), deadline, trace_of(self._stream))

        async def begin() -> None:
            try:
                await start(session, known, what, None, session.limits.ready_timeout_s)
            except KeyConflict as error:
                self._world.broken("BUG", f"the same start is called another one: {error}")
            except SagaError as error:
                self._world.note(self.name, f"cannot start: {error}")

        self._do(begin)

    def start_another(self, known: Known, key: str) -> None:
        """Another client's call, whose saga has the same key by mistake."""
        session, what = self._session, _start_of(known, key, "another client", None)

        async def begin() -> None:
            try:
                await start(session, known, what, None, session.limits.ready_timeout_s)
            except KeyConflict:
                self._world.saw("a key was taken")
            except SagaError as error:
                self._world.note(self.name, f"cannot start: {error}")
            else:
                self._world.broken("S1", f"key {key!r} was taken, and a start with another payload was told that its saga is there")

        self._do(begin)


def _start_of(known: Known, key: str, text: str, deadline: timedelta | None, trace: str = "") -> Start:
    event = known.plan.choreography.start
    assert event is not None
    return Start(event=event_class(event)(of=text), key=key, deadline=deadline, trace=trace)
