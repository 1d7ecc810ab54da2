"""The graph behind a choreography: edges, predecessors, successors, as small numbers and bit masks.

A plan is made once per definition. An edge is (from-step, event, to-step); bit i of a step's in-masks is its i-th in-edge, bit
j of its clear-mask its j-th successor. The virtual source and sink are one node, ORIGIN (-1): source of the start event's
edges, sink of every last step (a step that no other step follows).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, Undo
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN, ORIGIN_NAME

__all__ = ["TO_SINK", "Plan", "StepPlan", "plan_of"]

# The event number of a DONE or SKIP that a last step sends to the sink: by name, with no event.
TO_SINK = -1


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """What one step needs to know of the graph. `outputs` are the published events, then the deadline's event if it is an
    extra one; `all_outputs` is the choice of a step that publishes everything it declares. `heard_at_end`: whatever the step says
    on its way to a good end is for other services too, so a saga that has completed tells that it has been published."""

    index: int
    name: str
    owner: str
    in_edges: tuple[tuple[int, EventRef | None], ...]
    all_in: int
    needs_all: bool
    preds: tuple[int, ...]
    succs: tuple[int, ...]
    all_succ: int
    outputs: tuple[EventRef, ...]
    split: Split
    all_outputs: int
    is_last: bool
    undo: Undo
    external: bool
    optional: bool
    pivot: bool
    may_veto: bool
    deadline_choice: int
    heard_at_end: bool

    def clear_bit(self, successor: int) -> int:
        return 1 << self.succs.index(successor)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A choreography with its graph worked out. `readers[(step, event number)]` lists (to-step, in-mask bits there)."""

    choreography: Choreography
    definition: str
    steps: tuple[StepPlan, ...]
    origin: StepPlan
    owners: tuple[str, ...]
    numbers: dict[str, int]
    readers: dict[tuple[int, int], tuple[tuple[int, int], ...]]
    has_pivot: bool

    def step(self, number: int) -> StepPlan:
        return self.origin if number == ORIGIN else self.steps[number]

    def number(self, name: str) -> int | None:
        """The number of a step by its name, ORIGIN for 'origin'; None when there is no such step."""
        return self.numbers.get(name)

    def owned_by(self, service: str) -> tuple[StepPlan, ...]:
        return tuple(step for step in self.steps if step.owner == service)

    def event_number(self, step: int, event: EventRef) -> int | None:
        outputs = self.step(step).outputs
        return outputs.index(event) if event in outputs else None

    def events_read_by(self, service: str) -> tuple[str, ...]:
        """Names of the events that some step of the service reacts to."""
        names = {ref.name for step in self.owned_by(service) for _, ref in step.in_edges if ref is not None}
        return tuple(sorted(names))

    def reader_owners(self, step: int, event: int) -> tuple[str, ...]:
        return tuple(sorted({self.steps[reader].owner for reader, _ in self.readers.get((step, event), ())}))


def _outputs(step: ChoreographyStep) -> tuple[EventRef, ...]:
    extra = step.deadline_event
    return step.publishes if extra is None or extra in step.publishes else (*step.publishes, extra)


def plan_of(choreography: Choreography) -> Plan:
    """Work out the graph. Raises DefinitionError when there is no start event or a step reads an event that nobody publishes;
    everything else that can be wrong is found by `core.wellformed`."""
    return _plan_of(choreography, choreography.deadline_after)


# Choreographies that differ in their deadline only are equal, and a plan must keep the deadline it was asked for.
@lru_cache(maxsize=256)
def _plan_of(choreography: Choreography, _deadline: timedelta | None) -> Plan:
    start = choreography.start
    if start is None:
        raise DefinitionError(f"choreography {choreography.name!r} has no start event; add .starts_with(...)")
    steps = choreography.steps
    publishers: dict[EventRef, list[int]] = {start: [ORIGIN]}
    for index, step in enumerate(steps):
        for event in _outputs(step):
            publishers.setdefault(event, []).append(index)
    in_edges: list[tuple[tuple[int, EventRef | None], ...]] = []
    for step in steps:
        missing = [str(event) for event in step.reads if event not in publishers]
        if missing:
            raise DefinitionError(
                f"step {step.name!r} reads {', '.join(missing)}, which no step publishes; correct the event or add its publisher"
            )
        in_edges.append(tuple((source, event) for event in step.reads for source in sorted(publishers[event])))
    return _assemble(choreography, in_edges)


