"""The protocol holds on shapes that the built-in graphs do not have: shared owners, pivots in a row, choices of several
events, pending steps, events with many readers; each with the kinds of events that matter to it."""

from __future__ import annotations

from typing import Any

import pytest
from tried import OUTSIDE, assert_proved, graph, step

from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, Undo
from saga_choreo.model.event import EventRef
from saga_choreo.testing.model_checker.check import check
from saga_choreo.testing.model_checker.graphs import graph_named
from saga_choreo.testing.model_checker.options import Options

PARKING = Options(park=True, operator=True, undo_fails=True)
PERSON = Options(park=True, operator=True)
LAST: dict[str, Any] = {"retriable": True, "undo": Undo.NONE}


def late(name: str, *after: str, **changes: Any) -> ChoreographyStep:
    """A step with an event of its own for its deadline: `name.late`."""
    return step(name, *after, deadline_event=EventRef(f"{name}.late"), **changes)


def some(name: str, *after: str, split: Split = Split.SOME, **changes: Any) -> ChoreographyStep:
    """A step that publishes some of `name.x` and `name.y`."""
    return step(name, *after, publishes=(EventRef(f"{name}.x"), EventRef(f"{name}.y")), split=split, **changes)


SHAPES: dict[str, tuple[Choreography, Options]] = {
    "one owner of all": (
        graph(
            step("a", owner="o"),
            step("b", "a", owner="o"),
            step("c", "a", owner="o", optional=True),
            step("d", "b", "c", owner="o", join=Join.ANY),
        ),
        Options(),
    ),
    "two owners in turn, parked": (graph(step("a", owner="o"), step("b", "a", owner="p"), step("c", "b", owner="o")), PARKING),
    "two owners in turn, forgotten": (
        graph(step("a", owner="o"), step("b", "a", owner="p"), step("c", "b", owner="o")),
        Options(forget=True),
    ),
    "two roots of two owners, forgotten": (
        graph(step("a", owner="o"), step("b", owner="p"), step("c", "a", "b", owner="o", **OUTSIDE)),
        Options(forget=True, undo_fails=True),
    ),
    "cancel asked for anywhere before a pivot": (graph_named("pivot_parallel"), Options(ask=True)),
    "an external pivot": (
        graph(
            step("a"),
            step("p", "a", external=True, pivot=True, undo=Undo.NONE),
            step("q", "p", **LAST),
            step("r", "p", external=True, **LAST),
        ),
        Options(park=True, operator=True, veto=True),
    ),
    "two pivots in a row": (
        graph(step("a"), step("p", "a", pivot=True, undo=Undo.NONE), step("q", "p", pivot=True, **LAST), step("r", "q", **LAST)),
        PERSON,
    ),
    "some events, a join of both": (
        graph(some("a"), step("b", "a.x"), step("c", "a.y", optional=True), step("d", "b", "c")),
        Options(),
    ),
    "some events of an external step": (
        graph(some("a", **OUTSIDE), step("b", "a.x"), step("c", "a.y")),
        Options(park=True, operator=True, undo_fails=True, deadline=False),
    ),
    "a pending optional step": (
        graph(late("a", optional=True, **OUTSIDE), step("b", "a"), step("c", "a.late")),
        Options(park=True, operator=True, ask=True),
    ),
    "a pending retriable step": (
        graph(step("a", retriable=True, **OUTSIDE), step("b", "a")),
        Options(pending=True, park=True, operator=True, refusals=2),
    ),
    "a local step with an event for its deadline": (
        graph(step("a"), late("b", "a"), step("c", "b"), step("d", "b.late")),
        Options(park=True, operator=True, veto=True),
    ),
    "an event for the deadline that can be chosen as well": (
        graph(
            step("b", publishes=(EventRef("b.done"), EventRef("b.late")), split=Split.ONE, deadline_event=EventRef("b.late")),
            step("c", "b"),
            step("d", "b.late"),
        ),
        Options(),
    ),
    "parked and forgotten": (
        graph(step("a"), step("b", "a", **OUTSIDE)),
        Options(park=True, operator=True, undo_fails=True, go_on=True, forget=True),
    ),
    "read-only steps": (
        graph(
            step("a"),
            step("b", "a", undo=Undo.NONE, read_only=True),
            step("c", "b", undo=Undo.NONE, read_only=True, external=True),
        ),
        PERSON,
    ),
    "the start event is read late": (graph(step("a"), step("b", "a", "saga.begun"), step("c", "a", "b", "saga.begun")), PERSON),
    "an event with three readers": (
        graph(step("a"), step("b", "a"), step("c", "a", "b"), step("d", "a", "b", "c", join=Join.ANY)),
        Options(),
    ),
    "nothing but optional steps": (
        graph(
            step("a", optional=True),
            step("b", "a", optional=True),
            step("c", "a", optional=True),
            step("d", "b", "c", optional=True, join=Join.ANY),
        ),
        Options(),
    ),
    "an external join of exclusive branches": (
        graph(
            some("a", split=Split.ONE), step("b", "a.x", **OUTSIDE), step("c", "a.y"), step("d", "b", "c", join=Join.ONE, **OUTSIDE)
        ),
        Options(undo_fails=True),
    ),
    "causes told apart": (graph_named("pivot_parallel"), Options(causes=True)),
}
LARGE: dict[str, tuple[Choreography, Options]] = {
    "a pending step that times out while the saga is undone": (
        graph(step("a"), late("b", "a", **OUTSIDE), step("c", "a"), step("d", "b.late")),
        Options(undo_fails=True, park=True, operator=True, cancel=False),
    ),
    "a fork whose undo is passed by": (
        graph(step("a", **OUTSIDE), step("b", "a", **OUTSIDE), step("c", "a", **OUTSIDE)),
        Options(park=True, operator=True, undo_fails=True, go_on=True, deadline=False),
    ),
    "two roots with everything switched on": (
        graph_named("two_roots"),
        Options(park=True, veto=True, operator=True, undo_fails=True, go_on=True, ask=True),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_protocol_holds_on_this_shape(shape: str) -> None:
    assert_proved(check(*SHAPES[shape]))


@pytest.mark.long
@pytest.mark.parametrize("shape", LARGE)
def test_the_protocol_holds_on_this_large_shape(shape: str) -> None:
    assert_proved(check(*LARGE[shape]))
