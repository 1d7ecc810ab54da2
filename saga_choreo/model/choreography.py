"""A choreography: which steps there are, who owns them, which events join them.

Choreographies and steps are values with fluent methods: each call returns a new one, so a builder and what it builds are
the same thing. The content hash (`definition`) covers structure, owners, kinds, joins, choices, event names and versions;
not retries, time-outs or code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any

from saga_choreo.errors import DefinitionError
from saga_choreo.model.event import Event, EventRef, event_ref
from saga_choreo.model.record import ORIGIN_NAME

__all__ = ["Choreography", "ChoreographyStep", "Join", "Split", "Undo", "all_of", "any_of", "one_of"]

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
AnyEvent = type[Event] | EventRef | str


class Join(StrEnum):
    """When a step runs, once every in-edge is resolved: all of them done; any of them; any, of branches that exclude each other."""

    ALL = "all"
    ANY = "any"
    ONE = "one"


class Split(StrEnum):
    """What a step publishes of the events it declares: all of them, exactly one (a choice), or a non-empty subset."""

    ALL = "all"
    ONE = "one"
    SOME = "some"


class Undo(StrEnum):
    """How a step is undone: not at all, in a transaction of the participant, or by a call to the outside."""

    NONE = "none"
    LOCAL = "local"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class Reads:
    join: Join
    events: tuple[EventRef, ...]


def all_of(*events: AnyEvent) -> Reads:
    """React when all of these events have come; skipped if a branch that leads to one of them was."""
    return Reads(Join.ALL, tuple(map(event_ref, events)))


def any_of(*events: AnyEvent) -> Reads:
    """React once every branch has either come or been skipped, if at least one came. It is not 'the first wins'."""
    return Reads(Join.ANY, tuple(map(event_ref, events)))


def one_of(*events: AnyEvent) -> Reads:
    """As `any_of`, for branches of a choice that exclude each other; checked when the choreography is."""
    return Reads(Join.ONE, tuple(map(event_ref, events)))


def checked_name(kind: str, name: str) -> str:
    if not _NAME.fullmatch(name) or len(name) > 64 or name == ORIGIN_NAME:
        raise ValueError(
            f"{kind} name {name!r} is not valid; use lower-case letters, digits, '-' and '_', starting with a letter, "
            f"at most 64, and not {ORIGIN_NAME!r}"
        )
    return name


@dataclass(frozen=True, slots=True)
class ChoreographyStep:
    """One step of a choreography. Fluent: every method returns a changed copy."""

    name: str
    owner: str = ""
    join: Join = Join.ANY
    reads: tuple[EventRef, ...] = ()
    split: Split = Split.ALL
    publishes: tuple[EventRef, ...] = ()
    undo: Undo = Undo.NONE
    undo_event: EventRef | None = None
    external: bool = False
    optional: bool = False
    pivot: bool = False
    retriable: bool = False
    read_only: bool = False
    deadline_event: EventRef | None = None

    def __post_init__(self) -> None:
        checked_name("step", self.name)

    def on_event(self, event: AnyEvent | Reads, version: int = 1) -> ChoreographyStep:
        """React to this event, or to `all_of(...)`, `any_of(...)`, `one_of(...)`."""
        reads = event if isinstance(event, Reads) else Reads(Join.ANY, (event_ref(event, version),))
        # Which order the events are named in says nothing, so it must not change the hash.
        return replace(self, join=reads.join, reads=tuple(sorted(set(reads.events))))

    def publish_event(self, *events: AnyEvent, version: int = 1, split: Split = Split.ALL) -> ChoreographyStep:
        """Publish these events: all of them, or with `split` exactly one or some of them."""
        found = tuple(sorted({event_ref(event, version) for event in events}))
        return replace(self, publishes=found, split=split if len(found) > 1 else Split.ALL)

    def with_compensation(self, event: AnyEvent | None = None, version: int = 1, *, external: bool = False) -> ChoreographyStep:
        """The step can be undone; the event, if any, tells the world that it was."""
        undo_event = None if event is None else event_ref(event, version)
        return replace(self, undo=Undo.EXTERNAL if external else Undo.LOCAL, undo_event=undo_event)

    def owned_by(self, service: str) -> ChoreographyStep:
        return replace(self, owner=checked_name("service", service))

    def on_deadline(self, event: AnyEvent, version: int = 1) -> ChoreographyStep:
        """When the step's own deadline passes, this event is published instead of a refusal."""
        return replace(self, deadline_event=event_ref(event, version))

    def kind(
        self,
        *,
        external: bool | None = None,
        optional: bool | None = None,
        pivot: bool | None = None,
        retriable: bool | None = None,
        read_only: bool | None = None,
    ) -> ChoreographyStep:
        """Say the kind of the step; what is not named stays as it is."""
        said = {"external": external, "optional": optional, "pivot": pivot, "retriable": retriable, "read_only": read_only}
        changes: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        return replace(self, **changes)

    @property
    def may_veto(self) -> bool:
        return not self.retriable

    def canonical(self) -> dict[str, Any]:
        """What the hash covers, as plain values; events as [name, version]."""
        return {
            "name": self.name,
            "owner": self.owner,
            "join": self.join.value,
            "reads": [[e.name, e.version] for e in self.reads],
            "split": self.split.value,
            "publishes": [[e.name, e.version] for e in self.publishes],
            "undo": self.undo.value,
            "undo_event": [self.undo_event.name, self.undo_event.version] if self.undo_event else None,
            "kinds": [kind for kind in ("external", "optional", "pivot", "read_only", "retriable") if getattr(self, kind)],
            "on_deadline": [self.deadline_event.name, self.deadline_event.version] if self.deadline_event else None,
        }

    @staticmethod
    def from_canonical(form: dict[str, Any]) -> ChoreographyStep:
        """Read a canonical form back. Raises KeyError, TypeError or ValueError when it is not one."""
        return ChoreographyStep(
            name=form["name"],
            owner=form["owner"],
            join=Join(form["join"]),
            reads=tuple(EventRef(*e) for e in form["reads"]),
            split=Split(form["split"]),
            publishes=tuple(EventRef(*e) for e in form["publishes"]),
            undo=Undo(form["undo"]),
            undo_event=EventRef(*form["undo_event"]) if form["undo_event"] else None,
            deadline_event=EventRef(*form["on_deadline"]) if form["on_deadline"] else None,
            **dict.fromkeys(form["kinds"], True),
        )


