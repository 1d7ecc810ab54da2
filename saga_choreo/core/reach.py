"""Who comes after whom in a choreography that may still be wrong: the plan without what cannot be resolved."""

from __future__ import annotations

from dataclasses import replace

from saga_choreo.core.graph import Plan, StepPlan, plan_of
from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN

__all__ = ["Reach", "published_by", "way_round"]


class Reach:
    """The plan of the choreography without what cannot be resolved, and who comes after whom."""

    def __init__(self, choreography: Choreography) -> None:
        self.choreography = choreography
        # A start nobody reads stands in for a missing one, so that the rest can still be checked.
        start = choreography.start or EventRef("saga.without_start")
        published = published_by(choreography)
        steps = tuple(
            replace(step, reads=tuple(ref for ref in step.reads if ref in published or ref == start)) for step in choreography.steps
        )
        self.plan: Plan = plan_of(replace(choreography, start=start, steps=steps))
        self.steps: tuple[StepPlan, ...] = self.plan.steps
        self.descendants = _closure(self.steps)
        self.order = _topological(self.steps)

    def is_before(self, first: int, second: int) -> bool:
        """Whether the second step is a strict descendant of the first."""
        return first != second and bool(self.descendants[first] >> second & 1)

    def step_of(self, step: StepPlan) -> ChoreographyStep:
        return self.choreography.steps[step.index]


def published_by(choreography: Choreography) -> set[EventRef]:
    found = {ref for step in choreography.steps for ref in step.publishes}
    return found | {step.deadline_event for step in choreography.steps if step.deadline_event is not None}


def _closure(steps: tuple[StepPlan, ...]) -> list[int]:
    """For each step the mask of the steps that can be reached from it."""
    reach = [sum(1 << s for s in step.succs if s != ORIGIN) for step in steps]
    changed = True
    while changed:
        changed = False
        for index in reversed(range(len(steps))):
            wider = reach[index]
            for successor in steps[index].succs:
                if successor != ORIGIN:
                    wider |= reach[successor]
            changed = changed or wider != reach[index]
            reach[index] = wider
    return reach


def _topological(steps: tuple[StepPlan, ...]) -> list[int] | None:
    """An order in which every step comes after those it reads from; None when there is a cycle."""
    waiting = {step.index: {p for p in step.preds if p != ORIGIN} for step in steps}
    order: list[int] = []
    while waiting:
        ready = [index for index, preds in waiting.items() if not preds]
        if not ready:
            return None
        order += ready
        for index in ready:
            del waiting[index]
        for preds in waiting.values():
            preds.difference_update(ready)
    return order


def way_round(graph: Reach, start: int) -> list[int]:
    """A shortest path from a step back to itself."""
    came_from: dict[int, int] = {}
    edge = [start]
    while start not in came_from:
        following: list[int] = []
        for index in edge:
            for successor in graph.steps[index].succs:
                if successor != ORIGIN and successor not in came_from:
                    came_from[successor] = index
                    following.append(successor)
        edge = following
    path = [start]
    while path[-1] != start or len(path) == 1:
        path.append(came_from[path[-1]])
    return path[::-1]
