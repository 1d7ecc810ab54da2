"""What is refused says why, to the letter: people act on these words."""

from __future__ import annotations

import pytest
from planned import kind, refusal

from saga_choreo.core.facts import CancelRequested, Completed, Fact, OutcomeCame, Resolved
from saga_choreo.core.graph import StepPlan
from saga_choreo.model.choreography import Undo
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cause, Outcome, Parked, State

PLAIN = kind()
OUTSIDE = kind(external=True, undo=Undo.EXTERNAL)
WAITS = Row(parked=Parked.PARKED, done_in=3, attempt=5)
HELD = WAITS._replace(parked=Parked.HUMAN, operator="ann")
CALLED = Row(state=State.RUNNING, parked=Parked.PARKED, done_in=3, attempt=5, key_no=1)
UNDOING = Row(state=State.COMPENSATING, parked=Parked.PARKED, done_in=3, attempt=5, abort=True, clear_in=3, choice=1)


@pytest.mark.parametrize(
    ("row", "verb", "step", "why"),
    [
        (WAITS, "done", PLAIN, "'done' cannot be said of a step that is parked before it ran; possible: retry, waive, take"),
        (HELD, "retry", PLAIN, "'retry' cannot be said of a step that a person has taken over; possible: done, give_back"),
        (
            CALLED,
            "waive",
            OUTSIDE,
            "'waive' cannot be said of a step whose call is not known to have happened; possible: retry, done, fail",
        ),
        (UNDOING, "take", PLAIN, "'take' cannot be said of an undo that keeps failing; possible: retry, done, waive"),
        (WAITS._replace(parked=Parked.NO), "retry", PLAIN, "'retry' needs a parked step; this one is waiting"),
        (CALLED._replace(parked=Parked.NO), "retry", OUTSIDE, "'retry' needs a parked step; this one is running"),
        (UNDOING._replace(parked=Parked.NO), "retry", PLAIN, "'retry' needs a parked step; this one is compensating"),
    ],
)
def test_a_word_that_cannot_be_said_is_refused_with_what_can(row: Row, verb: str, step: StepPlan, why: str) -> None:
    assert refusal(row, Resolved(verb, "ann", 1), step).reason == why


_CALLS = Row(state=State.RUNNING, done_in=3, attempt=1, key_no=2)


@pytest.mark.parametrize(
    ("row", "fact", "why"),
    [
        (_CALLS, Completed(1, 1), "the token is of a call that was declined; the step has called again since, under another key"),
        (
            CALLED._replace(key_no=2),
            Completed(2, 1),
            "the step is parked and waits for a person's word: resolve it as done or failed instead",
        ),
        (_CALLS, Completed(2, 1), "the step has not said yet that it waits for a completion; try again a little later"),
        (
            Row(state=State.DONE, done_in=3, choice=1, key_no=2),
            Completed(1, 1),
            "the step does not wait for a completion; it has ended, or its deadline has passed",
        ),
        (
            Row(state=State.DONE, done_in=3, choice=1, outcome=Outcome.COMPLETED),
            CancelRequested(),
            "the saga has ended already (completed)",
        ),
        (
            Row(state=State.TOMB, abort=True),
            OutcomeCame(Outcome.COMPLETED, Cause.NONE),
            "the saga is said to have ended as completed, but the step is tomb here",
        ),
    ],
)
def test_what_comes_too_late_or_to_the_wrong_step_says_so(row: Row, fact: Fact, why: str) -> None:
    assert refusal(row, fact, OUTSIDE).reason == why