def _assemble(choreography: Choreography, in_edges: list[tuple[tuple[int, EventRef | None], ...]]) -> Plan:
    steps = choreography.steps
    followers: dict[int, set[int]] = {}
    for reader, edges in enumerate(in_edges):
        for source, _ in edges:
            followers.setdefault(source, set()).add(reader)
    lasts = [index for index in range(len(steps)) if index not in followers]
    read_elsewhere = {
        (source, event)
        for reader, edges in enumerate(in_edges)
        for source, event in edges
        if source != ORIGIN and steps[source].owner != steps[reader].owner
    }
    plans = tuple(
        _step_plan(
            i,
            step,
            in_edges[i],
            tuple(sorted(followers.get(i, {ORIGIN}))),
            heard_at_end=all((i, event) in read_elsewhere for event in _outputs(step)),
        )
        for i, step in enumerate(steps)
    )
    assert choreography.start is not None
    has_pivot = any(step.pivot for step in steps)
    origin = _origin_plan(choreography.start, tuple(sorted(followers.get(ORIGIN, ()))), tuple(lasts), has_pivot=has_pivot)
    readers: dict[tuple[int, int], dict[int, int]] = {}
    for reader, edges in enumerate(in_edges):
        for bit, (source, event) in enumerate(edges):
            assert event is not None
            number = 0 if source == ORIGIN else plans[source].outputs.index(event)
            masks = readers.setdefault((source, number), {})
            masks[reader] = masks.get(reader, 0) | (1 << bit)
    return Plan(
        choreography=choreography,
        definition=choreography.definition,
        steps=plans,
        origin=origin,
        owners=choreography.owners,
        numbers={ORIGIN_NAME: ORIGIN} | {step.name: index for index, step in enumerate(steps)},
        readers={edge: tuple(sorted(masks.items())) for edge, masks in readers.items()},
        has_pivot=has_pivot,
    )


def _step_plan(
    index: int,
    step: ChoreographyStep,
    in_edges: tuple[tuple[int, EventRef | None], ...],
    succs: tuple[int, ...],
    *,
    heard_at_end: bool,
) -> StepPlan:
    outputs = _outputs(step)
    return StepPlan(
        index=index,
        name=step.name,
        owner=step.owner,
        in_edges=in_edges,
        all_in=(1 << len(in_edges)) - 1,
        needs_all=step.join is Join.ALL,
        preds=tuple(sorted({source for source, _ in in_edges})),
        succs=succs,
        all_succ=(1 << len(succs)) - 1,
        outputs=outputs,
        split=step.split,
        all_outputs=(1 << len(step.publishes)) - 1,
        is_last=succs == (ORIGIN,),
        undo=step.undo,
        external=step.external,
        optional=step.optional,
        pivot=step.pivot,
        may_veto=step.may_veto,
        deadline_choice=1 << outputs.index(step.deadline_event) if step.deadline_event else 0,
        heard_at_end=heard_at_end,
    )


def _origin_plan(start: EventRef, roots: tuple[int, ...], lasts: tuple[int, ...], *, has_pivot: bool) -> StepPlan:
    """`pivot` of the origin's plan says whether the definition has one at all: then a cancel is only a request."""
    return StepPlan(
        index=ORIGIN,
        name=ORIGIN_NAME,
        owner="",
        in_edges=tuple((last, None) for last in lasts),
        all_in=(1 << len(lasts)) - 1,
        needs_all=False,
        preds=lasts,
        succs=roots,
        all_succ=(1 << len(roots)) - 1,
        outputs=(start,),
        split=Split.ALL,
        all_outputs=1,
        is_last=False,
        undo=Undo.NONE,
        external=False,
        optional=False,
        pivot=has_pivot,
        may_veto=True,
        deadline_choice=0,
        heard_at_end=False,
    )
