"""The agent: what a participant service declares, and runs beside or inside itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from opentelemetry import propagate

from saga_choreo.core.graph import plan_of
from saga_choreo.core.states import step_state
from saga_choreo.errors import ConfigurationError
from saga_choreo.model.choreography import Choreography, ChoreographyStep, checked_name
from saga_choreo.model.event import Event
from saga_choreo.model.states import SagaState, StepState
from saga_choreo.ports.broker import Broker
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import SagaFilter
from saga_choreo.runtime.catalog import Catalog, Known
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.commands import resolve
from saga_choreo.runtime.deadletters.door import DeadLetters
from saga_choreo.runtime.declare.declarations import Declarations, StepDecorators
from saga_choreo.runtime.freezing import freeze, own_steps
from saga_choreo.runtime.gates import BreakerView
from saga_choreo.runtime.health import Health, health_of
from saga_choreo.runtime.outside import complete, decline
from saga_choreo.runtime.parked import ParkedStep, Published, parked_steps
from saga_choreo.runtime.part import Part
from saga_choreo.runtime.plain import PlainStart, PlainStarts, check_plain
from saga_choreo.runtime.plugins import WholeStore, make_broker, make_store, redacted
from saga_choreo.runtime.sagas import SagaHandle, Start, start, started_by
from saga_choreo.runtime.session import Session
from saga_choreo.runtime.settings import read_settings
from saga_choreo.runtime.stuck import StuckSagas, stuck_sagas
from saga_choreo.runtime.telling import OnOutcome, check_callback
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.views import SagaView, state_named, view_of

__all__ = ["Agent"]

Callback = TypeVar("Callback", bound=OnOutcome)
Started = TypeVar("Started", bound=Event)
# How many sagas are looked at to find those in a wanted state.
_LOOKED_AT_MAX = 10_000


class Agent(StepDecorators):
    """One participant's agent: declares the service's steps (`@agent.step`), runs them, starts sagas and answers for them.

    `saga` is the choreography (or several) it takes part in: the shared object, or its name only. Then this agent announces the
    steps it declares, and the origin assembles them: `saga=Choreography("shop").starts_with(Ordered, participants={...})`. Of two
    releases of a service the announcement with the higher `release` counts, of equals the later one.

    `broker` and `store` are URLs, or opened-by-nobody objects for tests; without them SAGA_BROKER_URL and SAGA_STORE_URL say.
    `tx` makes what a step's transaction is on, where that is not to be a connection of the toolkit's: an `async_sessionmaker`,
    `engine.connect`, or a pool's `connection` or `acquire` (PostgreSQL). Each plain step then has a transaction of its own.

    `prefix` names the channels on the broker: all agents of a system share it. `limits` bounds waits, batches and leases; `clock` is
    for simulations.

    Nothing is connected before `run` (a process of its own), `serving` (inside another program) or `client` (only starts and
    asks). One object is opened once at a time. Starting sagas, asking and completing steps need it open, and raise
    ConfigurationError when it is not. A URL whose adapter or client library is missing raises AdapterNotInstalled when it is opened.
    """

    def __init__(
        self,
        name: str,
        saga: Choreography | str | Iterable[Choreography | str],
        *,
        broker: str | Broker = "",
        store: str | WholeStore = "",
        prefix: str = "saga",
        limits: Limits | None = None,
        clock: Clock | None = None,
        release: int = 0,
        tx: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
    ) -> None:
        self.name = checked_name("service", name)
        self._sagas = (saga,) if isinstance(saga, Choreography | str) else tuple(saga)
        for one in self._sagas:
            if isinstance(one, str):
                checked_name("choreography", one)
        self._release = release
        self._tx = tx
        self._declarations = Declarations(name)
        self._broker = broker
        self._store = store
        self._prefix = prefix
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._callbacks: list[OnOutcome] = []
        self._plain: list[PlainStart] = []
        self._part: Part | None = None
        self._session: Session | None = None

    @property
    def declarations(self) -> Declarations:
        """The steps declared so far."""
        return self._declarations

    def configure(self, *, broker: str | Broker = "", store: str | WholeStore = "", limits: Limits | None = None) -> None:
        """Replace what the agent was made with; what is not given stays. For agents made at import, before they are opened."""
        if self._session is not None:
            raise ConfigurationError(f"agent {self.name!r} is open; configure it before it runs")
        self._broker = broker or self._broker
        self._store = store or self._store
        self._limits = limits or self._limits

    def on_outcome(self, callback: Callback) -> Callback:
        """Call this `async def` with a `SagaOutcome` when a saga with a step of this service, or started by it, has ended. At least once:
        it is called again if it raises or takes too long (up to ten times), and may be called again after a crash."""
        check_callback(callback)
        self._callbacks.append(callback)
        return callback

    def starts_on(self, event: type[Started], *, key: Callable[[Started], str], choreography: str = "") -> None:
        """Start a saga from each plain event that a service without an agent publishes on the channel of this start event: a JSON
        object, with or without CloudEvents headers. `key` makes its business key: an event that comes twice starts one saga. One that
        does not fit, or has the key of another, is quarantined; `choreography` is as for `start_saga`."""
        self._declarations.check_open("starts_on")
        self._plain.append(PlainStart(event, key, choreography))

    @property
    def plain_events(self) -> tuple[str, ...]:
        """Names of the events that sagas start from when they come without a saga."""
        return tuple(sorted({one.model.event.name for one in self._plain}))

    @property
    def choreographies(self) -> tuple[Choreography, ...]:
        """The shared choreographies it takes part in."""
        return tuple(one for one in self._sagas if isinstance(one, Choreography) and not one.is_open)

    @property
    def open_choreography(self) -> Choreography | None:
        """The one to be assembled, as far as this agent says it: its name, at the origin also start and participants."""
        opened = (one for one in self._sagas if isinstance(one, str) or one.is_open)
        return next((Choreography(one) if isinstance(one, str) else one for one in opened), None)

    @property
    def prefix(self) -> str:
        return self._prefix

    @property
    def limits(self) -> Limits:
        return self._limits

    def own_steps(self) -> tuple[ChoreographyStep, ...]:
        """The steps it announces for the choreography to be assembled. Raises DefinitionError."""
        return own_steps(self._declarations, self.choreographies).definitions()

    def freeze(self) -> Catalog:
        """Check everything that is declared and bind handlers to steps. Raises DefinitionError with all faults at once."""
        if self._part is None:
            part = freeze(self._declarations, self._sagas, self._release, own_transactions=self._tx is not None)
            check_plain(part, self._plain)
            part.plain = self.plain_events
            self._part, self._declarations.is_closed = part, True
        plans = [plan_of(form) for form in self._part.shared]
        fits = [self._part.fit(plan.choreography) for plan in plans]
        return Catalog(
            self.name, [Known(plan, plan.owned_by(self.name), fit.handlers) for plan, fit in zip(plans, fits, strict=True)]
        )

    def _new_session(self) -> Session:
        if self._session is not None:
            raise ConfigurationError(f"agent {self.name!r} is open already; one object serves once at a time")
        self.freeze()  # what is declared wrongly is said first
        settings = read_settings(os.environ)
        broker = self._made(self._broker or settings.broker_url, "broker", "nats://127.0.0.1:4222", self._make_broker)
        store = self._made(self._store or settings.store_url, "store", "sqlite:///payment.db", self._make_store)
        session = self.session_on(store, broker, self._clock, self._limits)
        session.declares = settings.declare
        return session

    def session_on(self, store: WholeStore, broker: Broker, clock: Clock, limits: Limits) -> Session:
        """A run of these steps and callbacks on parts that somebody else made, beside this object: for simulations, which have
        several of one agent, and kill them. Raises DefinitionError."""
        catalog = self.freeze()
        assert self._part is not None
        session = Session(self._part, catalog, store, broker, clock, limits, self._callbacks)
        if self._plain:
            session.consumer.handle = PlainStarts(session, self._plain, session.consumer.handle).handle
        return session

    def _make_broker(self, url: str) -> Broker:
        return make_broker(url, prefix=self._prefix)

    def _make_store(self, url: str) -> WholeStore:
        if self._tx is None:
            return make_store(url)
        if not url.startswith("postgres"):
            raise ConfigurationError(
                f"agent {self.name!r} has tx=..., which makes sessions or connections of PostgreSQL, and its store is {redacted(url)!r}; "
                "leave tx=... out, or give it a postgresql:// store"
            )
        return make_store(url, tx=self._tx)

    def _made(self, given: Any, kind: str, example: str, make: Callable[[str], Any]) -> Any:
        if not given:
            raise ConfigurationError(f"agent {self.name!r} has no {kind}; pass {kind}={example!r} or set SAGA_{kind.upper()}_URL")
        return make(given) if isinstance(given, str) else given

    async def run(self, *, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set, then finish or hand back what is under way. Waits for a broker or store that cannot be
        reached, and says so; raises ConfigurationError and DefinitionError at once, and StopCutShort when something would not
        end within `Limits.stop_grace_s` and was left behind."""
        stop = stop or asyncio.Event()
        session = self._new_session()
        try:
            if await session.open(serves=True, stop=stop):
                self._session = session
                await session.serve(stop)
        finally:
            self._session = None
            await session.close()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Agent]:
        """Serve in the background of this block, for instance inside a web application's life span. Opening raises what keeps it
        from working, an unreachable broker or store too; leaving the block stops as `run` does."""
        session, stop = self._new_session(), asyncio.Event()
        try:
            await session.open(serves=True)
            self._session = session
            serving = asyncio.create_task(session.serve(stop))
            try:
                yield self
            finally:
                stop.set()
                await serving
        finally:
            self._session = None
            await session.close()

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Agent]:
        """Start sagas, ask after them and complete pending steps, without working on any: for a process beside the agent, on
        the same store. Its steps run in the agent's process."""
        session = self._new_session()
        try:
            await session.open(serves=False)
            self._session = session
            watching = asyncio.create_task(session.watch_only())
            try:
                yield self
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            await session.settle()
        finally:
            self._session = None
            await session.close()

    def _opened(self) -> Session:
        if self._session is None:
            raise ConfigurationError(
                f"agent {self.name!r} is not open; use it inside `async with agent.client():` (or `agent.serving()`), or while it runs"
            )
        return self._session

    async def ready(self, timeout_s: float = 10.0) -> None:
        """Wait until every owner of every choreography has announced that it can take part. Raises NotReady, DefinitionMismatch."""
        session = self._opened()
        if session.serves:
            await session.epochs.require_clear(timeout_s)
        for known in session.catalog.given:
            await session.directory.require(known.plan, timeout_s)
        if session.part.assembles is not None:
            await session.directory.assembled(timeout_s)

    def breakers(self) -> dict[str, BreakerView]:
        """The circuit breakers of this process, by step. Empty while the agent does not run: then there are none."""
        return {} if self._session is None else self._session.gates.breakers()

    def health(self) -> Health:
        """How this process is: a snapshot from memory, which asks neither store nor broker and never raises."""
        return health_of(self._session)

    async def start_saga(
        self,
        event: Event,
        *,
        key: str = "",
        tx: Any = None,
        deadline: timedelta | None = None,
        choreography: str = "",
    ) -> SagaHandle:
        """Start a saga with its first event.

        `tx` is the caller's own open connection or transaction: the saga exists if and only if the caller commits; await
        `handle.published()` afterwards to publish at once. `key` is the user's business key: the same key with the same
        payload gives the same saga; with another payload KeyConflict. `deadline` replaces the choreography's own; `choreography`
        names one where several start with this event.

        Raises NotReady while some owner has not announced the definition, Overloaded (a NotReady) while too much is under way,
        DefinitionMismatch when an owner has announced another definition, DefinitionError for an event that starts nothing here or a
        choreography that is not well-formed as it is assembled (with all findings), ValueError for a deadline that is over or beyond
        the horizon, ResultTooLarge.
        """
        session = self._opened()
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        parent = carrier.get("traceparent", "")
        trace = f"{parent}\n{carrier.get('tracestate', '')}" if parent else ""
        what = Start(event=event, key=key, deadline=deadline, trace=trace)
        wait_s = session.limits.ready_timeout_s if tx is None else 0.0
        return await start(session, await started_by(session, event.event, choreography, wait_s), what, tx, wait_s)

    def saga(self, id_or_key: UUID | str) -> SagaHandle:
        """A saga by its id, or by the business key it was started with here. Nothing is looked up yet: the handle's methods
        (`state`, `view`, `wait`, `cancel`) raise SagaNotFound for one that is not known."""
        session = self._opened()
        if isinstance(id_or_key, UUID):
            return SagaHandle(session, id_or_key)
        try:
            return SagaHandle(session, UUID(id_or_key))
        except ValueError:
            return SagaHandle(session, None, id_or_key)

    async def complete_step(self, token: str, answer: object = None) -> None:
        """Finish a step that returned `Pending()`: `token` is its `ctx.token`, `answer` what the handler would have returned, or a
        `Reject`. From any process with this agent open. The same answer again is accepted until the saga has ended.

        Raises Refused (not the token of a step that waits for this answer), DefinitionError (not what the step is declared to
        publish), SagaNotFound, ResultTooLarge.
        """
        await complete(self._opened(), token, answer)

    async def decline_step(self, token: str, reason: str) -> None:
        """The outside says no to a pending step: as when its handler raises Reject. Raises Refused, SagaNotFound."""
        await decline(self._opened(), token, reason)

    async def parked_steps(self, *, choreography: str = "", limit: int = 50) -> list[ParkedStep]:
        """Steps of this service that wait for a person, of the newest sagas first; `resolve_step` says the word."""
        return await parked_steps(self._opened().store, service=self.name, choreography=choreography, limit=limit)

    @property
    def dead_letters(self) -> DeadLetters:
        """Dead letters of this service: quarantined messages and parked steps, to be looked at, replayed and put aside."""
        session = self._opened()
        return DeadLetters(session.store, self.name, clock=session.clock, limits=session.limits)

    async def stuck(self, *, longer_than: timedelta = timedelta(minutes=1), limit: int = 50) -> StuckSagas:
        """Sagas in which nothing has changed here for so long, those that wait longest first: for what, from whom, since when, and
        why. This service knows its own steps only; while it is open it hears which other services have a live agent. `further` of the
        answer says what was not looked at, if anything."""
        session = self._opened()
        now_ms, heard = session.clock.time_ns() // 1_000_000, session.directory.signs.heard()
        longer_ms = int(1000 * longer_than.total_seconds())
        return await stuck_sagas(session.store, now_ms, longer_ms, service=self.name, heard=heard, limit=limit)

    async def resolve_step(
        self,
        id_or_key: UUID | str,
        step: str,
        verb: str,
        *,
        operator: str,
        reason: str,
        event: Event | Published | list[Event | Published] | None = None,
    ) -> StepState:
        """A person's word on a parked step of this service: 'retry', 'take', 'give_back', 'done', 'fail' or 'waive'; which of them can
        be said now is in `parked_steps()`. `done` of a step that publishes takes what it has published. Who said it, when and why is
        kept with the step. Returns the step's state after it.

        Raises Refused (with what is possible), SagaNotFound, ResultTooLarge.
        """
        session, handle = self._opened(), self.saga(id_or_key)
        view = await handle.view()
        row = await resolve(session.store, view.saga_id, step, verb, operator=operator, reason=reason, event=event)
        known = session.catalog.get(view.definition)
        plan = None if known is None else next((one for one in known.plan.steps if one.name == step), None)
        return step_state(row, plan)

    async def sagas(self, *, state: SagaState | str | None = None, choreography: str = "", limit: int = 50) -> list[SagaView]:
        """Sagas this service knows, newest first: started here, or with a step here. It knows its own steps of them only. With
        `state` at most the newest 10,000 are looked at."""
        session, wanted, limit = self._opened(), None if state is None else state_named(state), max(limit, 1)
        views: list[SagaView] = []
        before: UUID | None = None
        for _ in range(0, _LOOKED_AT_MAX, limit):
            asked = SagaFilter(service=self.name, choreography=choreography, limit=limit, before=before)
            groups = await session.store.sagas(asked)
            for records in groups:
                known = session.catalog.get(records[0].definition)
                view = view_of(records, known.plan if known else None)
                if wanted is None or view.state is wanted:
                    views.append(view)
            if len(groups) < limit or len(views) >= limit:
                break
            before = groups[-1][0].saga_id
        return views[:limit]
