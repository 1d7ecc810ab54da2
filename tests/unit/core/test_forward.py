"""A step on its way forward: joining, claiming, running, refusing, failing, waiting for a completion, running out of time."""

from __future__ import annotations

from typing import Any

import pytest
from planned import accepted, kind, refusal

from saga_choreo.core.facts import (
    CancelCame,
    Claimed,
    Completed,
    CompletionDeclined,
    DeadlinePassed,
    Declined,
    DoneCame,
    Fact,
    Failed,
    SkipCame,
    Succeeded,
    WentPending,
)
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.transitions import transition
from saga_choreo.model.choreography import Join, Undo
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cancel, Cause, Parked, State

PLAIN = kind()
ANY = kind(join=Join.ANY)
OUTSIDE = kind(external=True, undo=Undo.EXTERNAL)
OPTIONAL = kind(optional=True)
FIRM = kind(retriable=True)
FIRM_OPTIONAL = kind(retriable=True, optional=True)
FIRM_OUTSIDE = kind(retriable=True, external=True, undo=Undo.EXTERNAL)
OPTIONAL_OUTSIDE = kind(optional=True, retriable=True, external=True, undo=Undo.EXTERNAL)
LATE = kind(deadline_event=EventRef("b.late"))
LATE_OUTSIDE = kind(external=True, undo=Undo.EXTERNAL, deadline_event=EventRef("b.late"))

READY = Row(done_in=3, attempt=2)
CALLING = Row(state=State.RUNNING, done_in=3, attempt=2)
PENDING = CALLING._replace(pending=True, key_no=1)
OF_THIS_ATTEMPT: list[Fact] = [Succeeded(2, 1), Declined(2, True), Failed(2, True, True)]


def same(row: Row, fact: Fact, step: StepPlan) -> None:
    assert transition(row, fact, step) is row


@pytest.mark.parametrize("step", [PLAIN, ANY])
def test_a_join_waits_until_every_edge_is_done_or_skipped(step: StepPlan) -> None:
    assert accepted(Row(), DoneCame(1), step) == Row(done_in=1)
    assert accepted(Row(), SkipCame(2), step) == Row(skip_in=2)
    assert accepted(Row(done_in=1), DoneCame(2), step) == Row(done_in=3)


def test_a_skipped_edge_skips_an_all_of_and_leaves_an_any_of_to_run() -> None:
    for before, last in ((Row(done_in=1), SkipCame(2)), (Row(skip_in=2), DoneCame(1))):
        assert accepted(before, last, PLAIN) == Row(state=State.SKIPPED, done_in=1, skip_in=2)
        assert accepted(before, last, ANY) == Row(done_in=1, skip_in=2)
    assert accepted(Row(skip_in=2), SkipCame(1), ANY) == Row(state=State.SKIPPED, skip_in=3)


def test_an_external_step_is_recorded_as_running_before_it_runs() -> None:
    assert accepted(Row(done_in=1), DoneCame(2), OUTSIDE) == Row(state=State.RUNNING, done_in=3)


@pytest.mark.parametrize("fact", [DoneCame(1), SkipCame(1), DoneCame(4), SkipCame(4)])
@pytest.mark.parametrize("row", [Row(done_in=1), Row(skip_in=1)])
def test_an_edge_keeps_its_first_word_and_an_unknown_edge_counts_nothing(row: Row, fact: Fact) -> None:
    same(row, fact, PLAIN)


@pytest.mark.parametrize("row", [READY, CALLING, Row(state=State.COMPENSATING, abort=True, attempt=2)])
def test_a_claim_counts_one_attempt(row: Row) -> None:
    assert accepted(row, Claimed(), PLAIN) == row._replace(attempt=3)


@pytest.mark.parametrize(
    "row",
    [
        READY._replace(parked=Parked.PARKED),
        READY._replace(parked=Parked.HUMAN),
        Row(done_in=1),
        PENDING,
        CALLING._replace(parked=Parked.PARKED),
        Row(state=State.COMPENSATING, parked=Parked.PASSED),
    ],
)
def test_nobody_can_claim_what_is_held_back_or_waits(row: Row) -> None:
    same(row, Claimed(), PLAIN)


@pytest.mark.parametrize("row", [READY, CALLING])
def test_a_step_that_succeeds_is_done_with_its_choice(row: Row) -> None:
    assert accepted(row, Succeeded(2, 1), PLAIN) == row._replace(state=State.DONE, choice=1)