@dataclass(frozen=True)
class Choreography:
    """A graph of steps with a name and a version. Fluent: every method returns a changed copy; steps are kept sorted by name.

    With `participants` and no steps it is open: its steps are those that these services announce.
    """

    name: str
    version: int = 1
    start: EventRef | None = None
    steps: tuple[ChoreographyStep, ...] = ()
    deadline_after: timedelta | None = field(default=None, compare=False)
    participants: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        checked_name("choreography", self.name)
        if self.version < 1:
            raise ValueError(f"choreography {self.name!r} has version {self.version!r}; versions start at 1")

    def starts_with(self, event: AnyEvent, version: int = 1, *, participants: Iterable[str] = ()) -> Choreography:
        """The event that starts a saga. `participants` closes the set of services whose announced steps make up a
        choreography that has no steps here."""
        closed = frozenset(checked_name("service", service) for service in participants)
        return replace(self, start=event_ref(event, version), participants=closed)

    @property
    def is_open(self) -> bool:
        """Its steps are to be announced by its participants."""
        return bool(self.participants) and not self.steps

    def step(self, *steps: ChoreographyStep) -> Choreography:
        """Add steps. Raises DefinitionError when a step of that name is there already."""
        names = {s.name for s in self.steps}
        for step in steps:
            if step.name in names:
                raise DefinitionError(
                    f"choreography {self.name!r} has two steps named {step.name!r}; give each step a name of its own"
                )
            names.add(step.name)
        return replace(self, steps=tuple(sorted((*self.steps, *steps), key=lambda s: s.name)))

    def deadline(self, after: timedelta | None = None, *, hours: float = 0, minutes: float = 0, seconds: float = 0) -> Choreography:
        """How long after its start a saga may run before it is aborted (where it still can be)."""
        total = after if after is not None else timedelta(hours=hours, minutes=minutes, seconds=seconds)
        if total <= timedelta(0):
            raise ValueError(f"choreography {self.name!r} has the deadline {total!r}; it must be longer than zero")
        return replace(self, deadline_after=total)

    def canonical(self) -> dict[str, Any]:
        return {
            "format": 1,
            "name": self.name,
            "version": self.version,
            "start": [self.start.name, self.start.version] if self.start else None,
            "owner_of_source_and_sink": ORIGIN_NAME,
            "steps": [step.canonical() for step in self.steps],
        }

    @cached_property
    def canonical_bytes(self) -> bytes:
        """The canonical form: JSON, keys sorted, no spaces, UTF-8."""
        return json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @cached_property
    def definition(self) -> str:
        """Content hash: the first 128 bits of SHA-256 over the canonical form, as 32 hexadecimal digits."""
        return hashlib.sha256(self.canonical_bytes).hexdigest()[:32]

    @cached_property
    def owners(self) -> tuple[str, ...]:
        return tuple(sorted({step.owner for step in self.steps}))

    @staticmethod
    def from_canonical(blob: bytes) -> Choreography:
        """Read a canonical form back. Raises DefinitionError when it is not one."""
        try:
            form = json.loads(blob)
            if form["format"] != 1:
                raise ValueError(f"format {form['format']!r} is not known")
            steps = tuple(ChoreographyStep.from_canonical(s) for s in form["steps"])
            start = EventRef(*form["start"]) if form["start"] else None
            return Choreography(form["name"], form["version"], start, steps)
        except (KeyError, TypeError, ValueError) as exc:
            raise DefinitionError(
                f"a stored or received definition cannot be read: {exc}; it was written by another version"
            ) from exc
