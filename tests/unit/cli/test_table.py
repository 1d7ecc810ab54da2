"""Tables: what a terminal shows, what a pipe gets, and what strangers' text cannot do."""

from __future__ import annotations

from saga_choreo.cli.table import clean, render, width_of
from saga_choreo.cli.when import ago, rfc3339, shown

DAY_MS = 86_400_000


def test_columns_line_up_and_lines_do_not_end_in_spaces() -> None:
    lines, was_cut = render(["id", "state"], [["1", "running"], ["22", "x"]])
    assert (lines, was_cut) == (["ID  STATE", "1   running", "22  x"], False)


def test_nothing_is_cut_without_a_limit_and_the_header_can_be_left_out() -> None:
    lines, was_cut = render(["id"], [["x" * 500]], header=False)
    assert (lines, was_cut) == (["x" * 500], False)


def test_the_widest_column_is_cut_to_fit_the_terminal() -> None:
    lines, was_cut = render(["id", "reason"], [["1234", "a very long reason indeed"]], limit=20)
    assert was_cut
    assert lines[1] == "1234  a very long r…"
    assert max(width_of(line) for line in lines) == 20


def test_wide_characters_take_two_columns() -> None:
    lines, _ = render(["a", "b"], [["日本", "x"], ["abcd", "y"]])
    assert lines[1:] == ["日本  x", "abcd  y"]
    assert width_of("é") == 1


def test_control_characters_cannot_break_a_line_or_steer_the_terminal() -> None:
    assert clean("a\nb\x1b[31m\u202e") == "a\\nb\\x1b[31m\\u202e"


def test_states_are_coloured_only_when_asked() -> None:
    coloured, _ = render(["state"], [["failed"]], colour=True)
    plain, _ = render(["state"], [["failed"]])
    assert "\x1b[31m" in coloured[1]
    assert plain[1] == "failed"


def test_times_are_rfc_3339_in_utc_or_the_largest_whole_unit() -> None:
    now = 1_700_000_000_000
    assert rfc3339(now) == "2023-11-14T22:13:20.000Z"
    assert [ago(now - ms, now) for ms in (0, 5_000, 61_000, 2 * DAY_MS)] == ["now", "5s ago", "1m ago", "2d ago"]
    assert shown(now + 7_200_000, "relative", now) == "in 2h"
    assert shown(now, "utc", now) == rfc3339(now)
    assert shown(now, "local", now).startswith("2023-11-1")
