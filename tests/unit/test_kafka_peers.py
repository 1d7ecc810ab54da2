"""Who of a group is put out by its peers, and which session is asked for: pure functions."""

from __future__ import annotations

import pytest

from saga_choreo_kafka.peers import Silence, longer_session
from saga_choreo_kafka.window import read_mark

_PATIENCE_S = 3.0


def judged(silence: Silence, at: float, *texts: str) -> list[str]:
    return silence.judged("me", texts, at)


def test_a_member_that_was_heard_and_falls_silent_has_to_go() -> None:
    silence = Silence(_PATIENCE_S)
    assert [judged(silence, at, "1:7 4 other") for at in (0.0, 1.0)] == [[], []]
    assert [judged(silence, at, "1:9 5 other") for at in (2.0, 3.0, 4.0, 4.9)] == [[], [], [], []]
    assert judged(silence, 5.0, "1:9 5 other") == ["other"]


def test_a_member_goes_on_living_by_whichever_offset_it_commits() -> None:
    silence = Silence(_PATIENCE_S)
    for at in range(20):
        assert not judged(silence, float(at), "1:7 4 other", f"1:7 {at + 5} other")


def test_what_somebody_left_behind_who_is_known_to_be_gone_says_nothing() -> None:
    silence = Silence(_PATIENCE_S)
    assert [judged(silence, float(at), "1:7 4 other", "2:9") for at in range(5)][-1] == ["other"]
    silence.gone("other")
    assert not any(judged(silence, float(at), "1:7 4 other", "2:9") for at in range(5, 20))


def test_whoever_was_held_up_itself_looks_again_before_it_judges() -> None:
    silence = Silence(_PATIENCE_S)
    judged(silence, 0.0, "1:7 4 other")
    judged(silence, 1.0, "1:7 5 other")
    assert judged(silence, 60.0, "1:7 5 other") == []
    assert judged(silence, 61.0, "1:7 6 other") == []


def test_nobody_puts_itself_out() -> None:
    silence = Silence(_PATIENCE_S)
    judged(silence, 0.0, "1:7 4 me")
    assert not any(judged(silence, float(at), "1:7 5 me") for at in range(1, 20))


def test_a_signed_mark_is_read_as_the_mark_alone() -> None:
    assert read_mark("2:1041 17 saga-choreo saga.payment-0a1b") == read_mark("2:1041") == (2, 1041)


@pytest.mark.parametrize(
    ("refused", "next_one"), [(3.5, 6.0), (6.0, 10.0), (7.0, 10.0), (10.0, 30.0), (30.0, 30.0), (9999.0, 9999.0)]
)
def test_a_session_that_was_refused_is_followed_by_the_next_longer_one_that_servers_are_set_to(
    refused: float, next_one: float
) -> None:
    assert longer_session(refused, "saga.payment") == next_one
