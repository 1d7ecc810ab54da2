"""The definitions one agent knows: their plans, and the handlers of the steps its service owns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.core.rows import UNDOS, Duty
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.options import StepOptions

__all__ = ["Catalog", "Known"]

_DEFAULT = StepOptions()


@dataclass(frozen=True, slots=True)
class Known:
    """One definition: its plan, the service's own steps, and their handlers by step number (none for a mere client)."""

    plan: Plan
    own: tuple[StepPlan, ...]
    handlers: Mapping[int, BoundStep] = field(default_factory=dict[int, BoundStep])

    def can(self, step: int, what: Duty) -> bool:
        """Whether the code of this process does that for that step."""
        bound = self.handlers.get(step)
        return bound is not None and (not bound.only_undoes or what in UNDOS)

    def options(self, step: int) -> StepOptions:
        bound = self.handlers.get(step)
        return bound.options if bound else _DEFAULT


# Only the hash is kept of a definition that is none of ours; of one that is pushed out, messages are held again.
_FOREIGN_MAX = 10_000


class Catalog:
    """Definition hash -> what is known of it. `given` are the ones the agent was made with, the others are learnt."""

    def __init__(self, service: str, known: Iterable[Known] = ()) -> None:
        self.service = service
        self.given = tuple(known)
        self._known = {one.plan.definition: one for one in self.given}
        self._foreign: dict[str, None] = {}
        self._fresh: dict[str, None] = {}
        # Event name -> the services that start sagas from plain ones of it.
        self.plain: dict[str, set[str]] = {}

    def add(self, plan: Plan, handlers: Mapping[int, BoundStep] | None = None) -> Known:
        known = Known(plan, plan.owned_by(self.service), handlers or {})
        self._known[plan.definition] = known
        return known

    def get(self, definition: str) -> Known | None:
        return self._known.get(definition)

    def all(self) -> tuple[Known, ...]:
        return tuple(self._known.values())

    def set_foreign(self, definition: str) -> None:
        """No step of this service is in it, and it is not the origin of its sagas."""
        if definition in self._foreign:
            return
        if len(self._foreign) >= _FOREIGN_MAX:
            oldest = next(iter(self._foreign))
            self._foreign.pop(oldest)
            self._fresh.pop(oldest, None)
        self._foreign[definition] = self._fresh[definition] = None

    def is_foreign(self, definition: str) -> bool:
        return definition in self._foreign

    def set_plain(self, event: str, service: str) -> None:
        if event in self.plain or len(self.plain) < _FOREIGN_MAX:
            self.plain.setdefault(event, set()).add(service)

    def leaves_alone(self, event: str) -> bool:
        """A plain event of that name is for other services: not one for this to start a saga from, nor a broken message."""
        services = self.plain.get(event, set())
        return bool(services) and self.service not in services

    def fresh_foreign(self) -> tuple[str, ...]:
        """Foreign definitions whose held messages may not have been dropped yet."""
        return tuple(self._fresh)

    def forget_fresh(self, definitions: Iterable[str]) -> None:
        for definition in definitions:
            self._fresh.pop(definition, None)
