"""Small choreographies to be tried, and what is said of the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from saga_choreo.core import transitions
from saga_choreo.core.facts import (
    Fact,
)
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.transitions import TABLE
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Undo
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import Row
from saga_choreo.model.states import State
from saga_choreo.testing.model_checker.options import Options, Result

QUIET = Options(cancel=False, deadline=False)
PERSON = Options(cancel=False, deadline=False, park=True, operator=True)
Rewrite = Callable[[Row, Any, StepPlan], Row]


def step(name: str, *after: str, **changes: Any) -> ChoreographyStep:
    """A local step with a compensation; reads the start event or what the named steps publish (`name.done`)."""
    reads = tuple(sorted(EventRef(source if "." in source else f"{source}.done") for source in after)) or (EventRef("saga.begun"),)
    fields: dict[str, Any] = {"owner": f"of-{name}", "join": Join.ALL, "reads": reads, "publishes": (EventRef(f"{name}.done"),)}
    return ChoreographyStep(name, **(fields | {"undo": Undo.LOCAL} | changes))


def graph(*steps: ChoreographyStep) -> Choreography:
    return Choreography("tried").starts_with("saga.begun").step(*steps)


def assert_proved(result: Result) -> None:
    assert result.violations == (), str(result.violations[0])
    assert result.states > 10


def assert_caught(result: Result, *names: str, within: int = 16) -> None:
    assert result.violations, f"{result.graph}: {result.states} states, and the wrong design was not found"
    violation = result.violations[0]
    assert violation.invariant in names, str(violation)
    assert len(violation.story) <= within, str(violation)


def replace_rule(patch: pytest.MonkeyPatch, state: State, fact: type[Fact], run: Rewrite) -> None:
    patch.setitem(TABLE, (state, fact), transitions.Rule("wrong", (), run))


OUTSIDE: dict[str, Any] = {"external": True, "undo": Undo.EXTERNAL}
# Small graphs that together use all of the table.
TOGETHER = [
    (graph(step("a"), step("b", "a")), Options(park=True, veto=True, operator=True, undo_fails=True, go_on=True, ask=True)),
    (
        graph(step("a", **OUTSIDE), step("b", "a", **OUTSIDE)),
        Options(park=True, operator=True, undo_fails=True, go_on=True, ask=True),
    ),
    (
        graph(step("a", **OUTSIDE, deadline_event=EventRef("a.late")), step("b", "a"), step("c", "a.late")),
        Options(undo_fails=True),
    ),
    (
        graph(
            step("a"), step("b"), step("p", "a", "b", pivot=True, undo=Undo.NONE), step("q", "p", retriable=True, undo=Undo.NONE)
        ),
        Options(causes=True),
    ),
    (graph(step("a", optional=True), step("b", optional=True, **OUTSIDE), step("c", "a", "b", join=Join.ANY)), Options()),
]
