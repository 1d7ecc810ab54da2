"""A choreography put together from announcements, at its origin: who has said what, and what comes of it.

Pure bookkeeping. The last word of each service counts (by release, then by arrival); once every participant has spoken, the
words make one definition, the same value and hash as a shared object that says the same. Sagas that run keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from saga_choreo.core.wellformed import findings
from saga_choreo.errors import DefinitionError, NotReady, SagaError
from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.model.event import EventRef
from saga_choreo.ports.broker import Notice
from saga_choreo.runtime.declare.assemble import assemble

__all__ = ["Announcement", "Assembly"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One service's word on a choreography: its own steps there. `start` is what it starts sagas with, if it does; `agent` is
    the process that speaks; of two releases the higher one counts."""

    choreography: str
    service: str
    steps: tuple[ChoreographyStep, ...]
    start: EventRef | None = None
    agent: str = ""
    release: int = 0

    def notice(self) -> Notice:
        body = {
            "format": 1,
            "choreography": self.choreography,
            "service": self.service,
            "steps": [step.canonical() for step in self.steps],
            "start": None if self.start is None else [self.start.name, self.start.version],
            "agent": self.agent,
            "release": self.release,
        }
        return Notice(f"steps.{self.choreography}.{self.service}", orjson.dumps(body))

    @staticmethod
    def of(body: bytes) -> Announcement:
        """Raises ValueError, KeyError or TypeError on bytes that no version of the toolkit has written."""
        said: Any = orjson.loads(body)
        if said["format"] != 1:
            raise ValueError(f"format {said['format']!r} is not known")
        steps = tuple(ChoreographyStep.from_canonical(form) for form in said["steps"])
        strange = [step.name for step in steps if step.owner != said["service"]]
        if strange:
            raise ValueError(f"service {said['service']!r} announces steps of others: {', '.join(map(repr, strange))}")
        return Announcement(
            choreography=said["choreography"],
            service=said["service"],
            steps=steps,
            start=EventRef(*said["start"]) if said["start"] else None,
            agent=said["agent"],
            release=int(said["release"]),
        )


class Assembly:
    """`form` is the newest definition, or None while a participant is missing or what they say does not go together."""

    def __init__(self, opened: Choreography) -> None:
        self._open = opened
        self._said: dict[str, Announcement] = {}
        self._faults: tuple[str, ...] = ()
        self.form: Choreography | None = None

    def hear(self, said: Announcement) -> bool:
        """Whether this is news: it changes what comes of all words together."""
        known = self._said.get(said.service)
        if said.service not in self._open.participants or (known is not None and said.release < known.release):
            return False
        self._said[said.service] = said
        if known is not None and known.steps == said.steps:
            return False
        self._assemble()
        return True

    @property
    def missing(self) -> tuple[str, ...]:
        """Participants that have not announced their steps yet."""
        return tuple(sorted(self._open.participants - self._said.keys()))

    def problem(self) -> SagaError | None:
        """Why nothing can be started, to be raised."""
        name, version = self._open.name, self._open.version
        if missing := self.missing:
            return NotReady(
                f"choreography {name!r} version {version} cannot be assembled yet: {', '.join(map(repr, missing))} "
                f"{'has' if len(missing) == 1 else 'have'} not announced any step of it; start these services (with "
                f"saga={name!r}), or correct participants=..."
            )
        if self._faults:
            listed = "".join(f"\n  - {fault}" for fault in self._faults)
            return DefinitionError(
                f"choreography {name!r} version {version}, as its participants announce it, is not well-formed; "
                f"{len(self._faults)} to correct:{listed}",
                self._faults,
            )
        return None

    def _assemble(self) -> None:
        self.form, self._faults = None, ()
        if self.missing:
            return
        opened = self._open
        assert opened.start is not None, "only an origin assembles"
        self._faults = tuple(self._collisions())
        if self._faults:
            return
        parts = [self._said[service].steps for service in sorted(self._said)]
        form = assemble(opened.name, opened.version, opened.start, parts, opened.deadline_after)
        self._faults = tuple(map(str, findings(form)))
        self.form = None if self._faults else form

    def _collisions(self) -> Iterator[str]:
        owners: dict[str, list[str]] = {}
        for service in sorted(self._said):
            for step in self._said[service].steps:
                owners.setdefault(step.name, []).append(service)
        for name, services in sorted(owners.items()):
            if len(services) > 1:
                yield f"step {name!r} is announced by {' and by '.join(map(repr, services))}; give each its own name"
