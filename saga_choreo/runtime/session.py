"""An opened agent: store, broker and what works on them. `Agent` is what users hold; a session is one run of it.

A session either serves (binds the service's channels and works on what comes) or only starts and watches sagas, as a web process
beside the agent does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from saga_choreo import __version__
from saga_choreo.errors import SagaError, StopCutShort, StoreUnavailable
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record, RecordKey, Row
from saga_choreo.model.states import Outcome
from saga_choreo.ports.broker import Broker, Delivery, Outgoing, Topology
from saga_choreo.ports.clock import Clock
from saga_choreo.runtime.admission import Admission
from saga_choreo.runtime.alarms import ParkedLog
from saga_choreo.runtime.arrivals import Arrival
from saga_choreo.runtime.binding import binding_of
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.consumer import Consumer
from saga_choreo.runtime.deadletters.carrying import replays_of
from saga_choreo.runtime.directory import Directory
from saga_choreo.runtime.driver import Driver
from saga_choreo.runtime.epochs import Epochs
from saga_choreo.runtime.freezing import require_external
from saga_choreo.runtime.gates import Gates
from saga_choreo.runtime.holding import Holding
from saga_choreo.runtime.hopeless import later_s, set_aside
from saga_choreo.runtime.leases import Leases
from saga_choreo.runtime.opening import patiently, unless
from saga_choreo.runtime.operations import Ending, Publication
from saga_choreo.runtime.part import Part
from saga_choreo.runtime.pipeline import Pipeline
from saga_choreo.runtime.plugins import WholeStore
from saga_choreo.runtime.presuming import Presuming
from saga_choreo.runtime.relay import Relay
from saga_choreo.runtime.saying import publications_of
from saga_choreo.runtime.sharing import Sharing
from saga_choreo.runtime.standing import Standing
from saga_choreo.runtime.stopping import within_grace
from saga_choreo.runtime.telling import OnOutcome, Telling, Watched
from saga_choreo.runtime.timers import Timers
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.together import Together

__all__ = ["Session"]

_log = logging.getLogger("saga_choreo.agent")
_FORGET_EVERY_S = 3600.0
# How long work waits for a store that is being looked at, before it is handed back.
_DOUBT_WAIT_S = 2.0
_FORGET_MAX = 1000
# For handing back what was cut short, and for its cancellation.
_AFTER_GRACE_S = 2.0
_CLOSE_S = 3.0


class Session:
    """Implements the driver's `Surroundings`."""

    def __init__(
        self,
        part: Part,
        catalog: Catalog,
        store: WholeStore,
        broker: Broker,
        clock: Clock,
        limits: Limits,
        callbacks: Sequence[OnOutcome] = (),
    ) -> None:
        self.declares = True
        self.service = service = part.service
        self.part = part
        self.catalog = catalog
        self.store, self.broker = store, broker
        self.clock = clock
        self.limits = limits
        self._telling = Telling(callbacks, limits.outcome_timeout_s, self._time_left_s)
        self.gates = Gates(clock)
        for bound in (bound for known in catalog.all() for bound in known.handlers.values()):
            self.gates.expect(bound.definition.name, bound.options)
        self.incarnation = self.agent = clock.entropy(4).hex()
        self.version = f"{__version__} release {part.release}" if part.release else __version__
        self.relay = Relay(service, broker, store, clock, limits)
        self.presuming = Presuming(service, limits.horizon_s, lambda: not self.directory.has_company())
        self.relay.on_written = self.presuming.marked
        self.pipeline = Pipeline(service, catalog, limits, self.relay.announced, self.presuming, tells=bool(callbacks))
        self.pipeline.single_copy = broker.features.single_copy
        self.leases = Leases(service, catalog, limits, self.relay.announced)
        self.holding = Holding(service, catalog, store, clock, limits, self._apply, self._send_copies)
        self.directory = Directory(part, catalog, broker, store, clock, self.holding.wake)
        self.epochs = Epochs(service, self.incarnation, store, broker, clock, limits.epoch_every_s, self.presuming.forget)
        self.directory.on_epoch = self.epochs.hear
        self.timers = Timers(service, store, clock, limits, self._work_on, lambda definition: catalog.get(definition) is not None)
        self.replays = replays_of(self, store, self.pipeline)
        sharing = Sharing(broker, limits, lambda: self.directory.signs.place(self.incarnation))
        self.waited = sharing.waited
        self.consumer = Consumer(broker, clock, limits, store.features.writers, self._handle, sharing)
        self._work: asyncio.TaskGroup | None = None
        self._background: asyncio.TaskGroup | None = None
        self.serves = False
        self._watched: WeakValueDictionary[UUID, Watched] = WeakValueDictionary()
        self._parked_log = ParkedLog(catalog)
        self.standing = Standing(service, store, clock, limits.alive_every_s)
        self._stop_by: float | None = None
        # The handlers that run now, by the name of their step.
        self.executing: dict[RecordKey, str] = {}
        # Sagas that are started at the same moment share a transaction, or a look and a round of publishing; `sagas` knows how.
        self.starts: Together[Any, Any] | None = None
        self.published: Together[UUID, None] | None = None
        self.admission = Admission(service, store, clock, limits)

    @property
    def is_working(self) -> bool:
        return self._work is not None

    async def open(self, *, serves: bool, stop: asyncio.Event | None = None) -> bool:
        """Open store and broker and announce. With `stop`, an unreachable one is tried again until told to stop (then False)."""
        self.serves = serves
        if serves:
            require_external(self.part, self.store.features)
        holders = (self.service,) if serves else ()
        steps: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            self._open_store,
            self.directory.recall,
            lambda: self.directory.remember_own(holders),
            lambda: self.broker.open(self._topology(serves=serves)),
            *((lambda: self.directory.announce(self.incarnation), self.epochs.ask) if serves else ()),
        )
        for step in steps:
            if not await patiently(step, stop, self.clock):
                return False
        return True

    async def _open_store(self) -> None:
        await self.store.open()
        features = self.store.features
        if features.shared and not features.durable:
            _log.warning(
                "the %s store of service %r is not durable: a crash may undo commits it has confirmed", features.name, self.service
            )

    def _topology(self, *, serves: bool) -> Topology:
        plans, opened = [known.plan for known in self.catalog.all()], self.part.open
        others = () if opened is None else opened.participants
        how = {"create": self.declares, "receives": serves}
        return binding_of(self.service, plans, self.part.open_steps, others, agent=self.incarnation, plain=self.part.plain, **how)

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then finish or hand back what is under way. Raises StopCutShort when that is not done in time."""
        grace_s = self.limits.stop_grace_s + _AFTER_GRACE_S
        try:
            if await within_grace(self._serve(stop), stop, grace_s):
                await self.settle()
                return
        finally:
            self._work = None
        left = "; ".join(f"step {name!r} of saga {key.saga_id}" for key, name in self.executing.items()) or "none"
        raise StopCutShort(
            f"agent of {self.service!r} was told to stop and had not after {grace_s:g} s; left behind: {self.consumer.in_flight} batches, "
            f"{self.timers.running} attempts, handlers that go on though they were cancelled: {left}; nothing is lost, what they had not "
            "committed is done again; give it more time with Limits.stop_grace_s, and let such handlers end when they are cancelled"
        )

    async def _serve(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as background:
            self._background = background
            loops = [
                background.create_task(self.directory.watch()),
                background.create_task(self.directory.announce_for_ever()),
                background.create_task(self.relay.mark_for_ever()),
                background.create_task(self.relay.mark_starts_for_ever(self.directory.has_company)),
                background.create_task(self.relay.scan_for_ever(self._republish)),
                background.create_task(self._forget_for_ever()),
                background.create_task(self.leases.renew_for_ever(self.clock, lambda steps: Driver(self).run(steps))),
                background.create_task(self.directory.beat_for_ever(self.incarnation, self.limits.alive_every_s)),
                background.create_task(self.standing.look_for_ever()),
                background.create_task(self.epochs.run()),
            ]
            try:
                if await unless(stop, self.epochs.cleared()):
                    await self._work_until(stop)
            finally:
                for loop in loops:
                    loop.cancel()

    async def _work_until(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as work:
                self._work = work
                loops = [work.create_task(self.timers.run(work)), work.create_task(self.holding.run())]
                if self.replays is not None:
                    loops.append(work.create_task(self.replays.run()))
                try:
                    async with self._noting(stop):
                        await self.consumer.run(work, stop)
                finally:
                    for loop in loops:
                        loop.cancel()
                    await self._give_back(await self.timers.stop(self._time_left_s()))
                    if self.replays is not None:
                        await self.replays.let_go()
        except Exception:
            _log.critical("agent of service %r cannot go on and stops working", self.service)
            raise
        finally:
            self._work = None

    @asynccontextmanager
    async def _noting(self, stop: asyncio.Event) -> AsyncGenerator[None]:
        """Note when the stop began: all its stages share one time."""

        async def note() -> None:
            await stop.wait()
            self._stop_by = self.clock.monotonic() + self.limits.stop_grace_s

        noting = asyncio.ensure_future(note())
        try:
            yield
        finally:
            noting.cancel()

    def _time_left_s(self) -> float:
        """How long something may still take: not bounded before the stop."""
        if self._stop_by is None:
            return self.limits.stop_grace_s
        return max(self._stop_by - self.clock.monotonic(), 0.0)

    async def _give_back(self, keys: Sequence[RecordKey]) -> None:
        """Attempts that were cut short may be begun by others at once; if that cannot be noted, when their lease ends."""
        for key in keys:
            try:
                await Driver(self).run(self.pipeline.give_back(key))
            except SagaError as error:
                _log.warning(
                    "saga %s, step %d: could not be handed back, and goes on after its lease: %s", key.saga_id, key.step, error
                )

    async def watch_only(self) -> None:
        """The background of a session that does not serve: learn who holds what, and note which starts are published before
        the agents on the same store would publish them again. Until cancelled."""
        async with asyncio.TaskGroup() as background:
            self._background = background
            background.create_task(self.directory.watch())
            background.create_task(self.relay.mark_for_ever(self.limits.start_unannounced_after_s / 2))

    def soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this beside everything else. A failure only means that somebody does it later."""

        async def quietly() -> None:
            try:
                await work()
            except SagaError as error:
                _log.info("what was to be done at once is left to the scan: %s", error)
            except Exception:  # noqa: BLE001  it must not end the agent
                _log.exception("what was to be done at once is left to the scan")

        doing = quietly()
        try:
            if self._background is not None:
                self._background.create_task(doing)
                return
        except RuntimeError:  # the session is just ending
            pass
        doing.close()

    async def settle(self) -> None:
        """Write down what is published; a failure only means that it is published once more."""
        try:
            await self.relay.flush()
        except SagaError as error:
            _log.info("what is published could not be noted (%s); it will be published again", error)

    async def close(self) -> None:
        """What was left behind may hold on to a connection for ever: nothing is waited for without a bound."""
        for together in (self.starts, self.published):
            if together is not None:
                await together.close()
        for close in (self.broker.close, self.store.close):
            try:
                async with asyncio.timeout(_CLOSE_S if self._stop_by is not None else None):
                    await close()
            except TimeoutError:
                _log.error(
                    "a connection of agent %r did not close within %g s and is left to the process's end", self.service, _CLOSE_S
                )

    async def publish(self, publications: Sequence[Publication], loose: Sequence[Outgoing]) -> None:
        if self._work is not None:
            await self.relay.submit(self._work, publications, loose)
        else:
            await self.relay.publish(publications, loose)

    def saved(self, records: Sequence[Record]) -> None:
        self.relay.saved(records)
        self._parked_log.saved(records)
        for record in records:
            if record.due_ms is not None:
                self.timers.expect(record.due_ms)
            if watched := self._watched.get(record.saga_id):
                watched.see(record.row)

    def completed(self, keys: Sequence[RecordKey]) -> None:
        self.relay.forget(keys)
        for key in keys:
            if watched := self._watched.get(key.saga_id):
                watched.see(Row(outcome=Outcome.COMPLETED))

    def watched(self, saga_id: UUID) -> Watched:
        """Kept up to date for as long as somebody holds it."""
        return self._watched.setdefault(saga_id, Watched())

    async def tell(self, endings: Sequence[Ending]) -> frozenset[UUID]:
        return await self._telling.tell(endings)

    async def _handle(self, deliveries: Sequence[Delivery]) -> None:
        """One batch through the pipeline. What could not be done is handed back; a batch that meets a bug of ours is taken
        apart, so that one message cannot hold up the others."""
        if not await self.epochs.until_clear(_DOUBT_WAIT_S):
            await self._hand_back(deliveries, _DOUBT_WAIT_S)
            return
        driver = Driver(self)
        try:
            await driver.run(self.pipeline.handle([Arrival.of(delivery) for delivery in deliveries]))
        except SagaError as error:
            if isinstance(error, StoreUnavailable):
                self.epochs.doubt()
            await self._hand_back([one for one in deliveries if id(one) not in driver.acked], 1.0)
            raise
        except Exception as error:  # noqa: BLE001  a bug of ours in one message must not stop the others
            left = [one for one in deliveries if id(one) not in driver.acked]
            _log.exception("a batch of %d messages met an unexpected error", len(left))
            if len(left) == 1 and left[0].attempt >= self.limits.deliveries_max:
                await Driver(self).run(set_aside(self.service, left[0], error))
                return
            if len(left) == 1:
                await self._hand_back(left, later_s(left[0].attempt))
                return
            for one in left:
                await self._handle([one])

    async def _hand_back(self, deliveries: Sequence[Delivery], delay_s: float) -> None:
        if deliveries:
            try:
                await self.broker.release(deliveries, delay_s)
            except SagaError as error:
                _log.info("%d messages could not be handed back (%s); the broker delivers them again later", len(deliveries), error)

    async def _work_on(self, key: RecordKey) -> bool:
        if not await self.epochs.until_clear(_DOUBT_WAIT_S):
            return False
        try:
            return bool(await Driver(self).run(self.pipeline.work(key)))
        except StoreUnavailable:
            self.epochs.doubt()
            raise

    async def _republish(self, records: Sequence[Record]) -> None:
        """Straight through the relay: the scan waits for the confirmations, so that it never runs ahead of them."""
        await self.relay.publish([one for record in records for one in self._publications(record)])

    def _publications(self, record: Record) -> Sequence[Publication]:
        try:
            return publications_of([record], self.catalog, self.clock.time_ns())
        except Exception:  # noqa: BLE001  a record that cannot be told of must not keep the others from it, nor end the agent
            _log.exception("saga %s, step %d: what it says cannot be written", record.saga_id, record.step)
            return ()

    async def _apply(self, arrivals: Sequence[Arrival]) -> None:
        """Messages that waited for a definition which this agent knows now."""
        await Driver(self).run(self.pipeline.handle(arrivals))

    async def _send_copies(self, letters: Sequence[Outgoing]) -> bool:
        return await self.relay.publish((), letters)

    async def _forget_for_ever(self) -> None:
        while True:
            await self.clock.sleep(_FORGET_EVERY_S * (0.75 + 0.5 * self.clock.chance()))
            kept_s = self.limits.horizon_s + self.limits.clock_bound_s
            before = saga_id_at(self.clock.time_ns() // 1_000_000 - int(kept_s * 1000), bytes(10))
            try:
                while await self.store.forget(self.service, before, _FORGET_MAX) == _FORGET_MAX:
                    await self.clock.sleep(0.1)
            except SagaError as error:
                _log.warning("forgetting finished sagas failed and is tried again: %s", error)
