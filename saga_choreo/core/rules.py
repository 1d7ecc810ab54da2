"""The rules about undoing, pivots and joins (WF2 to WF6): what a run could need that the choreography does not have."""

from __future__ import annotations

from collections.abc import Iterator

from saga_choreo.core.finding import Finding
from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.core.reach import Reach
from saga_choreo.core.worlds import JoinFacts, join_facts
from saga_choreo.model.choreography import Join, Undo

__all__ = ["joins", "undo_and_pivots"]


def undo_and_pivots(graph: Reach) -> Iterator[Finding]:
    pivots = [step for step in graph.steps if step.pivot]
    for pivot in pivots:
        if pivot.optional:
            yield Finding(
                "WF6",
                pivot.name,
                f"step {pivot.name!r} is an optional pivot: when it is skipped nothing says whether the saga may still be undone; "
                "take optional or pivot out",
            )
    yield from _pivot_order(graph, pivots)
    for step in graph.steps:
        yield from _needs_undo(graph, step, pivots)
        yield from _must_not_refuse(graph, step, pivots)


def _pivot_order(graph: Reach, pivots: list[StepPlan]) -> Iterator[Finding]:
    for number, first in enumerate(pivots):
        for second in pivots[number + 1 :]:
            if not graph.is_before(first.index, second.index) and not graph.is_before(second.index, first.index):
                yield Finding(
                    "WF4",
                    second.name,
                    f"steps {first.name!r} and {second.name!r} are pivots side by side: one may be done while the other refuses, "
                    "and neither can be undone; let one come after the other, or keep one pivot",
                )
        earlier = next((p.name for p in pivots if graph.is_before(p.index, first.index)), None)
        if first.may_veto and earlier is not None:
            yield Finding(
                "WF4",
                first.name,
                f"step {first.name!r} is a pivot after pivot {earlier!r} and may refuse, so {earlier!r} could need an undo it does "
                f"not have: declare {first.name!r} retriable",
            )


def _needs_undo(graph: Reach, step: StepPlan, pivots: list[StepPlan]) -> Iterator[Finding]:
    missed = [pivot.name for pivot in pivots if not graph.is_before(pivot.index, step.index)]
    after_all = bool(pivots) and not missed
    if step.undo is not Undo.NONE or graph.step_of(step).read_only or step.pivot or after_all:
        return
    refusing = [o.name for o in graph.steps if o.may_veto and graph.is_before(step.index, o.index)]
    if pivots and not refusing:
        refusing = [o.name for o in graph.steps if o.may_veto and o is not step and not graph.is_before(o.index, step.index)]
    if refusing:
        run = f"{refusing[0]!r} may refuse when it is done"
    elif len(missed) < len(pivots):
        run = f"it does not come after every pivot, {missed[0]!r} being another one"
    else:
        run = "the saga may be cancelled when it is done"
    yield Finding(
        "WF2",
        step.name,
        f"step {step.name!r} cannot be undone, and {run}; give it a compensation, declare it read_only or the pivot"
        + (f", or move it after pivot {missed[0]!r}" if pivots else ""),
    )


def _must_not_refuse(graph: Reach, step: StepPlan, pivots: list[StepPlan]) -> Iterator[Finding]:
    if not step.may_veto or step.pivot:
        return
    for pivot in pivots:
        if graph.is_before(step.index, pivot.index):
            continue
        where = f"{step.name!r} after it" if graph.is_before(pivot.index, step.index) else f"{step.name!r} beside it"
        yield Finding(
            "WF3",
            step.name,
            f"step {pivot.name!r} is a pivot; {where} may refuse, so {pivot.name!r} could need an undo it does not have: declare "
            f"{step.name!r} retriable or move it before {pivot.name!r}",
        )
        return


def joins(graph: Reach) -> Iterator[Finding]:
    assert graph.order is not None
    facts = join_facts(graph.plan, graph.order)
    if facts is None:
        return
    for step in graph.steps:
        join = graph.step_of(step).join
        known = facts[step.index]
        if join is Join.ALL and len(step.in_edges) > 1 and not known.all_possible:
            yield Finding("WF5", step.name, _never_all(graph, step))
        if join is Join.ONE and known.together is not None:
            yield Finding("WF5", step.name, _not_exclusive(step, known))


def _edge(graph_step: StepPlan, bit: int, plan: Plan) -> str:
    source, ref = graph_step.in_edges[bit]
    return f"{str(ref)!r} of {plan.step(source).name!r}"


def _never_all(graph: Reach, step: StepPlan) -> str:
    choosing = [s.name for s in graph.steps if len(s.outputs) > 1 and graph.is_before(s.index, step.index)]
    because = f" ({' or '.join(map(repr, choosing))} publishes only one of several events)" if choosing else ""
    edges = ", ".join(_edge(step, bit, graph.plan) for bit in range(len(step.in_edges)))
    return (
        f"step {step.name!r} waits for all of {edges}, and no run brings them all{because}, so it can never run; write one_of(...) "
        "for branches that exclude each other, or any_of(...)"
    )


def _not_exclusive(step: StepPlan, known: JoinFacts) -> str:
    assert known.together is not None
    first, second, choices = known.together
    run = ", ".join(f"{name!r} publishes {event!r}" for name, event in choices)
    names = [str(step.in_edges[bit][1]) for bit in (first, second)]
    return (
        f"step {step.name!r} takes one_of {names[0]!r} and {names[1]!r}, and both come "
        f"{f'when {run}' if run else 'in every run'}; write all_of(...) or any_of(...), or make the branches exclude each other"
    )
