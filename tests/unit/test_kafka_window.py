"""How far a partition may be committed, and what the next owner learns: pure bookkeeping."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from saga_choreo_kafka.window import Window, read_mark

_MESSAGE = object()


def test_the_commit_stays_below_the_first_message_that_is_not_done() -> None:
    window = Window.taken_over(-1, "")
    held = [window.hold(offset, _MESSAGE) for offset in range(4)]
    assert window.commit_at == 0
    window.settle(held[1])
    window.settle(held[2])
    assert window.commit_at == 0
    window.settle(held[0])
    assert window.commit_at == 3
    window.settle(held[3])
    assert window.commit_at == 4


def test_offsets_that_hold_nothing_are_passed_over() -> None:
    window = Window.taken_over(10, "")
    held = [window.hold(offset, _MESSAGE) for offset in (12, 17)]
    assert window.settle(held[0])
    assert window.commit_at == 17
    assert window.settle(held[1])
    assert window.commit_at == 18


@given(st.lists(st.integers(1, 3), min_size=1, max_size=30), st.data())
def test_nothing_that_is_not_done_is_ever_below_the_commit(steps: list[int], data: st.DataObject) -> None:
    window = Window.taken_over(-1, "")
    offset, held = -1, []
    for step in steps:
        offset += step
        held.append(window.hold(offset, _MESSAGE))
    last = 0
    for one in data.draw(st.permutations(held)):
        assert window.settle(one)
        assert last <= window.commit_at
        last = window.commit_at
        assert all(other.offset >= last for other in held if other.is_open)
    assert last == offset + 1


def test_what_is_settled_twice_or_after_the_partition_went_is_not_settled() -> None:
    window = Window.taken_over(-1, "")
    one, two = window.hold(0, _MESSAGE), window.hold(1, _MESSAGE)
    assert window.settle(one)
    assert not window.settle(one)
    window.live = False
    assert not window.settle(two)


def test_the_next_owner_counts_what_was_handed_out_and_nothing_else() -> None:
    first = Window.taken_over(-1, "")
    held = [first.hold(offset, _MESSAGE) for offset in range(6)]
    first.handed = 4
    first.settle(held[0])
    second = Window.taken_over(first.commit_at, first.mark)
    assert [second.tries_before(offset) for offset in range(1, 6)] == [1, 1, 1, 0, 0]


def test_owners_that_die_one_after_the_other_over_the_same_message_are_counted() -> None:
    committed, mark = 7, ""
    for owners in range(5):
        window = Window.taken_over(committed, mark)
        assert window.tries_before(7) == owners
        window.hold(7, _MESSAGE)
        window.handed = 8
        committed, mark = window.commit_at, window.mark


def test_a_region_that_got_done_is_forgotten() -> None:
    window = Window.taken_over(7, "3:9")
    for offset in range(7, 12):
        held = window.hold(offset, _MESSAGE)
        window.handed = offset + 1
        if offset < 10:
            window.settle(held)
    assert (window.commit_at, window.mark) == (10, "1:12")


def test_a_text_beside_an_offset_that_is_not_ours_says_nothing() -> None:
    assert [read_mark(text) for text in ("", "x", "1", "a:b", "2:5")] == [(0, 0), (0, 0), (0, 0), (0, 0), (2, 5)]


def test_a_window_goes_on_after_a_rebalance_only_where_nobody_else_has_worked() -> None:
    window = Window.taken_over(5, "")
    held = window.hold(5, _MESSAGE)
    window.hold(6, _MESSAGE)
    window.settle(held)
    assert [window.agrees_with(committed) for committed in (-1, 4, 5, 6, 7)] == [False, False, True, True, False]
