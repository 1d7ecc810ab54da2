"""Is a choreography well-formed? Checked before it runs, so that no run of it can need an undo that does not exist.

`findings` reports every fault at once. WF1 to WF7 are the protocol's rules (the eighth, that every owner holds the
definition, is asked at run time); ST1 to ST3 are about what is missing altogether. A message tells the run that would go
wrong, and what to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

from saga_choreo.core.finding import Finding
from saga_choreo.core.reach import Reach, published_by, way_round
from saga_choreo.core.rules import joins, undo_and_pivots
from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN

__all__ = ["EDGES_MAX", "STEPS_MAX", "Finding", "findings", "require_wellformed"]

# Masks are one 64-bit column each.
EDGES_MAX = 64
STEPS_MAX = 256


def require_wellformed(
    choreography: Choreography, timeouts_s: Mapping[str, float] | None = None, horizon: timedelta | None = None
) -> None:
    """Raises DefinitionError with all findings, if there are any."""
    found = findings(choreography, timeouts_s, horizon)
    if found:
        listed = "".join(f"\n  - {finding}" for finding in found)
        what = f"choreography {choreography.name!r} version {choreography.version}"
        raise DefinitionError(f"{what} is not well-formed; {len(found)} to correct:{listed}", map(str, found))


def findings(
    choreography: Choreography, timeouts_s: Mapping[str, float] | None = None, horizon: timedelta | None = None
) -> tuple[Finding, ...]:
    """Every fault, sorted by code and step; empty when it is well-formed.

    `timeouts_s` (by step name) and `horizon` are for WF7; without them it checks what it can.
    """
    found = [*_missing(choreography)]
    graph = Reach(choreography)
    found += _limits(graph)
    found += _cycles(graph)
    if choreography.start is not None:
        found += _unreachable(graph)
    found += undo_and_pivots(graph)
    if graph.order is not None and choreography.start is not None:
        found += joins(graph)
    found += _deadline(graph, timeouts_s or {}, horizon)
    return tuple(sorted(set(found)))


def _missing(choreography: Choreography) -> Iterator[Finding]:
    name = choreography.name
    if choreography.start is None:
        yield Finding("ST1", "", f"choreography {name!r} has no start event; add .starts_with(...)")
    if not choreography.steps:
        yield Finding("ST2", "", f"choreography {name!r} has no steps; add .step(...)")
    published = published_by(choreography)
    undone = {step.undo_event: step.name for step in choreography.steps if step.undo_event is not None}
    names = [step.name for step in choreography.steps]
    for double in sorted({n for n in names if names.count(n) > 1}):
        yield Finding("WF1", double, f"step {double!r} is there twice; give each step its own name")
    for step in choreography.steps:
        if not step.owner:
            yield Finding("WF1", step.name, f"step {step.name!r} has no owner; add .owned_by(...)")
        if not step.reads:
            yield Finding("ST3", step.name, f"step {step.name!r} reacts to nothing and would never run; add .on_event(...)")
        for ref in step.reads:
            if ref not in published and ref != choreography.start:
                yield Finding("ST3", step.name, _unknown_event(step.name, ref, published, undone))


def _unknown_event(step: str, ref: EventRef, published: set[EventRef], undone: Mapping[EventRef, str]) -> str:
    text = f"step {step!r} waits for {str(ref)!r}, which no step publishes, so it would wait for ever"
    if ref in undone:
        return f"{text}; it is the event of the compensation of {undone[ref]!r}, which tells the world and is no edge of the graph"
    versions = sorted(str(other) for other in published if other.name == ref.name)
    if versions:
        return f"{text}; published is {', '.join(versions)}: correct the version"
    return f"{text}; correct the name or add the step that publishes it"


def _limits(graph: Reach) -> Iterator[Finding]:
    count = len(graph.steps)
    if count > STEPS_MAX:
        yield Finding("WF1", "", f"there are {count} steps and the limit is {STEPS_MAX}; split the choreography")
    for step in (graph.plan.origin, *graph.steps):
        for what, number in (("in-edges", len(step.in_edges)), ("successors", len(step.succs)), ("events", len(step.outputs))):
            if number > EDGES_MAX:
                what_of = "the start and end of the saga" if step.index == ORIGIN else f"step {step.name!r}"
                yield Finding(
                    "WF1",
                    "" if step.index == ORIGIN else step.name,
                    f"{what_of} has {number} {what} and the limit is {EDGES_MAX}; put a step between that joins some of them",
                )


def _cycles(graph: Reach) -> Iterator[Finding]:
    """One finding per knot of steps that wait for each other, with the shortest way round."""
    seen = 0
    for step in graph.steps:
        index = step.index
        if seen >> index & 1 or not graph.descendants[index] >> index & 1:
            continue
        for other in graph.steps:
            if graph.descendants[index] >> other.index & 1 and graph.descendants[other.index] >> index & 1:
                seen |= 1 << other.index
        path = " -> ".join(graph.steps[i].name for i in way_round(graph, index))
        yield Finding(
            "WF1", step.name, f"the steps form a cycle: {path}; each waits for the one before: take one of these edges out"
        )


def _unreachable(graph: Reach) -> Iterator[Finding]:
    reached = 0
    for root in graph.plan.origin.succs:
        reached |= 1 << root | graph.descendants[root]
    for step in graph.steps:
        if not reached >> step.index & 1 and step.in_edges:
            waits = ", ".join(repr(str(ref)) for ref in graph.step_of(step).reads)
            yield Finding(
                "WF1",
                step.name,
                f"step {step.name!r} cannot be reached from the start event: it waits for {waits}, and the way there does not "
                f"begin with {str(graph.choreography.start)!r}; connect it or take it out",
            )


def _deadline(graph: Reach, timeouts_s: Mapping[str, float], horizon: timedelta | None) -> Iterator[Finding]:
    deadline = graph.choreography.deadline_after
    if deadline is None:
        return
    if horizon is not None and deadline > horizon:
        yield Finding(
            "WF7",
            "",
            f"the deadline {deadline} is longer than the horizon {horizon}: messages of a saga that still runs would be refused as "
            "stale; shorten the deadline or lengthen the horizon",
        )
    if graph.order is None:
        return
    longest: dict[int, tuple[float, tuple[str, ...]]] = {}
    for index in graph.order:
        step = graph.steps[index]
        before = max((longest[p] for p in step.preds if p != ORIGIN), default=(0.0, ()))
        longest[index] = (before[0] + timeouts_s.get(step.name, 0.0), (*before[1], step.name))
    seconds, path = max(longest.values(), default=(0.0, ()))
    if seconds > deadline.total_seconds():
        way = " -> ".join(path)
        yield Finding(
            "WF7",
            "",
            f"the time-outs of {way} add up to {seconds:g} s, more than the deadline of {deadline.total_seconds():g} s: "
            "a saga could be aborted while every step keeps its limit; lengthen the deadline or shorten the time-outs",
        )