@pytest.mark.parametrize("fact", OF_THIS_ATTEMPT)
@pytest.mark.parametrize(
    "row",
    [
        READY._replace(attempt=3),
        READY._replace(parked=Parked.PARKED),
        READY._replace(parked=Parked.HUMAN),
        CALLING._replace(attempt=3),
        CALLING._replace(parked=Parked.PARKED),
        PENDING,
    ],
)
@pytest.mark.parametrize("step", [PLAIN, FIRM, OPTIONAL])
def test_a_result_of_another_attempt_or_of_a_step_that_is_held_back_counts_nothing(row: Row, fact: Fact, step: StepPlan) -> None:
    same(row, fact, step)


@pytest.mark.parametrize("fact", OF_THIS_ATTEMPT)
@pytest.mark.parametrize("step", [PLAIN, FIRM, OPTIONAL])
def test_a_step_that_still_waits_for_an_event_has_no_result(fact: Fact, step: StepPlan) -> None:
    same(Row(done_in=1, attempt=2), fact, step)


@pytest.mark.parametrize("row", [READY, CALLING])
@pytest.mark.parametrize("exhausted", [False, True])
def test_a_business_no_aborts_or_skips_an_optional_step(row: Row, exhausted: bool) -> None:
    declined = Declined(2, exhausted)
    tomb = row._replace(state=State.TOMB, abort=True, vetoer=True, cause=Cause.REFUSED)
    assert accepted(row, declined, PLAIN) == tomb
    for optional in (OPTIONAL, FIRM_OPTIONAL):
        assert accepted(row, declined, optional) == row._replace(state=State.SKIPPED)


def test_a_business_no_of_a_step_that_must_not_refuse_is_tried_again_and_then_parked() -> None:
    same(READY, Declined(2), FIRM)
    assert accepted(READY, Declined(2, exhausted=True), FIRM) == READY._replace(parked=Parked.PARKED)
    assert accepted(CALLING, Declined(2), FIRM_OUTSIDE) == CALLING._replace(key_no=1)
    assert accepted(CALLING, Declined(2, exhausted=True), FIRM_OUTSIDE) == CALLING._replace(key_no=1, parked=Parked.PARKED)


@pytest.mark.parametrize("step", [OUTSIDE, FIRM_OUTSIDE, OPTIONAL_OUTSIDE])
def test_a_call_that_is_declined_while_the_saga_aborts_leaves_a_tombstone_without_a_veto(step: StepPlan) -> None:
    after = accepted(CALLING._replace(abort=True), Declined(2), step)
    assert after == CALLING._replace(state=State.TOMB, abort=True)


@pytest.mark.parametrize("row", [READY, CALLING])
@pytest.mark.parametrize("step", [PLAIN, OPTIONAL, FIRM])
def test_a_failure_is_tried_again_until_the_attempts_are_exhausted_and_then_parked(row: Row, step: StepPlan) -> None:
    same(row, Failed(2), step)
    same(row, Failed(2, veto=True), step)
    assert accepted(row, Failed(2, exhausted=True), step) == row._replace(parked=Parked.PARKED)


def test_exhausted_attempts_refuse_where_the_policy_says_so_and_the_step_may() -> None:
    failed = Failed(2, exhausted=True, veto=True)
    tomb = READY._replace(state=State.TOMB, abort=True, vetoer=True, cause=Cause.REFUSED)
    assert accepted(READY, failed, PLAIN) == tomb
    for optional in (OPTIONAL, FIRM_OPTIONAL):
        assert accepted(READY, failed, optional) == READY._replace(state=State.SKIPPED)
    assert accepted(READY, failed, FIRM) == READY._replace(parked=Parked.PARKED)


def test_an_unknown_result_of_a_call_never_refuses() -> None:
    assert accepted(CALLING, Failed(2, exhausted=True, veto=True), OUTSIDE) == CALLING._replace(parked=Parked.PARKED)


def test_a_call_goes_pending_only_once_and_only_in_its_own_attempt() -> None:
    assert accepted(CALLING, WentPending(2), OUTSIDE) == CALLING._replace(pending=True)
    for row in (CALLING._replace(attempt=3), CALLING._replace(parked=Parked.PARKED), PENDING):
        same(row, WentPending(2), OUTSIDE)


def test_a_pending_step_is_completed_by_the_token_of_its_own_call() -> None:
    assert accepted(PENDING, Completed(1, 1), OUTSIDE) == PENDING._replace(state=State.DONE, pending=False, choice=1)
    declined = accepted(PENDING, CompletionDeclined(1), OUTSIDE)
    assert declined == PENDING._replace(state=State.TOMB, pending=False, abort=True, vetoer=True, cause=Cause.REFUSED)
    assert accepted(PENDING, CompletionDeclined(1), FIRM_OUTSIDE) == CALLING._replace(key_no=2)
    assert accepted(PENDING, CompletionDeclined(1), OPTIONAL_OUTSIDE) == PENDING._replace(state=State.SKIPPED, pending=False)


