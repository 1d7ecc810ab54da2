"""An opened agent: store, broker and what works on them. `Agent` is what users hold; a session is one run of it.

A session either serves (binds the service's channels and works on what comes) or only starts and watches sagas, as a web process
beside the agent does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from saga_choreo import __version__
from saga_choreo.core.facts import Resolved
from saga_choreo.core.states import end_state
from saga_choreo.errors import BrokerUnavailable, SagaError, StoreUnavailable
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.model.states import Outcome, SagaState
from saga_choreo.ports.broker import Broker, Delivery, Outgoing, Topology
from saga_choreo.ports.clock import Clock
from saga_choreo.runtime.arrivals import Arrival
from saga_choreo.runtime.attempt import is_cancelled
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.consumer import Consumer
from saga_choreo.runtime.deadletters.runner import Replays
from saga_choreo.runtime.directory import Directory
from saga_choreo.runtime.driver import Driver
from saga_choreo.runtime.gates import Gates
from saga_choreo.runtime.holding import Holding
from saga_choreo.runtime.operations import Ending, Publication
from saga_choreo.runtime.part import Part
from saga_choreo.runtime.pipeline import Pipeline
from saga_choreo.runtime.plugins import WholeStore, with_letters
from saga_choreo.runtime.relay import Relay
from saga_choreo.runtime.timers import Timers
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.together import Together

__all__ = ["OnOutcome", "SagaOutcome", "Session"]

_log = logging.getLogger("saga_choreo.agent")
_UNKNOWN_WAIT_S = 1.0
_FORGET_EVERY_S = 3600.0
_FORGET_MAX = 1000
_TRY_AGAIN_FIRST_S = 0.5
_TRY_AGAIN_MAX_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaOutcome:
    """How a saga ended, for `on_outcome` callbacks."""

    saga_id: UUID
    key: str
    choreography: str
    origin: str
    state: SagaState
    reason: str


OnOutcome = Callable[[SagaOutcome], Awaitable[None]]


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
        self.service = service = part.service
        self.part = part
        self.catalog = catalog
        self.store = store
        self.broker = broker
        self.clock = clock
        self.limits = limits
        self._callbacks = tuple(callbacks)
        self.gates = Gates(clock)
        for known in catalog.all():
            for bound in known.handlers.values():
                self.gates.expect(bound.definition.name, bound.options)
        self.incarnation = clock.entropy(4).hex()
        self.relay = Relay(service, broker, store, clock, limits)
        self.pipeline = Pipeline(service, catalog, limits, self.relay.announced)
        self.holding = Holding(service, catalog, store, clock, limits, self._apply, self._send_copies)
        self.directory = Directory(part, catalog, broker, store, clock, self.holding.wake)
        self.timers = Timers(service, store, clock, limits, self._work_on)
        self.replays = (
            Replays(service, self.incarnation, with_letters(store), clock, self._apply, self._speak)
            if store.features.letters
            else None
        )
        self.consumer = Consumer(broker, clock, limits, store.features.writers, self._handle)
        self.serves = False
        self._work: asyncio.TaskGroup | None = None
        self._waiters: dict[UUID, asyncio.Event] = {}
        # Sagas that are started at the same moment share a transaction; `sagas` knows what is in it.
        self.starts: Together[Any, Any] | None = None

    @property
    def is_working(self) -> bool:
        return self._work is not None

    @property
    def agent(self) -> str:
        return self.incarnation

    @property
    def version(self) -> str:
        return f"{__version__} release {self.part.release}" if self.part.release else __version__

    @property
    def lease_s(self) -> float:
        return self.limits.lease_s

    async def open(self, *, serves: bool, stop: asyncio.Event | None = None) -> bool:
        """Open store and broker and announce. With `stop`, an unreachable one is tried again until told to stop (then False)."""
        self.serves = serves
        holders = (self.service,) if serves else ()
        steps: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            self.store.open,
            self.directory.recall,
            lambda: self.directory.remember_own(holders),
            lambda: self.broker.open(self._topology(serves=serves)),
            *((lambda: self.directory.announce(self.incarnation),) if serves else ()),
        )
        for step in steps:
            if not await self._patiently(step, stop):
                return False
        return True

    async def _patiently(self, step: Callable[[], Coroutine[Any, Any, None]], stop: asyncio.Event | None) -> bool:
        wait_s = _TRY_AGAIN_FIRST_S
        while True:
            try:
                if not await _unless(stop, step()):
                    return False
            except (BrokerUnavailable, StoreUnavailable) as error:
                if stop is None:
                    raise
                _log.warning("%s; trying again", error)
                await self._sleep_unless(stop, wait_s * (0.75 + 0.5 * self.clock.chance()))
                wait_s = min(wait_s * 2, _TRY_AGAIN_MAX_S)
                if stop.is_set():
                    return False
            else:
                return True

    async def _sleep_unless(self, stop: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            pass

    def _topology(self, *, serves: bool) -> Topology:
        """What the steps of all known definitions react to, and what this code reacts to: a definition that is assembled later
        needs no other channel."""
        plans = [known.plan for known in self.catalog.all()]
        steps, opened = self.part.open_steps, self.part.open
        read = {event for plan in plans for event in plan.events_read_by(self.service)}
        known = {ref.name for plan in plans for s in (plan.origin, *plan.steps) for ref in s.outputs}
        owners = {owner for plan in plans for owner in plan.owners} | {step.owner for step in steps}
        return Topology(
            service=self.service,
            agent=self.incarnation,
            events=tuple(sorted(read | {ref.name for step in steps for ref in step.reads})),
            known_events=tuple(sorted(known | {ref.name for step in steps for ref in (*step.reads, *step.publishes)})),
            owners=tuple(sorted(owners.union(() if opened is None else opened.participants))),
            receives=serves,
        )

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then finish or hand back what is under way."""
        async with asyncio.TaskGroup() as background:
            loops = [
                background.create_task(self.directory.watch()),
                background.create_task(self.relay.mark_for_ever()),
                background.create_task(self.relay.scan_for_ever(self._republish)),
                background.create_task(self._forget_for_ever()),
            ]
            try:
                await self._work_until(stop)
            finally:
                for loop in loops:
                    loop.cancel()
        await self.settle()

    async def _work_until(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as work:
                self._work = work
                loops = [work.create_task(self.timers.run(work)), work.create_task(self.holding.run())]
                if self.replays is not None:
                    loops.append(work.create_task(self.replays.run()))
                try:
                    await self.consumer.run(work, stop)
                finally:
                    for loop in loops:
                        loop.cancel()
                    await self._give_back(await self.timers.stop(self.limits.stop_grace_s))
                    if self.replays is not None:
                        await self.replays.let_go()
        except Exception:
            _log.critical("agent of service %r cannot go on and stops working", self.service)
            raise
        finally:
            self._work = None

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
            background.create_task(self.directory.watch())
            background.create_task(self.relay.mark_for_ever(self.limits.start_unannounced_after_s / 2))

    async def settle(self) -> None:
        """Write down what is published; a failure only means that it is published once more."""
        try:
            await self.relay.flush()
        except SagaError as error:
            _log.info("what is published could not be noted (%s); it will be published again", error)

    async def close(self) -> None:
        if self.starts is not None:
            await self.starts.close()
        await self.broker.close()
        await self.store.close()

    async def publish(self, publications: Sequence[Publication], loose: Sequence[Outgoing]) -> None:
        if self._work is not None:
            await self.relay.submit(self._work, publications, loose)
        else:
            await self.relay.publish(publications, loose)

    def saved(self, records: Sequence[Record]) -> None:
        self.relay.saved(records)
        for record in records:
            if record.due_ms is not None:
                self.timers.expect(record.due_ms)
            waiter = self._waiters.get(record.saga_id)
            if waiter is not None and record.row.outcome is not Outcome.OPEN:
                waiter.set()

    def waiter(self, saga_id: UUID) -> asyncio.Event:
        """Set when this process records the saga's end. Drop it with `forget_waiter`."""
        return self._waiters.setdefault(saga_id, asyncio.Event())

    def forget_waiter(self, saga_id: UUID) -> None:
        self._waiters.pop(saga_id, None)

    async def tell(self, endings: Sequence[Ending]) -> frozenset[UUID]:
        """Call the callbacks. Returns the sagas of which one has to be told again."""
        untold: set[UUID] = set()
        for ending in endings if self._callbacks else ():
            record = ending.record
            told = SagaOutcome(
                saga_id=record.saga_id,
                key=record.key,
                choreography=record.choreography,
                origin=record.origin,
                state=end_state(ending.outcome, ending.cause),
                reason=ending.reason,
            )
            for callback in self._callbacks:
                try:
                    async with asyncio.timeout(self.limits.outcome_timeout_s):
                        await callback(told)
                except (Exception, asyncio.CancelledError):
                    if is_cancelled():
                        raise
                    _log.exception("on_outcome %r failed for saga %s and will be called again", callback, record.saga_id)
                    untold.add(record.saga_id)
        return frozenset(untold)

    async def _handle(self, deliveries: Sequence[Delivery]) -> None:
        """One batch through the pipeline. What could not be done is handed back; a batch that meets a bug of ours is taken
        apart, so that one message cannot hold up the others."""
        driver = Driver(self)
        try:
            await driver.run(self.pipeline.handle([Arrival.of(delivery) for delivery in deliveries]))
        except SagaError:
            await self._hand_back([one for one in deliveries if id(one) not in driver.acked], 1.0)
            raise
        except Exception:  # noqa: BLE001  a bug of ours in one message must not stop the others
            left = [one for one in deliveries if id(one) not in driver.acked]
            _log.exception("a batch of %d messages met an unexpected error", len(left))
            if len(left) == 1:
                await self._hand_back(left, 5.0)
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
        if self.catalog.get(key.definition) is None:  # written by an agent of another release; its DEFINE is on its way
            await self.clock.sleep(_UNKNOWN_WAIT_S)
            return False
        return bool(await Driver(self).run(self.pipeline.work(key)))

    async def _republish(self, records: Sequence[Record]) -> None:
        """Straight through the relay: the scan waits for the confirmations, so that it never runs ahead of them."""
        await self.relay.publish([one for record in records for one in self._publications(record)])

    def _publications(self, record: Record) -> Sequence[Publication]:
        try:
            return self.pipeline.publications([record], self.clock.time_ns())
        except Exception:  # noqa: BLE001  a record that cannot be told of must not keep the others from it, nor end the agent
            _log.exception("saga %s, step %d: what it says cannot be written", record.saga_id, record.step)
            return ()

    async def _apply(self, arrivals: Sequence[Arrival]) -> None:
        """Messages that waited for a definition which this agent knows now."""
        await Driver(self).run(self.pipeline.handle(arrivals))

    async def _speak(self, record: Record, operator: str, reason: str) -> object:
        """A person's 'retry' of a parked step, for a replay."""
        word = Resolved("retry", operator)
        return await Driver(self).run(
            self.pipeline.command(
                record.saga_id, record.step, word, reason, definition=record.definition, runs=False, lease_ms=None
            )
        )

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


async def _unless(stop: asyncio.Event | None, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work, or give it up when told to stop (then False)."""
    if stop is None:
        await work
        return True
    doing, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not doing.done():
            doing.cancel()
        await asyncio.gather(stopped, doing, return_exceptions=True)
    if doing.cancelled():
        return False
    doing.result()
    return True
