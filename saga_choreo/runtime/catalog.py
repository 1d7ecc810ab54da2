"""The definitions one agent knows: their plans, and the handlers of the steps its service owns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from saga_choreo.core.graph import Plan, StepPlan
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

    def options(self, step: int) -> StepOptions:
        bound = self.handlers.get(step)
        return bound.options if bound else _DEFAULT


class Catalog:
    """Definition hash -> what is known of it."""

    def __init__(self, service: str, known: Iterable[Known] = ()) -> None:
        self.service = service
        self._known = {one.plan.definition: one for one in known}

    def add(self, plan: Plan, handlers: Mapping[int, BoundStep] | None = None) -> Known:
        known = Known(plan, plan.owned_by(self.service), handlers or {})
        self._known[plan.definition] = known
        return known

    def get(self, definition: str) -> Known | None:
        return self._known.get(definition)

    def all(self) -> tuple[Known, ...]:
        return tuple(self._known.values())