@pytest.mark.parametrize("fact", [Completed(0, 1), CompletionDeclined(0)])
def test_a_completion_is_refused_for_the_reason_it_cannot_be_taken(fact: Fact) -> None:
    reasons = {
        PENDING: "under another key",
        CALLING: "try again a little later",
        CALLING._replace(parked=Parked.PARKED): "waits for a person's word",
        Row(state=State.DONE): "it has ended",
        Row(): "it has ended",
    }
    for row, reason in reasons.items():
        answer = refusal(row, fact, OUTSIDE)
        assert reason in answer.reason
        assert not answer.alarm


@pytest.mark.parametrize("fact", [CancelCame(Cause.TIMED_OUT), DeadlinePassed()])
def test_a_request_to_stop_is_followed_by_a_waiting_step_that_may_veto(fact: Fact) -> None:
    for row in (Row(), Row(done_in=1), READY, READY._replace(parked=Parked.PARKED)):
        tomb = row._replace(state=State.TOMB, parked=Parked.NO, abort=True, vetoer=True, cause=Cause.TIMED_OUT)
        assert accepted(row, fact, PLAIN) == tomb
    for firm in (FIRM, FIRM_OPTIONAL):
        same(Row(), fact, firm)


def test_a_request_to_stop_is_kept_for_the_person_who_has_the_step_once() -> None:
    held = READY._replace(parked=Parked.HUMAN, operator="ann")
    heard = accepted(held, CancelCame(Cause.TIMED_OUT), PLAIN)
    assert heard == held._replace(cancel=Cancel.HEARD, cause=Cause.TIMED_OUT)
    same(heard, CancelCame(Cause.CANCELLED), PLAIN)
    asked = held._replace(cancel=Cancel.ASKED)
    assert accepted(asked, CancelCame(), PLAIN).cancel == Cancel.ASKED | Cancel.HEARD


def test_a_call_on_its_way_does_not_hear_a_request_to_stop() -> None:
    same(CALLING, CancelCame(), OUTSIDE)
    same(CALLING, DeadlinePassed(), LATE_OUTSIDE)
    same(PENDING, DeadlinePassed(), LATE_OUTSIDE)


def test_an_own_deadline_publishes_its_event_if_there_is_one_and_the_step_is_ready() -> None:
    own = DeadlinePassed(own=True)
    assert LATE.deadline_choice == 2
    assert accepted(READY, own, LATE) == READY._replace(state=State.DONE, choice=2)
    assert accepted(READY._replace(parked=Parked.PARKED), own, LATE) == READY._replace(state=State.DONE, choice=2)
    same(Row(done_in=1), own, LATE)
    same(READY._replace(parked=Parked.HUMAN), own, LATE)


def test_an_own_deadline_without_an_event_refuses_or_skips_or_is_borne() -> None:
    own = DeadlinePassed(own=True)
    assert accepted(READY, own, PLAIN) == READY._replace(state=State.TOMB, abort=True, vetoer=True, cause=Cause.TIMED_OUT)
    for optional in (OPTIONAL, FIRM_OPTIONAL):
        assert accepted(READY, own, optional) == READY._replace(state=State.SKIPPED)
    same(READY, own, FIRM)


def test_only_a_pending_call_hears_its_own_deadline_and_only_if_that_has_an_event() -> None:
    own = DeadlinePassed(own=True)
    assert accepted(PENDING, own, LATE_OUTSIDE) == PENDING._replace(state=State.DONE, pending=False, choice=2)
    same(CALLING, own, LATE_OUTSIDE)
    same(PENDING, own, OUTSIDE)


@pytest.mark.parametrize(
    ("row", "fact"),
    [(CALLING, Succeeded(2, 1)), (PENDING, Completed(1, 1)), (PENDING, DeadlinePassed(own=True))],
)
def test_a_call_that_ends_while_the_saga_aborts_is_undone_at_once_when_all_that_follows_is_clear(row: Row, fact: Any) -> None:
    after = accepted(row._replace(abort=True, clear_in=3), fact, LATE_OUTSIDE)
    assert (after.state, after.attempt, after.key_no, after.pending) == (State.COMPENSATING, 0, 0, False)
    waits = accepted(row._replace(abort=True, clear_in=1), fact, LATE_OUTSIDE)
    assert waits.state is State.DONE


def test_a_saga_that_does_not_abort_is_not_undone_whatever_has_been_cleared() -> None:
    assert accepted(CALLING._replace(clear_in=3), Succeeded(2, 1), OUTSIDE).state is State.DONE
