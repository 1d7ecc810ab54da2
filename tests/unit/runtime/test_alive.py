"""Who is there, by the clock of whoever listens: those of others may be wrong by hours."""

from __future__ import annotations

import pytest

from saga_choreo.runtime.alive import Sign, Signs, life_of
from saga_choreo.runtime.clock import SystemClock

HOUR_MS = 3_600_000
NOW_MS = 1_800_000_000_000


class Clock(SystemClock):
    def __init__(self) -> None:
        super().__init__()
        self.passed_ms = 0

    def time_ns(self) -> int:
        return (NOW_MS + self.passed_ms) * 1_000_000

    def monotonic(self) -> float:
        return self.passed_ms / 1000


class Place:
    def __init__(self, off_ms: int) -> None:
        self.clock = Clock()
        self.signs = Signs("shop", self.clock)
        self._off_ms = off_ms
        self._given_ms = 0

    def give(self, service: str = "payment", agent: str = "a") -> None:
        """An agent whose clock is off says that it is there."""
        self._given_ms = self.clock.passed_ms
        self.show(service, agent)

    def show(self, service: str = "payment", agent: str = "a") -> None:
        """The broker shows what it keeps."""
        self.signs.hear(service, agent, Sign(NOW_MS + self._off_ms + self._given_ms, 10_000), "me")

    def after(self, seconds: int) -> None:
        self.clock.passed_ms += 1000 * seconds

    def life(self, service: str = "payment") -> str:
        return life_of(service, self.signs.heard(), self.clock.time_ns() // 1_000_000)


@pytest.mark.parametrize("off_ms", [-HOUR_MS, HOUR_MS, 0, -(2**60), 2**60])
def test_an_agent_is_there_from_its_second_sign_on_until_it_is_silent_whatever_its_clock_says(off_ms: int) -> None:
    place = Place(off_ms)
    place.give()
    for _ in range(3):
        place.after(10)
        place.give()
        assert place.life() == ""
        place.after(34)
        assert place.life() == ""
        place.after(2)
        assert place.life() == "no live agent: the last one was heard 36 s ago"
    place.after(600)
    place.show()
    assert place.life() == "no live agent: the last one was heard 10 min ago", "the same sign, shown again after a lost connection"


def test_what_is_known_of_a_first_sign_is_said_with_whose_clock_it_is_known_by() -> None:
    place = Place(0)
    place.give()
    assert place.life() == ""
    back, ahead = Place(-HOUR_MS), Place(HOUR_MS)
    for place in (back, ahead):
        place.give()
    assert back.life() == "no live agent: the last sign of one is 60 min old by its own clock"
    ahead.after(13)
    assert ahead.life() == (
        "whether an agent of it runs is not known: the last sign of one is 60 min ahead of the clock here, none came in 13 s"
    )
    ahead.after(23)
    assert ahead.life().startswith("no live agent: the last sign of one, by a clock that was 60 min ahead")
    ahead.after(3600)
    assert ahead.life().startswith("no live agent")


@pytest.mark.parametrize(
    ("off_ms", "doubt_s"),
    [
        (0, 0.0),
        (-20_000, 0.0),
        (30_000, 0.0),
        (-40_000, 13.0),
        (40_000, 13.0),
        (HOUR_MS, 13.0),
        (-HOUR_MS, 13.0),
        (-3 * HOUR_MS, 0.0),
    ],
)
def test_another_sign_is_waited_for_where_a_wrong_clock_may_be_the_reason(off_ms: int, doubt_s: float) -> None:
    place = Place(off_ms)
    assert place.signs.doubt_s() == 0.0
    place.give()
    assert place.signs.doubt_s() == doubt_s
    place.after(10)
    assert place.signs.doubt_s() == max(doubt_s - 10, 0.0)
    place.give()
    assert place.signs.doubt_s() == 0.0


@pytest.mark.parametrize("off_ms", [-HOUR_MS, HOUR_MS])
def test_company_is_counted_by_when_it_was_heard(off_ms: int) -> None:
    place = Place(off_ms)
    place.give("shop", "me")
    place.give("shop", "other")
    place.give("payment", "third")
    assert place.signs.company() == 1
    place.after(34)
    assert place.signs.company() == 1
    place.after(2)
    assert place.signs.company() == 0
