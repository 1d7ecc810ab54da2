"""Which events can come together: all runs of a choreography, as sets of edges that are done.

Joins only ever ask for more events, never for fewer, so it is enough to look at the largest answers a step can give: all of
its events, or each single one of a choice, or the event of its deadline. Steps are taken in topological order, and an edge
is forgotten once its reader has been judged; what is left to remember stays small unless many choices run side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.model.choreography import Split
from saga_choreo.model.record import ORIGIN

__all__ = ["WORLDS_MAX", "JoinFacts", "join_facts"]

# Eleven independent choices of two, all open at once, judged in a fraction of a second; beyond it, joins are not judged.
WORLDS_MAX = 2_048

Choice = tuple[str, str]
World = frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class JoinFacts:
    """What can happen at one join. `all_possible`: some run brings all its events. `together`: two of its in-edges that one
    run brings both, with the choices of that run; None when no two ever come together."""

    all_possible: bool
    together: tuple[int, int, tuple[Choice, ...]] | None


def join_facts(plan: Plan, order: Sequence[int]) -> dict[int, JoinFacts] | None:
    """For every step, taken in topological order. None when there are more than WORLDS_MAX worlds to tell apart."""
    worlds: dict[World, tuple[Choice, ...]] = {_edges_of(plan, ORIGIN, 1): ()}
    facts: dict[int, JoinFacts] = {}
    for number in order:
        step = plan.steps[number]
        facts[number] = _facts_of(step, worlds)
        after: dict[World, tuple[Choice, ...]] = {}
        for world, choices in worlds.items():
            rest = frozenset(edge for edge in world if edge[0] != number)
            if not _runs(step, _bits(number, world)):
                after.setdefault(rest, choices)
                continue
            for answer, choice in _answers(step):
                after.setdefault(rest | _edges_of(plan, number, answer), (*choices, *choice))
        if len(after) > WORLDS_MAX:
            return None
        worlds = after
    return facts


def _bits(number: int, world: World) -> int:
    return sum(1 << bit for reader, bit in world if reader == number)


def _runs(step: StepPlan, done: int) -> bool:
    return done == step.all_in if step.needs_all else done != 0


def _facts_of(step: StepPlan, worlds: Mapping[World, tuple[Choice, ...]]) -> JoinFacts:
    all_possible = False
    together: tuple[int, int, tuple[Choice, ...]] | None = None
    for world, choices in worlds.items():
        done = sorted(bit for reader, bit in world if reader == step.index)
        all_possible = all_possible or len(done) == len(step.in_edges)
        if together is None and len(done) > 1:
            together = (done[0], done[1], choices)
    return JoinFacts(all_possible, together)


def _edges_of(plan: Plan, number: int, answer: int) -> World:
    """The edges that are done when this step publishes these of its outputs, as (reader, bit)."""
    return frozenset(
        (reader, bit)
        for output in range(len(plan.step(number).outputs))
        if answer >> output & 1
        for reader, mask in plan.readers.get((number, output), ())
        for bit in range(mask.bit_length())
        if mask >> bit & 1
    )


def _answers(step: StepPlan) -> list[tuple[int, tuple[Choice, ...]]]:
    """The largest answers of a step, each with the choice it makes, if any."""
    if step.split is Split.ONE:
        answers = [1 << output for output in range(len(step.outputs))]
    else:
        extra = step.deadline_choice & ~step.all_outputs
        answers = [step.all_outputs, extra] if extra else [step.all_outputs]
    if len(answers) == 1:
        return [(answers[0], ())]
    return [(answer, ((step.name, _named(step, answer)),)) for answer in answers]


def _named(step: StepPlan, answer: int) -> str:
    names = [ref.name for output, ref in enumerate(step.outputs) if answer >> output & 1]
    return " and ".join(names) or "nothing"
