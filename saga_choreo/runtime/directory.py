"""Who holds which definition: announced on the `defs` channel, remembered in the store, asked before a saga starts.

A saga is started only once every owner has announced, at least once, that it holds this very definition and has bound its
channels; so no event can be published before all its readers are bound.
"""

from __future__ import annotations

import asyncio
import logging

import orjson

from saga_choreo.core.graph import Plan
from saga_choreo.errors import DefinitionError, DefinitionMismatch, NotReady, SagaError
from saga_choreo.model.choreography import Choreography
from saga_choreo.ports.broker import Broker, Notice
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import Reader
from saga_choreo.runtime.catalog import Catalog

__all__ = ["Directory"]

_log = logging.getLogger("saga_choreo.directory")


class Directory:
    def __init__(self, catalog: Catalog, broker: Broker, reader: Reader, clock: Clock) -> None:
        self._catalog = catalog
        self._broker = broker
        self._reader = reader
        self._clock = clock
        self._holders: dict[str, set[str]] = {}
        # (choreography, version) -> definitions seen under it -> services that hold each.
        self._seen: dict[tuple[str, int], dict[str, set[str]]] = {}
        self._forms: dict[str, Choreography] = {}
        self._complained: set[tuple[str, str]] = set()
        self._news = asyncio.Event()

    async def recall(self) -> None:
        """What earlier processes have learnt: no waiting after a restart."""
        for known in self._catalog.all():
            choreography = known.plan.choreography
            self._forms[known.plan.definition] = choreography
            self._holders[known.plan.definition] = set(await self._reader.holders(known.plan.definition))

    async def remember_own(self, holders: tuple[str, ...]) -> None:
        for known in self._catalog.all():
            await self._reader.remember(known.plan.definition, known.plan.choreography.canonical_bytes, holders)
            self._holders.setdefault(known.plan.definition, set()).update(holders)

    async def announce(self, agent: str) -> None:
        """Say, after the channels are bound, that this service holds its definitions."""
        service = self._catalog.service
        for known in self._catalog.all():
            form = known.plan.choreography
            body = {
                "service": service,
                "agent": agent,
                "definition": form.definition,
                "choreography": form.name,
                "version": form.version,
            }
            await self._broker.notify(Notice(f"define.{form.definition}", form.canonical_bytes))
            await self._broker.notify(Notice(f"holds.{form.definition}.{service}", orjson.dumps(body)))

    async def watch(self) -> None:
        """Learn from notices until cancelled."""
        async for notice in self._broker.notices():
            try:
                await self._learn(notice)
            except (SagaError, ValueError, KeyError, TypeError) as error:
                _log.warning("a notice %r cannot be used: %s", notice.subject, error)

    async def _learn(self, notice: Notice) -> None:
        word, _, rest = notice.subject.partition(".")
        if word == "define":
            form = Choreography.from_canonical(notice.body)
            if form.definition != rest:
                raise DefinitionError(f"the bytes hash to {form.definition}, the subject says {rest}; another format, or damaged")
            self._forms[rest] = form
            self._seen.setdefault((form.name, form.version), {}).setdefault(rest, set())
        elif word == "holds":
            definition, _, service = rest.partition(".")
            body = orjson.loads(notice.body)
            key = (str(body["choreography"]), int(body["version"]))
            self._seen.setdefault(key, {}).setdefault(definition, set()).add(service)
            if service not in self._holders.setdefault(definition, set()):
                self._holders[definition].add(service)
                await self._reader.remember(definition, b"", (service,))
        for known in self._catalog.all():
            self._complain_of_rivals(known.plan)
        self._news.set()

    def _complain_of_rivals(self, plan: Plan) -> None:
        """Another agent holds the same choreography and version with other contents: say what differs, once each."""
        form = plan.choreography
        for definition, services in self._seen.get((form.name, form.version), {}).items():
            for service in services:
                if definition == plan.definition or service not in plan.owners or (definition, service) in self._complained:
                    continue
                if service in self._holders.get(plan.definition, ()):
                    continue  # it holds ours as well (an earlier or later release of it announced the other one)
                self._complained.add((definition, service))
                _log.error("%s", self._difference(plan, definition, service))

    def _difference(self, plan: Plan, definition: str, service: str) -> str:
        form, other = plan.choreography, self._forms.get(definition)
        differing = "contents not known yet"
        if other is not None:
            mine, theirs = ({step.name: step for step in one.steps} for one in (form, other))
            names = [name for name in sorted(mine.keys() | theirs.keys()) if mine.get(name) != theirs.get(name)]
            differing = f"steps that differ: {', '.join(names)}" if names else "the start event differs"
        return (
            f"service {service!r} holds definition {definition} of choreography {form.name!r} version {form.version}, "
            f"this agent holds {plan.definition}; {differing}; deploy the same definition to both, or give the changed one a new version"
        )

    def missing(self, plan: Plan) -> tuple[str, ...]:
        """Owners that have not announced this definition yet."""
        holders = self._holders.get(plan.definition, set())
        return tuple(owner for owner in plan.owners if owner not in holders)

    async def require(self, plan: Plan, wait_s: float) -> None:
        """Wait until every owner holds the definition. Raises NotReady, or DefinitionMismatch when an owner holds another one."""
        give_up = self._clock.monotonic() + wait_s
        while missing := self.missing(plan):
            self._news.clear()
            left = give_up - self._clock.monotonic()
            if left <= 0:
                raise self._refusal(plan, missing)
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _refusal(self, plan: Plan, missing: tuple[str, ...]) -> SagaError:
        form = plan.choreography
        for definition, services in self._seen.get((form.name, form.version), {}).items():
            for service in missing:
                if definition != plan.definition and service in services:
                    return DefinitionMismatch(self._difference(plan, definition, service))
        return NotReady(
            f"choreography {form.name!r} version {form.version} cannot be started yet: no agent of "
            f"{', '.join(map(repr, missing))} has announced definition {form.definition}; start these services and try again"
        )
