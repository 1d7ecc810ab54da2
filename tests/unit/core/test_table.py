"""The table as it is drawn in the docs: each rule says exactly which states it may lead to, and every rule is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from planned import PLAN, kind

from saga_choreo.core.facts import (
    AbortCame,
    CancelCame,
    CancelRequested,
    Claimed,
    ClearCame,
    Completed,
    CompletionDeclined,
    DeadlinePassed,
    Declined,
    DoneCame,
    Fact,
    Failed,
    OutcomeCame,
    Resolved,
    SkipCame,
    Started,
    Succeeded,
    UndoFailed,
    Undone,
    WentPending,
)
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.transitions import TABLE, transition
from saga_choreo.model.choreography import Join, Undo
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import Row
from saga_choreo.model.states import Outcome, Parked, State

LATE = EventRef("b.late")
LOCAL = [
    kind(deadline_event=LATE),
    kind(undo=Undo.EXTERNAL, deadline_event=LATE),
    kind(undo=Undo.NONE, read_only=True, deadline_event=LATE),
    kind(optional=True, join=Join.ANY),
    kind(),
]
OUTSIDE = [
    kind(external=True, undo=Undo.EXTERNAL, deadline_event=LATE),
    kind(external=True, undo=Undo.LOCAL, deadline_event=LATE),
    kind(external=True, undo=Undo.NONE, read_only=True, deadline_event=LATE),
    kind(external=True, undo=Undo.EXTERNAL, optional=True, join=Join.ANY),
    kind(external=True, undo=Undo.EXTERNAL, retriable=True),
]
ORIGINS = [PLAN.origin, replace(PLAN.origin, pivot=True)]
FACTS: list[Fact] = [
    *(DoneCame(mask) for mask in (1, 2)), *(SkipCame(mask) for mask in (1, 2)), *(ClearCame(mask) for mask in (1, 2)),
    AbortCame(), CancelCame(), CancelRequested(), Started(), DeadlinePassed(), DeadlinePassed(own=True), Claimed(),
    Succeeded(0, 1), Declined(0), Declined(0, exhausted=True), Failed(0, exhausted=True), Failed(0, exhausted=True, veto=True),
    WentPending(0), Completed(0, 1), CompletionDeclined(0), Undone(0), UndoFailed(0), UndoFailed(0, exhausted=True, go_on=True),
    *(Resolved(verb, "ann", 1) for verb in ("retry", "waive", "take", "done", "give_back", "fail")),
    OutcomeCame(Outcome.COMPLETED), OutcomeCame(Outcome.ABORTED),
]  # fmt: skip
HELD_BACK = {
    State.WAITING: [Parked.NO, Parked.PARKED, Parked.HUMAN],
    State.RUNNING: [Parked.NO, Parked.PARKED],
    State.COMPENSATING: [Parked.NO, Parked.PARKED, Parked.PASSED],
}


def _rows(state: State) -> Iterator[Row]:
    """What may stand beside a state: only a person who holds a waiting step lets it remember an abort."""
    heard = [(done, skip) for done in range(4) for skip in range(4) if not done & skip]
    for parked, (done, skip), (abort, clear) in product(
        HELD_BACK.get(state, [Parked.NO]), heard, [(False, 0), *((True, mask) for mask in range(4))]
    ):
        if abort and (state is State.OPEN or (state is State.WAITING and parked is not Parked.HUMAN)):
            continue
        operator = "ann" if parked is Parked.HUMAN else ""
        row = Row(state=state, parked=parked, done_in=done, skip_in=skip, abort=abort, clear_in=clear, operator=operator)
        yield row
        if state is State.RUNNING and parked is Parked.NO:
            yield row._replace(pending=True)


def _steps(state: State) -> list[StepPlan]:
    match state:
        case State.WAITING:
            return LOCAL
        case State.RUNNING:
            return OUTSIDE
        case State.OPEN | State.COMPLETED | State.ABORTING | State.ABORTED | State.REFUSED:
            return ORIGINS
        case _:
            return LOCAL + OUTSIDE


@pytest.mark.parametrize("key", TABLE, ids=lambda key: f"{key[0].name}-{key[1].__name__}")
def test_a_rule_leads_to_just_the_states_that_it_declares(key: tuple[State, type]) -> None:
    state, fact_type = key
    facts = [fact for fact in FACTS if type(fact) is fact_type]
    # An external step waits like any other, until its last edge makes it run.
    steps = LOCAL + OUTSIDE if state is State.WAITING and fact_type in (DoneCame, SkipCame) else _steps(state)
    reached: set[State] = set()
    for row, fact, step in product(_rows(state), facts, steps):
        if state is State.WAITING and step.external and row.done_in | row.skip_in == step.all_in:
            continue
        after = transition(row, fact, step)
        reached |= {after.state} if isinstance(after, Row) else set()
    assert reached == set(TABLE[key].to)


def test_every_rule_of_the_protocol_is_in_the_table() -> None:
    numbers = {number for rule in TABLE.values() for number in rule.number.split(", ")}
    assert numbers == {
        "1", "2", "3", "4", "5", "6", "7", "8", "9", "9a", "9b", "10", "11", "12", "12b", "12c", "13", "14", "15", "16", "17",
        "17-19", "18", "19", "20", "21", "22", "22b", "22c", "22d", "23", "24", "25", "26", "28", "-",
    }  # fmt: skip


def test_starting_a_saga_again_changes_nothing_by_rule_and_not_for_want_of_one() -> None:
    assert TABLE[State.OPEN, Started].number == "1"
