"""What people are told of a parked step: that it is parked, and what was said on it; each derived from the record."""

from __future__ import annotations

from uuid import UUID

import pytest

from saga_choreo.core.notices import Note, notices
from saga_choreo.model.envelope import MessageKind, Parking
from saga_choreo.model.record import ORIGIN, Record, Resolution, Row
from saga_choreo.model.states import Parked, State

WORD = Resolution("retry", "ann", "the bank is back", at_ms=1, attempt=4, number=2)


def record(row: Row, step: int = 1, resolution: Resolution | None = None) -> Record:
    return Record(
        service="two", saga_id=UUID(int=1), definition="d", step=step, row=row, choreography="c", origin="o",
        error="timeout", resolution=resolution,
    )  # fmt: skip


@pytest.mark.parametrize("parked", [Parked.PARKED, Parked.PASSED])
def test_a_parked_step_tells_its_attempts_and_its_error(parked: Parked) -> None:
    told = notices(record(Row(state=State.COMPENSATING, parked=parked, attempt=5)))
    assert told == (Note(MessageKind.PARKED, Parking(attempt=5, round=0, error="timeout")),)


@pytest.mark.parametrize("parked", [Parked.NO, Parked.HUMAN])
def test_a_step_that_is_not_parked_or_in_a_persons_hands_tells_nothing(parked: Parked) -> None:
    assert notices(record(Row(parked=parked, attempt=5))) == ()


def test_a_persons_word_is_told_with_the_attempt_it_was_said_after() -> None:
    told = notices(record(Row(attempt=0), resolution=WORD))
    said = Parking(attempt=4, round=2, operator="ann", resolution="retry")
    assert told == (Note(MessageKind.RESOLVED, said, "the bank is back"),)


def test_a_step_that_parks_again_after_a_word_gives_another_notice() -> None:
    told = notices(record(Row(parked=Parked.PARKED, attempt=4), resolution=WORD))
    assert [note.kind for note in told] == [MessageKind.RESOLVED, MessageKind.PARKED]
    assert told[1] == Note(MessageKind.PARKED, Parking(attempt=4, round=2, error="timeout"), "")


def test_the_origin_is_never_parked_and_tells_nothing() -> None:
    assert notices(record(Row(parked=Parked.PARKED), step=ORIGIN, resolution=WORD)) == ()
