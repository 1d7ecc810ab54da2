"""Which agent of a service takes what waits."""

from __future__ import annotations

import pytest

from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.ports.broker import RANK_LAST
from saga_choreo.runtime.sharing import Sharing
from saga_choreo.runtime.timing import Limits

LIMITS = Limits(batch_max=32, fast_budget_s=0.25)


class Ranking(MemoryBroker):
    """Remembers what it was told."""

    def __init__(self, *, can: bool = True) -> None:
        super().__init__("memory://sharing")
        self.can = can
        self.told: list[tuple[int, int | None]] = []

    def prefer(self, rank: int, held_max: int | None = None) -> bool:
        self.told.append((rank, held_max))
        return self.can


def _divided(place: int, agents: int, broker: MemoryBroker, *batches: tuple[int, float, float]) -> int:
    """Batches are messages, seconds, and seconds of each handler."""
    sharing = Sharing(broker, LIMITS, lambda: (place, agents))
    for messages, seconds, handler_s in batches:
        for _ in range(messages):
            sharing.waited(handler_s)
        sharing.worked(messages, seconds)
    return sharing.divide()


def test_an_agent_alone_takes_all_there_is() -> None:
    broker = Ranking()
    assert _divided(0, 1, broker, (10, 1.0, 0.1)) == 1
    assert broker.told == [(0, None)]


def test_the_first_of_several_is_served_first_and_takes_what_one_transaction_has_time_for() -> None:
    broker = Ranking()
    assert _divided(0, 3, broker, (20, 0.04, 0.0005)) == 1
    assert broker.told == [(0, 125)]


@pytest.mark.parametrize(("place", "rank"), [(1, 1), (2, 2), (8, 8), (9, 8), (60, 8)])
def test_the_others_get_what_is_left_in_turn_and_gather_it_for_longer(place: int, rank: int) -> None:
    broker = Ranking()
    assert _divided(place, place + 1, broker, (2, 0.01, 0.0005)) == min(place + 1, 4)
    assert broker.told == [(rank, 50)]


def test_no_agent_takes_less_than_a_batch_and_none_that_was_fast_once_takes_everything() -> None:
    slow, fast = Ranking(), Ranking()
    _divided(0, 2, slow, (10, 1.0, 0.01))
    _divided(0, 2, fast, (10, 0.0, 0.0))
    assert [slow.told, fast.told] == [[(0, 32)], [(0, 500)]]


@pytest.mark.parametrize("handler_s", [0.02, 0.1, 0.15, 0.2, 0.25])
def test_where_handlers_wait_all_agents_get_like_parts(handler_s: float) -> None:
    for place in range(3):
        broker = Ranking()
        assert _divided(place, 3, broker, (10, 11 * handler_s, handler_s)) == 3
        assert broker.told == [(RANK_LAST, None)]


def test_an_agent_that_takes_longer_for_a_message_than_a_transaction_has_time_for_leaves_what_waits_to_the_others() -> None:
    broker = Ranking()
    assert _divided(0, 2, broker, *[(2, 0.8, 0.001)] * 3) == 2
    assert broker.told == [(RANK_LAST, 32)]


@pytest.mark.parametrize(("seconds", "handler_s"), [(0.30, 0.02), (0.04, 0.004)])
def test_handlers_that_are_part_of_what_a_slow_machine_does_or_that_are_quick_are_not_waited_for(
    seconds: float, handler_s: float
) -> None:
    broker = Ranking()
    _divided(1, 2, broker, (10, seconds, handler_s))
    assert [rank for rank, _ in broker.told] == [1]


def test_what_was_measured_is_forgotten_after_some_batches() -> None:
    broker = Ranking()
    _divided(0, 2, broker, (10, 0.22, 0.02), *[(10, 0.02, 0.0005)] * 40)
    assert broker.told[0][0] == 0


def test_a_handler_that_takes_very_long_now_and_then_says_nothing_of_the_others() -> None:
    broker = Ranking()
    _divided(0, 2, broker, *[(20, 0.04, 0.0005)] * 5, (1, 30.0, 30.0), *[(20, 0.04, 0.0005)] * 5)
    assert broker.told == [(0, 32)], "but for a while it takes less"


def test_an_agent_that_is_not_well_leaves_what_waits_to_the_others() -> None:
    broker = Ranking()
    sharing = Sharing(broker, LIMITS, lambda: (0, 2))
    assert sharing.divide(is_well=False) == 2
    assert broker.told == [(RANK_LAST, 32)]
    alone = Ranking()
    assert Sharing(alone, LIMITS).divide(is_well=False) == 1
    assert alone.told == [(0, None)]


def test_where_ranks_are_not_known_each_gets_a_like_part() -> None:
    assert _divided(0, 3, Ranking(can=False)) == 3
    assert _divided(0, 9, MemoryBroker("memory://sharing")) == 4
