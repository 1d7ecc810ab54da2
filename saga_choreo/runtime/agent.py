"""The agent: what a participant service declares, and runs beside or inside itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from opentelemetry import propagate

from saga_choreo.core.graph import plan_of
from saga_choreo.core.wellformed import findings
from saga_choreo.errors import ConfigurationError, DefinitionError
from saga_choreo.model.choreography import Choreography, checked_name
from saga_choreo.model.event import Event
from saga_choreo.model.states import SagaState
from saga_choreo.ports.broker import Broker
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import SagaFilter
from saga_choreo.runtime.catalog import Catalog, Known
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.declarations import Declarations, StepDecorators
from saga_choreo.runtime.outside import complete, decline
from saga_choreo.runtime.parked import ParkedStep, parked_steps
from saga_choreo.runtime.plugins import WholeStore, make_broker, make_store
from saga_choreo.runtime.sagas import SagaHandle, Start, start
from saga_choreo.runtime.session import OnOutcome, Session
from saga_choreo.runtime.settings import read_settings
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.views import SagaView, view_of

__all__ = ["Agent"]

Callback = TypeVar("Callback", bound=OnOutcome)
# How many sagas are looked at to find those in a wanted state.
_LOOKED_AT_MAX = 10_000


class Agent(StepDecorators):
    """One participant's agent.

    `saga` is the choreography (or several) it takes part in. `broker` and `store` are URLs, or opened-by-nobody objects for
    tests; without them SAGA_BROKER_URL and SAGA_STORE_URL say. Nothing is connected before `run`, `serving` or `client`.
    """

    def __init__(
        self,
        name: str,
        saga: Choreography | Iterable[Choreography],
        *,
        broker: str | Broker = "",
        store: str | WholeStore = "",
        prefix: str = "saga",
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        if isinstance(saga, str):
            raise DefinitionError(
                f"agent {name!r} was given the name {saga!r} instead of a choreography; pass the shared Choreography object: "
                f"Agent({name!r}, saga=order_processing)"
            )
        self.name = checked_name("service", name)
        self.choreographies: tuple[Choreography, ...] = (saga,) if isinstance(saga, Choreography) else tuple(saga)
        self._declarations = Declarations(name)
        self._broker = broker
        self._store = store
        self._prefix = prefix
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._callbacks: list[OnOutcome] = []
        self._catalog: Catalog | None = None
        self._session: Session | None = None

    @property
    def declarations(self) -> Declarations:
        return self._declarations

    def configure(self, *, broker: str | Broker = "", store: str | WholeStore = "", limits: Limits | None = None) -> None:
        """Replace what the agent was made with; what is not given stays. For agents made at import, before they are opened."""
        if self._session is not None:
            raise ConfigurationError(f"agent {self.name!r} is open; configure it before it runs")
        self._broker = broker or self._broker
        self._store = store or self._store
        self._limits = limits or self._limits

    def on_outcome(self, callback: Callback) -> Callback:
        """Call this with a `SagaOutcome` when a saga with a step of this service, or started by it, has ended. At least once:
        it is called again if it raises, and may be called again after a crash."""
        self._callbacks.append(callback)
        return callback

    def freeze(self) -> Catalog:
        """Check everything that is declared and bind handlers to steps. Raises DefinitionError with all faults at once."""
        if self._catalog is None:
            faults = [fault for choreography in self.choreographies for fault in _faults(choreography)]
            handlers: list[dict[int, BoundStep]] = []
            for choreography in self.choreographies:
                try:
                    handlers.append(self._bind(choreography))
                except DefinitionError as error:
                    faults += error.findings or (str(error),)
            if not self.choreographies:
                faults.append("it takes part in no choreography; pass saga=...")
            if faults:
                listed = "".join(f"\n  - {fault}" for fault in faults)
                raise DefinitionError(f"agent {self.name!r} cannot start; {len(faults)} to correct:{listed}", faults)
            plans = [plan_of(choreography) for choreography in self.choreographies]
            self._catalog = Catalog(
                self.name, [Known(plan, plan.owned_by(self.name), bound) for plan, bound in zip(plans, handlers, strict=True)]
            )
        return self._catalog

    def _bind(self, choreography: Choreography) -> dict[int, BoundStep]:
        """Handlers by step number. A handler that is in none of several choreographies is complained of with the first."""
        everywhere = {step.name for one in self.choreographies for step in one.steps}
        here = {step.name for step in choreography.steps}
        part = Declarations(self.name)
        is_first = choreography is self.choreographies[0]
        part.steps = [s for s in self._declarations.steps if s.name in here or (is_first and s.name not in everywhere)]
        bound = {one.definition.name: one for one in part.freeze(choreography)}
        return {number: bound[step.name] for number, step in enumerate(choreography.steps) if step.name in bound}

    def _new_session(self) -> Session:
        if self._session is not None:
            raise ConfigurationError(f"agent {self.name!r} is open already; one object serves once at a time")
        catalog = self.freeze()
        settings = read_settings(os.environ)
        broker = self._made(self._broker or settings.broker_url, "broker", "nats://127.0.0.1:4222", self._make_broker)
        store = self._made(self._store or settings.store_url, "store", "sqlite:///payment.db", make_store)
        return Session(self.name, catalog, store, broker, self._clock, self._limits, self._callbacks)

    def _make_broker(self, url: str) -> Broker:
        return make_broker(url, prefix=self._prefix)

    def _made(self, given: Any, kind: str, example: str, make: Callable[[str], Any]) -> Any:
        if not given:
            raise ConfigurationError(f"agent {self.name!r} has no {kind}; pass {kind}={example!r} or set SAGA_{kind.upper()}_URL")
        return make(given) if isinstance(given, str) else given

    async def run(self, *, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set, then finish or hand back what is under way. Waits for a broker or store that cannot be
        reached, and says so; raises ConfigurationError and DefinitionError at once."""
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
        """Serve in the background of this block, for instance inside a web application's life span."""
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
        """Start sagas and ask after them, without working on any: for a process beside the agent, on the same store."""
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
        for known in session.catalog.all():
            await session.directory.require(known.plan, timeout_s)

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
        payload gives the same saga; with another payload KeyConflict. Raises NotReady while some owner has not announced
        the definition, DefinitionError for an event that starts nothing here, ResultTooLarge.
        """
        session = self._opened()
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        parent = carrier.get("traceparent", "")
        trace = f"{parent}\n{carrier.get('tracestate', '')}" if parent else ""
        what = Start(event=event, key=key, deadline=deadline, trace=trace)
        return await start(session, self._started_by(session, event, choreography), what, tx)

    def _started_by(self, session: Session, event: Event, name: str) -> Known:
        found = [known for known in session.catalog.all() if known.plan.choreography.start == event.event]
        found = [known for known in found if not name or known.plan.choreography.name == name]
        if len(found) == 1:
            return found[0]
        starts = ", ".join(sorted(f"{k.plan.choreography.name} ({k.plan.choreography.start})" for k in session.catalog.all()))
        advice = "name one with choreography=..." if found else f"start events here: {starts}"
        raise DefinitionError(f"event {str(event.event)!r} starts {len(found)} choreographies of agent {self.name!r}; {advice}")

    def saga(self, id_or_key: UUID | str) -> SagaHandle:
        """A saga by its id, or by the business key it was started with here."""
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
        """Steps of this service that wait for a person, of the newest sagas first. `saga-choreo steps` resolves them."""
        return await parked_steps(self._opened().store, service=self.name, choreography=choreography, limit=limit)

    async def sagas(self, *, state: SagaState | str | None = None, choreography: str = "", limit: int = 50) -> list[SagaView]:
        """Sagas this service knows, newest first: started here, or with a step here."""
        session, wanted = self._opened(), None if state is None else SagaState(state)
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


def _faults(choreography: Choreography) -> list[str]:
    return [f"{finding.code}: {finding.message}" for finding in findings(choreography)]
