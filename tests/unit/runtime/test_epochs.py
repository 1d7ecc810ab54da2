"""What counts as a store that went back, and what as accepted."""

from __future__ import annotations

import json

import pytest

from saga_choreo.ports import Epoch
from saga_choreo.runtime.epochs import Told, acceptance, is_accepted, went_back

TOLD = Told("here", 7, 1_000)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Epoch("here", 7), ""),
        (Epoch("here", 9), ""),
        (Epoch("here", 6), "had reached 7"),
        (Epoch("there", 7), "another database"),
        (Epoch("there", 99), "another database"),
    ],
)
def test_a_lower_position_or_another_history_is_suspicious(now: Epoch, said: str) -> None:
    assert (said in went_back(TOLD, now)) if said else went_back(TOLD, now) == ""


@pytest.mark.parametrize(
    ("identity", "at_ms", "accepted"),
    [("here", 1_001, True), ("here", 1_000, False), ("here", 5, False), ("there", 2_000, False)],
)
def test_only_what_was_accepted_later_and_of_this_very_history_counts(identity: str, at_ms: int, accepted: bool) -> None:
    note = acceptance(Epoch(identity, 3), "ana", "restored “ü”", at_ms)
    assert is_accepted(TOLD, Epoch("here", 3, note)) is accepted
    assert json.loads(note)["reason"] == "restored “ü”"


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"identity": "here"}', '{"identity": "here", "at_ms": "late"}', "nonsense"])
def test_a_note_that_is_none_accepts_nothing(note: str) -> None:
    assert not is_accepted(TOLD, Epoch("here", 3, note))
