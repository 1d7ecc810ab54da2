"""One small graph that has everything the protocol's messages depend on, and rows in it.

begun -> choose -x-> left -> join
               `-y-> left, join;  left -> last        (choose: one, left and last: two, join: three)
"""

from __future__ import annotations

from typing import Any

from saga_choreo.core.facts import Fact, Refusal
from saga_choreo.core.graph import Plan, StepPlan, plan_of
from saga_choreo.core.transitions import transition
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, Undo
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import Row

__all__ = ["BEGUN", "CHOOSE", "JOIN", "LAST", "LEFT", "PLAN", "accepted", "kind", "planned", "refusal"]

BEGUN = EventRef("saga.begun")
# Steps are numbered by name.
CHOOSE, JOIN, LAST, LEFT = range(4)


def _event(name: str) -> EventRef:
    return EventRef(name)


def planned() -> Plan:
    """The plan as it is made now: a test of the plan itself must not look at one that was made at import."""
    x, y, done = _event("choose.x"), _event("choose.y"), _event("left.done")
    return plan_of(
        Choreography("planned")
        .starts_with(BEGUN)
        .step(
            ChoreographyStep("choose", "one", reads=(BEGUN,), publishes=(x, y), split=Split.SOME, undo=Undo.LOCAL),
            ChoreographyStep("left", "two", reads=(x, y), publishes=(done,), undo=Undo.LOCAL),
            ChoreographyStep("join", "three", Join.ALL, (y, done), publishes=(_event("join.done"),), undo=Undo.EXTERNAL),
            ChoreographyStep("last", "two", reads=(done,), undo=Undo.LOCAL),
        )
    )


PLAN: Plan = planned()


def kind(**fields: Any) -> StepPlan:
    """A step between two others, with two in-edges and two successors, of the given kind."""
    begun, a, b = BEGUN, _event("a.done"), _event("b.done")
    tried = {"owner": "two", "join": Join.ALL, "reads": (begun, a), "publishes": (b,), "undo": Undo.LOCAL} | fields
    steps = (
        ChoreographyStep("a", "one", reads=(begun,), publishes=(a,), undo=Undo.LOCAL),
        ChoreographyStep("b", **tried),
        ChoreographyStep("c", "three", reads=(b,), undo=Undo.LOCAL),
        ChoreographyStep("d", "four", reads=(b,), undo=Undo.LOCAL),
    )
    return plan_of(Choreography("kinds").starts_with(begun).step(*steps)).steps[1]


def accepted(row: Row, fact: Fact, step: StepPlan) -> Row:
    after = transition(row, fact, step)
    assert isinstance(after, Row), after
    return after


def refusal(row: Row, fact: Fact, step: StepPlan) -> Refusal:
    after = transition(row, fact, step)
    assert isinstance(after, Refusal), after
    return after
