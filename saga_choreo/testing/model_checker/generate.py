"""All well-formed choreographies up to a number of steps, one of each shape.

A step reads the start event or events of earlier steps, by any join; one step may choose between two events; one step may be
external, optional or the pivot (then what the pivot's rule wants to be retriable is). Two graphs that differ only in the
names of their steps are one. Bounded by the number of in-edges, since the number of graphs grows faster than anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, permutations, product
from typing import NamedTuple

from saga_choreo.core.wellformed import findings
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, Undo
from saga_choreo.model.event import EventRef

__all__ = ["all_graphs"]

_START = (-1, 0)
_KINDS = ("plain", "external", "optional", "pivot")


class _Shape(NamedTuple):
    """One step: (source, branch) pairs it reads, whether it needs all of them, its kind, whether it chooses."""

    reads: tuple[tuple[int, int], ...]
    needs_all: bool
    kind: str
    chooses: bool


_Graph = tuple[_Shape, ...]


def all_graphs(steps_max: int, edges_max: int | None = None) -> Iterator[Choreography]:
    """Every graph of one to `steps_max` steps with at most `edges_max` in-edges (default: two more than steps)."""
    for size in range(1, steps_max + 1):
        seen: set[_Graph] = set()
        number = 0
        for graph in _graphs(size, edges_max or size + 2):
            canonical = _canonical(graph)
            if canonical in seen:
                continue
            seen.add(canonical)
            choreography = _choreography(f"all-{size}-{number + 1}", graph)
            if not findings(choreography):
                number += 1
                yield choreography


def _graphs(size: int, edges_max: int) -> Iterator[_Graph]:
    for chooser in range(-1, size):
        for edges in _edges(size, chooser, edges_max):
            joins = [(True, False) if len(reads) > 1 else (True,) for reads in edges]
            for needs in product(*joins):
                for special, kind in _specials(size):
                    graph = tuple(
                        _Shape(edges[i], needs[i], kind if i == special else "plain", chooses=i == chooser) for i in range(size)
                    )
                    if _is_sound(graph, chooser):
                        yield graph


def _specials(size: int) -> Iterator[tuple[int, str]]:
    yield -1, "plain"
    yield from product(range(size), _KINDS[1:])


def _edges(size: int, chooser: int, edges_max: int) -> Iterator[tuple[tuple[tuple[int, int], ...], ...]]:
    options: list[list[tuple[tuple[int, int], ...]]] = []
    for step in range(size):
        sources = [_START, *((s, branch) for s in range(step) for branch in range(2 if s == chooser else 1))]
        options.append([reads for count in range(1, min(len(sources), 3) + 1) for reads in combinations(sources, count)])
    for edges in product(*options):
        if sum(map(len, edges)) <= edges_max:
            yield edges


def _is_sound(graph: _Graph, chooser: int) -> bool:
    """Both branches of a choice are read: else there is not much of a choice."""
    read = {source for shape in graph for source in shape.reads}
    return chooser < 0 or {(chooser, 0), (chooser, 1)} <= read


def _canonical(graph: _Graph) -> _Graph:
    """The smallest of all ways to number the steps and the branches."""
    return min(_renumbered(graph, order, flip) for order in permutations(range(len(graph))) for flip in (False, True))


def _renumbered(graph: _Graph, order: tuple[int, ...], flip: bool) -> _Graph:
    def renamed(source: int, branch: int) -> tuple[int, int]:
        if source < 0:
            return source, branch
        return order[source], 1 - branch if flip and graph[source].chooses else branch

    placed = {order[i]: s._replace(reads=tuple(sorted(renamed(*edge) for edge in s.reads))) for i, s in enumerate(graph)}
    return tuple(placed[number] for number in range(len(graph)))


def _event(source: int, branch: int, graph: _Graph) -> EventRef:
    if source < 0:
        return EventRef("saga.begun")
    return EventRef(f"s{source}.{'xy'[branch]}" if graph[source].chooses else f"s{source}.done")


def _choreography(name: str, graph: _Graph) -> Choreography:
    steps = [_step(number, graph) for number in range(len(graph))]
    pivot = next((number for number, shape in enumerate(graph) if shape.kind == "pivot"), None)
    if pivot is not None:
        before, after = _ancestors(pivot, graph), {n for n in range(len(graph)) if pivot in _ancestors(n, graph)}
        for number in range(len(graph)):
            if number != pivot and number not in before:
                steps[number] = replace(steps[number], retriable=True)
            if number in after:
                steps[number] = replace(steps[number], undo=Undo.NONE)
    return Choreography(name).starts_with("saga.begun").step(*steps)


def _step(number: int, graph: _Graph) -> ChoreographyStep:
    shape = graph[number]
    branches = (0, 1) if shape.chooses else (0,)
    undo = {"external": Undo.EXTERNAL, "pivot": Undo.NONE}.get(shape.kind, Undo.LOCAL)
    return ChoreographyStep(
        f"s{number}",
        owner=f"service-{number}",
        join=Join.ALL if shape.needs_all else Join.ANY,
        reads=tuple(sorted(_event(*edge, graph) for edge in shape.reads)),
        publishes=tuple(_event(number, branch, graph) for branch in branches),
        split=Split.ONE if shape.chooses else Split.ALL,
        undo=undo,
        external=shape.kind == "external",
        optional=shape.kind == "optional",
        pivot=shape.kind == "pivot",
    )


def _ancestors(number: int, graph: _Graph) -> set[int]:
    found: set[int] = set()
    todo = [number]
    while todo:
        for source, _ in graph[todo.pop()].reads:
            if source >= 0 and source not in found:
                found.add(source)
                todo.append(source)
    return found
