"""What counts as a store that went back, and what as accepted."""

from __future__ import annotations

import json

import pytest

from saga_choreo.ports import Epoch
from saga_choreo.runtime.accepting import Acceptance, accept, unused, went_back

TOLD = {"here": 7}


def noted(identity: str = "here", position: int = 3, note: str = "") -> Acceptance:
    return accept(Epoch(identity, position, note), "a1", "ana", "restored “ü”", 1_000)


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


def test_every_history_that_was_told_of_is_compared_with() -> None:
    told = {"here": 7, "there": 12}
    assert "was 'there'" in went_back(told, Epoch("here", 9))
    assert "had reached 7" in went_back(told, Epoch("here", 6))


@pytest.mark.parametrize("at_ms", [0, 1_000, 2**45])
@pytest.mark.parametrize("identity", ["here", "there"])
def test_what_was_accepted_of_this_very_history_counts_whatever_the_clocks_say(identity: str, at_ms: int) -> None:
    acceptance = accept(Epoch(identity, 3), "a1", "ana", "restored “ü”", at_ms)
    found = unused(Epoch("here", 4, acceptance.note()), ())
    assert found == (acceptance if identity == "here" else None)
    assert json.loads(acceptance.note())["reason"] == "restored “ü”"


def test_an_acceptance_serves_once() -> None:
    acceptance = noted()
    assert unused(Epoch("here", 900, acceptance.used(TOLD).note()), ()) is None, "marked in the store"
    assert unused(Epoch("here", 4, acceptance.note()), ("a0", "a1")) is None, "told by those who went on with it"


def test_an_acceptance_covers_what_was_told_of_other_histories_until_then_and_nothing_later() -> None:
    note = noted("there").used({"here": 500, "before": 20}).note()
    assert went_back({"here": 500}, Epoch("there", 501, note)) == ""
    assert went_back({"before": 20, "long before": 3}, Epoch("there", 501, note)) == ""
    assert "another database" in went_back({"here": 501}, Epoch("there", 600, note)), "somebody went on with the other history"
    assert "another database" in went_back({"here": 500}, Epoch("third", 600, note)), "the note came along with a failover"
    assert "had reached 502" in went_back({"there": 502}, Epoch("there", 501, note))


def test_a_further_acceptance_covers_what_the_one_before_covered() -> None:
    before = noted("there").used({"here": 500}).note()
    assert went_back({"here": 500}, Epoch("there", 502, noted("there", 501, before).note())) == ""


@pytest.mark.parametrize(
    "note",
    ["", "[]", "{}", "7", '"id"', "nonsense", '{"identity": "here"}', '{"id": "a", "identity": "here", "position": "late"}',
     '{"id": "a", "identity": "here", "position": 3, "is_used": 0}'],
)  # fmt: skip
def test_a_note_that_is_none_accepts_nothing(note: str) -> None:
    assert unused(Epoch("here", 3, note), ()) is None
    assert went_back(TOLD, Epoch("there", 9, note))


def test_a_note_in_which_a_later_release_has_written_more_is_read() -> None:
    acceptance = noted()
    more = json.dumps({**json.loads(acceptance.note()), "ticket": "OPS-1"})
    assert unused(Epoch("here", 4, more), ()) == acceptance
