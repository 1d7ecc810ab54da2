"""What a person may say on a parked step, and what it does; everything else is refused with what would be possible."""

from __future__ import annotations

import pytest
from planned import accepted, kind, refusal

from saga_choreo.core.facts import Resolved
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.resolutions import possible
from saga_choreo.core.transitions import TABLE
from saga_choreo.model.choreography import Undo
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cancel, Cause, Parked, State

PLAIN = kind()
OUTSIDE = kind(external=True, undo=Undo.EXTERNAL)
FIRM = kind(external=True, undo=Undo.EXTERNAL, retriable=True)
OPTIONAL = kind(external=True, undo=Undo.EXTERNAL, optional=True, retriable=True)

WAITS = Row(parked=Parked.PARKED, done_in=3, attempt=5)
HELD = Row(parked=Parked.HUMAN, done_in=3, attempt=5, operator="ann")
CALLED = Row(state=State.RUNNING, parked=Parked.PARKED, done_in=3, attempt=5, key_no=1)
UNDOING = Row(state=State.COMPENSATING, parked=Parked.PARKED, done_in=3, attempt=5, abort=True, clear_in=3, choice=1)
VERBS = ("retry", "waive", "take", "done", "give_back", "fail")


def said(verb: str, row: Row, step: StepPlan = OUTSIDE, operator: str = "ann") -> Row:
    return accepted(row, Resolved(verb, operator, 1), step)


def test_a_parked_step_is_tried_again_with_fresh_attempts_and_the_same_key() -> None:
    for row in (WAITS, CALLED, UNDOING, UNDOING._replace(parked=Parked.PASSED)):
        assert said("retry", row) == row._replace(parked=Parked.NO, attempt=0)


def test_a_step_parked_before_it_ran_is_waived_or_taken_over() -> None:
    assert said("waive", WAITS, PLAIN) == WAITS._replace(state=State.SKIPPED, parked=Parked.NO)
    assert said("take", WAITS, PLAIN) == WAITS._replace(parked=Parked.HUMAN, operator="ann")


def test_a_person_finishes_the_step_or_gives_it_back() -> None:
    assert said("done", HELD, PLAIN) == HELD._replace(state=State.DONE, parked=Parked.NO, choice=1, operator="")
    assert said("give_back", HELD, PLAIN) == HELD._replace(parked=Parked.PARKED, operator="")
    assert "in the hands of 'ann'" in refusal(HELD, Resolved("give_back", "bob"), PLAIN).reason


def test_a_step_given_back_follows_what_was_heard_meanwhile() -> None:
    tomb = HELD._replace(state=State.TOMB, parked=Parked.NO, operator="", abort=True)
    heard = HELD._replace(cancel=Cancel.HEARD, cause=Cause.TIMED_OUT)
    assert said("give_back", HELD._replace(abort=True), PLAIN) == tomb
    assert said("give_back", heard, PLAIN) == tomb._replace(cancel=Cancel.HEARD, cause=Cause.TIMED_OUT, vetoer=True)
    # The abort is already told: a cancel heard before it must not make a second vetoer.
    assert said("give_back", heard._replace(abort=True), PLAIN) == tomb._replace(cancel=Cancel.HEARD)
    assert said("give_back", HELD._replace(cancel=Cancel.ASKED), PLAIN).parked is Parked.PARKED


def test_what_a_person_did_while_the_saga_aborts_is_undone() -> None:
    assert said("done", HELD._replace(abort=True, clear_in=3), OUTSIDE).state is State.COMPENSATING
    assert said("done", CALLED._replace(abort=True, clear_in=3), OUTSIDE).state is State.COMPENSATING


def test_a_call_is_declared_done_or_failed_by_who_looked_it_up() -> None:
    assert said("done", CALLED) == CALLED._replace(state=State.DONE, parked=Parked.NO, choice=1)
    tomb = CALLED._replace(state=State.TOMB, parked=Parked.NO, abort=True)
    assert said("fail", CALLED) == tomb._replace(vetoer=True, cause=Cause.REFUSED)
    assert said("fail", CALLED, OPTIONAL) == CALLED._replace(state=State.SKIPPED, parked=Parked.NO)
    for step in (OUTSIDE, FIRM):
        assert said("fail", CALLED._replace(abort=True, cause=Cause.CANCELLED), step) == tomb


def test_an_optional_call_that_failed_while_the_saga_aborts_is_clear_when_its_successors_are() -> None:
    after = said("fail", CALLED._replace(abort=True, clear_in=3), OPTIONAL)
    assert (after.state, after.parked) == (State.SKIPPED_CLEARED, Parked.NO)
    assert said("fail", CALLED._replace(abort=True, clear_in=1), OPTIONAL).state is State.SKIPPED


def test_a_step_that_must_not_refuse_cannot_be_failed_by_hand_unless_the_saga_aborts_anyway() -> None:
    assert "declared to never refuse" in refusal(CALLED, Resolved("fail", "ann"), FIRM).reason
    assert possible(CALLED, FIRM) == ("retry", "done")
    assert possible(CALLED._replace(abort=True), FIRM) == ("retry", "done", "fail")
    assert possible(CALLED, OPTIONAL) == possible(CALLED, OUTSIDE) == ("retry", "done", "fail")


@pytest.mark.parametrize("parked", [Parked.PARKED, Parked.PASSED])
def test_an_undo_is_declared_done_or_given_up_with_a_debt(parked: Parked) -> None:
    row = UNDOING._replace(parked=parked)
    closed = row._replace(state=State.COMPENSATED, parked=Parked.NO)
    assert said("done", row) == closed
    assert said("waive", row) == closed._replace(debt=True)


@pytest.mark.parametrize("row", [WAITS, HELD, CALLED, UNDOING])
@pytest.mark.parametrize("step", [OUTSIDE, FIRM, OPTIONAL])
@pytest.mark.parametrize("verb", [*VERBS, "else"])
def test_what_is_not_possible_is_refused_and_says_what_is(row: Row, step: StepPlan, verb: str) -> None:
    verbs = possible(row, step)
    if verb in verbs:
        assert said(verb, row, step) != row
    else:
        answer = refusal(row, Resolved(verb, "ann"), step)
        assert answer.reason.startswith(f"'{verb}'")
        assert f"possible: {', '.join(verbs)}" in answer.reason
        assert not answer.alarm


@pytest.mark.parametrize("state", [state for state in State if (state, Resolved) in TABLE])
@pytest.mark.parametrize("verb", VERBS)
def test_nothing_can_be_said_of_a_step_that_is_not_parked(state: State, verb: str) -> None:
    row = Row(state=state, done_in=3)
    assert "needs a parked step" in refusal(row, Resolved(verb, "ann"), OUTSIDE).reason
    assert possible(row, OUTSIDE) == ()


def test_what_is_closed_can_be_resolved_no_more() -> None:
    for state in (State.DONE, State.TOMB, State.SKIPPED, State.SKIPPED_CLEARED, State.COMPENSATED):
        assert possible(Row(state=state, parked=Parked.PARKED), OUTSIDE) == ()
        assert (state, Resolved) in TABLE
