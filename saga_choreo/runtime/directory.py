"""Who holds which definition: announced on the `defs` channel, remembered in the store, asked before a saga starts.

A saga is started only once every owner has announced, at least once, that it holds this very definition and has bound its
channels; so no event can be published before all its readers are bound. Four kinds of notices:

    define.<hash>                    the canonical bytes of a definition
    steps.<choreography>.<service>   a participant's own steps; the origin of an open choreography assembles them, and pins
                                     what comes of it: it is in its store and on `define` before a saga starts with it
    holds.<hash>.<service>           this service can work on sagas of this definition
    alive.<service>                  an agent of this service was there at that time; see `alive`
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

import orjson

from saga_choreo.core.graph import Plan
from saga_choreo.errors import DefinitionError, DefinitionMismatch, NotReady, SagaError
from saga_choreo.model.choreography import Choreography
from saga_choreo.ports.broker import Broker, Notice
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import Reader
from saga_choreo.runtime.alive import WORD, Sign, Signs, alive_notice, read_alive
from saga_choreo.runtime.assembly import Announcement, Assembly
from saga_choreo.runtime.catalog import Catalog, Known
from saga_choreo.runtime.learning import Learned, Learning
from saga_choreo.runtime.part import Part

__all__ = ["Directory"]

_log = logging.getLogger("saga_choreo.directory")
_COMPLAINTS_MAX = 1_000
_TRY_AGAIN_FIRST_S = 0.2
_TRY_AGAIN_MAX_S = 5.0
# Whoever needs a notice that was lost waits for so long at most; a notice costs a broker nothing worth counting.
_AGAIN_S = 40.0
_GREETED_WITHIN_S = 0.5


class Directory:
    """`learnt` is called after every definition that is new here."""

    def __init__(
        self, part: Part, catalog: Catalog, broker: Broker, reader: Reader, clock: Clock, learnt: Callable[[], None]
    ) -> None:
        self._part = part
        self._catalog = catalog
        self._broker = broker
        self._reader = reader
        self._clock = clock
        self._learnt = learnt
        self._learning = Learning(part, catalog, reader)
        self._assembly = Assembly(part.assembles) if part.assembles is not None else None
        self._pinned = ""
        self._agent = ""
        self._said_to_hold: set[str] = set()
        # What any agent of this service announced last, by choreography.
        self._last_steps: dict[str, Announcement] = {}
        self._holders: dict[str, set[str]] = {}
        # (choreography, version) -> definitions seen under it -> services that hold each.
        self._seen: dict[tuple[str, int], dict[str, set[str]]] = {}
        self._forms: dict[str, Choreography] = {}
        self._complained: set[tuple[str, str]] = set()
        self._news = asyncio.Event()
        self._newcomer = asyncio.Event()
        self.signs = Signs(part.service, clock)
        # What is told of stores: not for the directory, but there is one listener to the channel.
        self.on_epoch: Callable[[Notice], None] = lambda _notice: None

    async def recall(self) -> None:
        """What earlier processes have learnt: no waiting after a restart."""
        await self._learning.recall()
        for known in self._catalog.all():
            self._forms[known.plan.definition] = known.plan.choreography
            self._holders[known.plan.definition] = set(await self._reader.holders(known.plan.definition))

    async def remember_own(self, holders: tuple[str, ...]) -> None:
        for known in self._catalog.given:
            await self._reader.remember(known.plan.definition, known.plan.choreography.canonical_bytes, holders)
            self._holders.setdefault(known.plan.definition, set()).update(holders)

    async def announce(self, agent: str) -> None:
        """Say, after the channels are bound, which steps this service has and which definitions it holds."""
        self._agent = agent
        for known in self._catalog.given:
            form = known.plan.choreography
            await self._broker.notify(Notice(f"define.{form.definition}", form.canonical_bytes))
            await self._say_it_holds(form)
        for name in self._part.announced():
            await self._announce_steps(name)
        await self._announce_plain()

    async def _announce_plain(self) -> None:
        for event in self._part.plain:
            body = {"event": event, "service": self._part.service}
            await self._broker.notify(Notice(f"plain.{event}.{self._part.service}", orjson.dumps(body)))

    async def announce_for_ever(self) -> None:
        """A `defs` channel that was lost and declared again holds nothing, and whoever starts after that would know of nobody."""
        while True:
            await self._clock.sleep(_AGAIN_S * (0.75 + 0.5 * self._clock.chance()))
            try:
                await self._announce_again()
            except SagaError as error:
                _log.info("could not announce again: %s", error)

    async def _announce_again(self) -> None:
        """What is in the channel is replaced by the same. Steps that another release of this service has announced stay."""
        forms = [known.plan.choreography for known in self._catalog.given]
        pinned = self._forms.get(self._pinned)
        for form in (*forms, *([pinned] if pinned is not None else ())):
            await self._broker.notify(Notice(f"define.{form.definition}", form.canonical_bytes))
        for definition in tuple(self._said_to_hold):
            known = self._catalog.get(definition)
            if known is not None:
                await self._broker.notify(self._it_holds(known.plan.choreography))
        for name in self._part.announced():
            last, mine = self._last_steps.get(name), self._own_steps(name)
            if last is None or replace(last, agent=mine.agent).notice() == mine.notice():
                await self._broker.notify(mine.notice())
        await self._announce_plain()

    async def _announce_steps(self, name: str) -> None:
        await self._broker.notify(self._own_steps(name).notice())

    def _own_steps(self, name: str) -> Announcement:
        opened = self._part.assembles
        return Announcement(
            choreography=name,
            service=self._part.service,
            steps=self._part.announced()[name],
            start=opened.start if opened is not None and opened.name == name else None,
            agent=self._agent,
            release=self._part.release,
        )

    async def _say_it_holds(self, form: Choreography) -> None:
        if form.definition not in self._said_to_hold:
            await self._broker.notify(self._it_holds(form))
            self._said_to_hold.add(form.definition)

    def _it_holds(self, form: Choreography) -> Notice:
        body = {
            "service": self._part.service,
            "agent": self._agent,
            "definition": form.definition,
            "choreography": form.name,
            "version": form.version,
        }
        return Notice(f"holds.{form.definition}.{self._part.service}", orjson.dumps(body))

    async def beat(self, agent: str, every_s: float) -> None:
        """Say that an agent of this service is there."""
        sign = Sign(self._clock.time_ns() // 1_000_000, int(1000 * every_s))
        await self._broker.notify(alive_notice(self._part.service, agent, sign))

    async def beat_for_ever(self, agent: str, every_s: float) -> None:
        """Now and then, and soon when another agent of this service comes, which is to know of this one. Best effort: a word that does not
        get through is followed by the next one."""
        while True:
            self._newcomer.clear()
            try:
                await self.beat(agent, every_s)
            except SagaError as error:
                _log.debug("the sign of life did not get through: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s * (0.75 + 0.5 * self._clock.chance())):
                    await self._newcomer.wait()
                    await self._clock.sleep(_GREETED_WITHIN_S * self._clock.chance())

    def has_company(self) -> bool:
        """Another agent of this service was there lately."""
        return self.signs.company() > 0

    async def watch(self) -> None:
        """Learn from notices until cancelled."""
        async for notice in self._broker.notices():
            try:
                await self._learn_patiently(notice)
            except (SagaError, ValueError, KeyError, TypeError) as error:
                _log.warning("a notice %r cannot be used: %s", notice.subject, error)
            self._news.set()

    async def _learn_patiently(self, notice: Notice) -> None:
        """A notice comes once: what a store or broker out of reach kept us from learning is tried again before the next one."""
        wait_s = _TRY_AGAIN_FIRST_S
        while True:
            try:
                return await self._learn(notice)
            except SagaError as error:
                if not error.retryable:
                    raise
                _log.warning("learning from notice %r failed and is tried again: %s", notice.subject, error)
            await self._clock.sleep(wait_s * (0.75 + 0.5 * self._clock.chance()))
            wait_s = min(wait_s * 2, _TRY_AGAIN_MAX_S)

    async def _learn(self, notice: Notice) -> None:
        word, _, rest = notice.subject.partition(".")
        if word == "define":
            await self._defined(self._form_of(rest, notice.body))
        elif word == "holds":
            definition, _, service = rest.partition(".")
            body = orjson.loads(notice.body)
            await self._held_by(service, definition, str(body["choreography"]), int(body["version"]))
        elif word == WORD:
            if self.signs.hear(*read_alive(notice), self._agent):
                self._newcomer.set()
            return
        elif word == "plain":
            event, _, service = rest.rpartition(".")
            self._catalog.set_plain(event, service)
        elif word in ("epoch", "epoch-asked"):
            self.on_epoch(notice)
        elif word == "steps" and self._wants_steps(rest):
            said = Announcement.of(notice.body)
            if said.notice().subject != notice.subject:
                raise ValueError(f"it is about {said.notice().subject!r}")
            await self._heard(said)
        for known in self._catalog.given:
            self._complain_of_rivals(known.plan)

    def _form_of(self, definition: str, canonical: bytes) -> Choreography:
        """Every agent tells again what it holds when it starts: bytes that are known are not read a second time."""
        known = self._catalog.get(definition)
        if known is not None and known.plan.choreography.canonical_bytes == canonical:
            return known.plan.choreography
        form = Choreography.from_canonical(canonical)
        if form.definition != definition:
            raise DefinitionError(f"the bytes hash to {form.definition}, the subject says {definition}; another format, or damaged")
        return form

    async def _defined(self, form: Choreography) -> None:
        """An agent with a name only holds what its code fits; with shared objects it holds these."""
        was_known = self._catalog.get(form.definition) is not None or self._catalog.is_foreign(form.definition)
        learned = await self._learning.learn(form)
        if not was_known:
            self._learnt()
        if form.name in self._part.names and learned is not Learned.REFUSED:
            self._forms[form.definition] = form
            self._seen.setdefault((form.name, form.version), {}).setdefault(form.definition, set())
        is_open = self._part.open is not None and self._part.open.name == form.name
        if learned is Learned.WHOLE and is_open and self._agent and self._part.service in form.owners:
            await self._say_it_holds(form)

    async def _held_by(self, service: str, definition: str, choreography: str, version: int) -> None:
        if choreography not in self._part.names:
            return
        self._seen.setdefault((choreography, version), {}).setdefault(definition, set()).add(service)
        if service not in self._holders.setdefault(definition, set()):
            await self._reader.remember(definition, b"", (service,))
            self._holders[definition].add(service)

    def _wants_steps(self, rest: str) -> bool:
        """What others announce matters to the one who assembles it; everybody looks for other releases of its own service."""
        choreography, _, service = rest.partition(".")
        opened = self._part.assembles
        return service == self._part.service or (opened is not None and opened.name == choreography)

    async def _heard(self, said: Announcement) -> None:
        """A lower release of this very service has spoken after us: say ours again, so that new sagas stay with it."""
        is_ours = said.service == self._part.service and said.choreography in self._part.announced()
        if is_ours:
            self._last_steps[said.choreography] = said
        if is_ours and self._agent and said.release < self._part.release:
            await self._announce_steps(said.choreography)
            return
        opened = self._part.assembles
        if self._assembly is None or opened is None or said.choreography != opened.name:
            return
        if said.service not in opened.participants:
            if (said.choreography, said.service) not in self._complained and len(self._complained) < _COMPLAINTS_MAX:
                self._complained.add((said.choreography, said.service))
                _log.warning(
                    "service %r announces steps of choreography %r and is not in its participants=..., so they are left out; add it there",
                    said.service,
                    said.choreography,
                )
            return
        if not self._assembly.hear(said):
            return
        problem = self._assembly.problem()
        if isinstance(problem, DefinitionError):
            _log.error("%s", problem)
        await self._pin()

    async def _pin(self) -> None:
        """Keep and publish the newest assembled definition, so that no saga can start with one that could get lost."""
        form = self._assembly.form if self._assembly is not None else None
        if form is None or form.definition == self._pinned:
            return
        await self._defined(form)
        await self._broker.notify(Notice(f"define.{form.definition}", form.canonical_bytes))
        self._pinned = form.definition
        _log.info("choreography %r version %d is assembled: definition %s", form.name, form.version, form.definition)

    async def assembled(self, wait_s: float) -> Known:
        """The newest assembled definition, once every participant holds it. Raises NotReady (who is missing), DefinitionError
        (all findings)."""
        assert self._assembly is not None, "asked only of an agent that assembles"
        give_up = self._clock.monotonic() + wait_s
        while True:
            self._news.clear()
            await self._pin()
            form, problem = self._assembly.form, self._assembly.problem()
            known = self._catalog.get(form.definition) if form is not None else None
            if known is not None:
                missing = self.missing(known.plan)
                if not missing:
                    return known
                problem = _not_held(known.plan, missing)
            if not await self._wait_for_news(give_up):
                raise problem or NotReady("the assembled definition is not known here; the log says why")

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
            if not await self._wait_for_news(give_up):
                raise self._refusal(plan, missing)

    async def _wait_for_news(self, give_up: float) -> bool:
        """False when the time is over."""
        left = give_up - self._clock.monotonic()
        if left <= 0:
            return False
        try:
            async with asyncio.timeout(min(left, 1.0)):
                await self._news.wait()
        except TimeoutError:
            pass
        return True

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


def _not_held(plan: Plan, missing: tuple[str, ...]) -> NotReady:
    form = plan.choreography
    return NotReady(
        f"choreography {form.name!r} version {form.version} is assembled, and cannot be started yet: no agent of "
        f"{', '.join(map(repr, missing))} has announced that it holds definition {form.definition}; if it runs, its log says why"
    )
