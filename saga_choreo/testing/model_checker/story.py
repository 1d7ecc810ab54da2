"""A counter-example as a story: who did what, which message arrived, what changed."""

from __future__ import annotations

from itertools import pairwise

from saga_choreo.model.record import ORIGIN
from saga_choreo.model.states import Parked
from saga_choreo.testing.model_checker.cells import Cell
from saga_choreo.testing.model_checker.search import Broken, Search

__all__ = ["story_of"]


def story_of(search: Search, broken: Broken) -> tuple[str, ...]:
    """One line for each action from the start to the broken state."""
    path = [search.states[broken.at]]
    at = search.parents[broken.at]
    while at >= 0:
        path.append(search.states[at])
        at = search.parents[at]
    path.reverse()
    lines = [_between(search, before, after) for before, after in pairwise(path)]
    if broken.move is not None:
        before = path[-1]
        lines.append(broken.move.label + _changes(search, before, (before + broken.move.add) | broken.move.emit))
    return tuple(lines)


def _between(search: Search, before: int, after: int) -> str:
    world = search.world
    if after == before | world.late and not before & world.late:
        return "the horizon passes"
    for unit in world.units:
        for move in world.moves(unit, before & unit.view):
            if (before + move.add) | move.emit == after:
                return move.label + _changes(search, before, after)
    raise AssertionError("a state has no way from its parent")


def _changes(search: Search, before: int, after: int) -> str:
    parts: list[str] = []
    for unit in search.world.units:
        for step, old, new in zip(unit.steps, unit.cells_in(before), unit.cells_in(after), strict=True):
            if old != new:
                name = search.world.plan.step(step).name
                parts.append(f"{name} {_words(old, step)} -> {_words(new, step)}")
    fresh = after & ~before
    messages = [
        search.world.describe(message)
        for number, message in enumerate(search.world.messages)
        if message is not None and fresh >> search.world.place_of(number) & 1
    ]
    said = f"; says {', '.join(messages)}" if messages else ""
    return f" [{', '.join(parts)}]{said}"


def _words(cell: Cell, step: int) -> str:
    row = cell.row
    flags = [
        word
        for word, is_set in (
            ("parked", row.parked is Parked.PARKED),
            ("with a person", row.parked is Parked.HUMAN),
            ("pending", row.pending),
            ("abort", row.abort and row.state.value not in ("T", "C", "X", "OA", "OC", "OT")),
            ("veto", row.vetoer),
            ("debt", row.debt),
            ("done once" if cell.made == 1 else f"done {cell.made} times", cell.made and step != ORIGIN),
            ("undone", cell.unmade and step != ORIGIN),
            ("knows the outcome", bool(row.outcome) and step != ORIGIN),
            ("deleted", cell.gone),
        )
        if is_set
    ]
    return f"{row.state.value}({', '.join(flags)})" if flags else row.state.value
