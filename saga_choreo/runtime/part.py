"""What one agent brings along: the steps its code declares, with their handlers, and how they fit a definition.

An agent meets definitions that it was not given: assembled ones, those of an earlier release that its store still has sagas
of, those of a later release that another agent of its service works on. Each is bound by the same rule: a step runs here if
this code declares a step of that name, and declares it just so, but for older versions of events that it can read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.runtime.declare.bind import BoundStep

__all__ = ["Fit", "Part"]


@dataclass(frozen=True, slots=True)
class Fit:
    """Handlers by step number; `misfits` names the service's steps that this code cannot run, and why."""

    handlers: Mapping[int, BoundStep]
    misfits: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return not self.misfits


class Part:
    """`shared` are the choreographies given as objects. `open` is the one to be assembled: of a participant it has a name only,
    of the origin also the start event and the closed set of participants."""

    def __init__(
        self,
        service: str,
        bound: Sequence[BoundStep] = (),
        shared: Sequence[Choreography] = (),
        open_: Choreography | None = None,
        release: int = 0,
    ) -> None:
        self.service = service
        self.shared = tuple(shared)
        self.open = open_
        # Names of events that sagas of this service start from when they come without a saga.
        self.plain: tuple[str, ...] = ()
        self.release = release
        self._bound: dict[str, list[BoundStep]] = {}
        for one in bound:
            self._bound.setdefault(one.definition.name, []).append(one)
        in_shared = {step.name for form in self.shared for step in form.steps}
        self.open_steps = tuple(one.definition for one in bound if one.definition.name not in in_shared)

    @property
    def names(self) -> frozenset[str]:
        """The choreographies it takes part in."""
        return frozenset(form.name for form in (*self.shared, self.open) if form is not None)

    @property
    def assembles(self) -> Choreography | None:
        """The choreography that this agent may start and has to assemble for that."""
        return self.open if self.open is not None and self.open.start is not None else None

    def concerns(self, form: Choreography) -> bool:
        """Whether this service owns a step there, or may be the origin of its sagas."""
        may_start = (one.name for one in (*self.shared, self.assembles) if one is not None)
        return self.service in form.owners or form.name in may_start

    def adopted(self, form: Choreography) -> Choreography:
        """The definition with what only its origin says of it: the deadline is not in the canonical form."""
        mine = next((one for one in (*self.shared, self.assembles) if one is not None and one.name == form.name), None)
        return form if mine is None or mine.deadline_after is None else form.deadline(mine.deadline_after)

    def fit(self, form: Choreography) -> Fit:
        """Bind what can be bound; nothing of a choreography that this agent was not told to take part in."""
        handlers: dict[int, BoundStep] = {}
        misfits: list[str] = []
        is_ours = form.name in self.names
        for number, step in enumerate(form.steps):
            if step.owner != self.service:
                continue
            declared = self._bound.get(step.name, []) if is_ours else []
            bound = next((one for one in declared if one.definition == step), None) or _as_before(step, declared)
            if bound is not None:
                handlers[number] = bound
            if bound is None or bound.only_undoes:
                misfits.append(_misfit(step, declared))
        return Fit(handlers, tuple(misfits))

    @property
    def own_steps(self) -> tuple[ChoreographyStep, ...]:
        """The steps that this code has handlers for."""
        return tuple(one.definition for bound in self._bound.values() for one in bound)

    def announced(self) -> dict[str, tuple[ChoreographyStep, ...]]:
        """Choreography -> the service's steps there, for whoever assembles it. Of a shared one the highest version counts."""
        said: dict[str, tuple[ChoreographyStep, ...]] = {}
        for form in sorted(self.shared, key=lambda one: one.version):
            said[form.name] = tuple(step for step in form.steps if step.owner == self.service)
        if self.open is not None:
            said[self.open.name] = self.open_steps
        return {name: steps for name, steps in said.items() if steps}


def _as_before(step: ChoreographyStep, declared: Sequence[BoundStep]) -> BoundStep | None:
    return next((earlier for one in declared if (earlier := one.as_before(step)) is not None), None)


def _misfit(step: ChoreographyStep, declared: Sequence[BoundStep]) -> str:
    if not declared:
        return f"step {step.name!r} is ours there and has no handler here"
    mine, theirs = declared[0].definition.canonical(), step.canonical()
    differing = ", ".join(f"{what}: {mine[what]!r} here, {theirs[what]!r} there" for what in mine if mine[what] != theirs[what])
    return f"step {step.name!r} is declared otherwise here ({differing})"
