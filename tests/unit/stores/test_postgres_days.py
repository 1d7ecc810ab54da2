"""Which days there are, are wanted, and are over: pure."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_choreo.testing.stores import saga_id_of
from saga_choreo_postgres import statements as sql
from saga_choreo_postgres.days import (
    DAY,
    DAY_MS,
    PARTITIONS_AHEAD,
    Partition,
    day_of,
    missing,
    name_of,
    on_day,
    over,
    parsed,
    start_of,
    sweep_to,
)

_EVER = UUID(int=0)
_OF_ONE_SAGA = [
    sql.CLAIM,
    sql.UPDATE,
    sql.COMPLETE,
    sql.IS_COMPLETED,
    sql.MARK,
    sql.FORGET_RECORD,
    sql.RECORDS,
    sql.RECORDS_OF,
]


def days(*numbers: int) -> list[Partition]:
    return [Partition(name_of(day), start_of(day), start_of(day + 1)) for day in numbers]


@given(st.integers(0, (1 << 128) - 1))
def test_an_id_is_within_the_bounds_of_its_own_day(number: int) -> None:
    saga_id = UUID(int=number)
    assert start_of(day_of(saga_id)) <= saga_id <= start_of(day_of(saga_id) + 1)


def test_the_bounds_of_a_day_are_midnights_of_utc() -> None:
    day = day_of(saga_id_of(0))
    assert start_of(day).int >> 80 == day * DAY_MS
    assert name_of(day) == "saga_record_20231114", "1,700,000,000 s after 1970"


@pytest.mark.parametrize("statement", _OF_ONE_SAGA)
def test_a_statement_about_a_saga_can_be_told_the_day(statement: str) -> None:
    told = on_day(statement, 20_000)
    assert DAY in statement
    assert DAY not in told
    assert str(start_of(20_000)) in told
    assert str(start_of(20_001)) in told


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ("DEFAULT", None),
        (f"FOR VALUES FROM ('{start_of(7)}') TO ('{start_of(8)}')", Partition("p", start_of(7), start_of(8))),
        (f"FOR VALUES FROM (MINVALUE) TO ('{start_of(8)}')", Partition("p", _EVER, start_of(8))),
    ],
)
def test_bounds_are_read_as_postgresql_writes_them(bounds: str, expected: Partition | None) -> None:
    assert parsed("p", bounds) == expected


def test_days_are_wanted_from_today_on_unless_a_partition_has_them() -> None:
    assert missing([], 100) == list(range(100, 100 + PARTITIONS_AHEAD + 1))
    assert missing(days(*range(100, 100 + PARTITIONS_AHEAD + 1)), 100) == []
    assert missing(days(101), 100)[:2] == [100, 102]
    assert missing([Partition("saga_record_before", _EVER, start_of(102))], 100) == list(range(102, 100 + PARTITIONS_AHEAD + 1))


def test_a_day_is_over_once_all_of_it_is_before_the_horizon() -> None:
    there = days(12, 10, 11)
    assert [one.name for one in over(there, start_of(12))] == [name_of(10), name_of(11)]
    assert [one.name for one in over(there, UUID(int=start_of(12).int - 1))] == [name_of(10)]


def test_rows_go_one_by_one_only_below_a_day_that_will_be_dropped_as_a_whole() -> None:
    noon = UUID(int=start_of(11).int + (DAY_MS // 2 << 80))
    assert sweep_to(days(10, 11, 12), noon) == start_of(11)
    assert sweep_to(days(10, 12), noon) == noon, "these rows are in the default partition, which is never dropped"
    assert sweep_to([Partition("saga_record_before", _EVER, start_of(20))], noon) == noon, "it is many days"
