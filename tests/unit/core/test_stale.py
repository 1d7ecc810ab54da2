"""A message for a saga older than the horizon never makes a record: it is answered as a tombstone would, or quarantined."""

from __future__ import annotations

import pytest
from planned import CHOOSE, JOIN, LEFT, PLAN

from saga_choreo.core.emissions import Message
from saga_choreo.core.stale import stale_answer
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN
from saga_choreo.model.states import Cause, Outcome

PROOFS = [MessageKind.ABORT, MessageKind.CLEAR]


@pytest.mark.parametrize("kind", PROOFS)
@pytest.mark.parametrize("debt", [False, True])
def test_a_proof_of_an_abort_is_answered_with_a_clear_to_every_predecessor(kind: MessageKind, debt: bool) -> None:
    answer = stale_answer(Message(kind, LEFT, "three", target=JOIN, debt=debt), JOIN, PLAN)
    assert answer == (
        Message(MessageKind.CLEAR, JOIN, "one", target=CHOOSE, debt=debt),
        Message(MessageKind.CLEAR, JOIN, "two", target=LEFT, debt=debt),
    )


def test_a_first_step_clears_the_origin() -> None:
    answer = stale_answer(Message(MessageKind.ABORT, LEFT, "one"), CHOOSE, PLAN)
    assert answer == (Message(MessageKind.CLEAR, CHOOSE, "origin", target=ORIGIN),)


@pytest.mark.parametrize("kind", PROOFS)
@pytest.mark.parametrize(("debt", "outcome"), [(False, Outcome.ABORTED), (True, Outcome.FAILED)])
def test_the_origin_answers_with_the_outcome_that_it_must_have_decided(kind: MessageKind, debt: bool, outcome: Outcome) -> None:
    answer = stale_answer(Message(kind, CHOOSE, "origin", cause=Cause.TIMED_OUT, debt=debt), ORIGIN, PLAN)
    assert answer == (Message(MessageKind.OUTCOME, ORIGIN, outcome=outcome, cause=Cause.TIMED_OUT, debt=debt),)


def test_a_stale_outcome_needs_neither_answer_nor_quarantine() -> None:
    assert stale_answer(Message(MessageKind.OUTCOME, ORIGIN, outcome=Outcome.COMPLETED), JOIN, PLAN) == ()


@pytest.mark.parametrize("kind", sorted(set(MessageKind) - {MessageKind.OUTCOME, *PROOFS}))
@pytest.mark.parametrize("step", [ORIGIN, JOIN])
def test_any_other_stale_message_is_quarantined(kind: MessageKind, step: int) -> None:
    assert stale_answer(Message(kind, LEFT), step, PLAN) is None
