"""Hops, percentiles and timelines, out of messages made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from saga_choreo.demo.chaos import Kill
from saga_choreo.demo.hops import Heard, hops_ms, percentile
from saga_choreo.demo.judge import DO, UNDO, Effect, Verdict
from saga_choreo.demo.report import Findings, columns, faults, services_table, summary, timeline

EVENTS = ("a", "b", "c")


def _heard(saga: str, event: str, at_ms: float, word: str = "step.completed", **more: str) -> Heard:
    return Heard(saga, word, event, more.get("step", ""), more.get("service", ""), more.get("reason", ""), int(at_ms * 1e6))


def test_a_hop_is_the_time_from_an_event_to_the_next_of_the_same_saga() -> None:
    heard = [_heard("s1", "a", 0), _heard("s2", "a", 100), _heard("s1", "b", 10), _heard("s2", "b", 105), _heard("s1", "c", 40)]
    assert sorted(hops_ms(heard, EVENTS)) == [5.0, 10.0, 30.0]


def test_an_event_published_again_counts_from_its_first_time() -> None:
    heard = [_heard("s1", "b", 500), _heard("s1", "a", 0), _heard("s1", "b", 10), _heard("s1", "a", 400)]
    assert hops_ms(heard, EVENTS) == [10.0]


def test_a_hop_over_a_missing_event_is_none() -> None:
    assert hops_ms([_heard("s1", "a", 0), _heard("s1", "c", 40), _heard("s1", "other", 50)], EVENTS) == []


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, 0.0),
        ([7.0], 99, 7.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([float(n) for n in range(1, 201)], 99, 198.0),
        ([1.0, 2.0], 0, 1.0),
    ],
)
def test_a_percentile_is_by_nearest_rank(values: Sequence[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def _findings(verdict: Verdict | None = None, states: Mapping[str, str] | None = None, **more: Sequence[str]) -> Findings:
    return Findings(
        sagas=4,
        states=states if states is not None else {"s1": "completed", "s2": "completed", "s3": "compensated"},
        verdict=verdict or Verdict({}, 0),
        redelivered={"payment": 3, "order": 1},
        seconds=2.0,
        hops=[1.0, 2.0, 3.0],
        kills=[Kill("payment", 4, 5)],
        **more,
    )


def test_the_summary_has_every_number_and_nothing_else() -> None:
    assert summary(_findings()) == {
        "sagas": 4,
        "completed": 2,
        "compensated": 1,
        "wrong": 0,
        "repeated_effects": 0,
        "redelivered": 4,
        "seconds": 2.0,
        "sagas_per_s": 2.0,
        "hop_ms": {"p50": 2.0, "p99": 3.0},
        "killed": 1,
        "in_flight_at_kill": [9],
    }


def test_a_run_is_right_only_without_faults_repetitions_and_troubles() -> None:
    assert _findings().is_right
    assert not _findings(Verdict({"s1": ("bad",)}, 0)).is_right
    assert not _findings(Verdict({}, 1)).is_right
    assert not _findings(troubles=["a service crashed"]).is_right


def test_only_the_first_faults_are_shown_and_the_rest_is_counted() -> None:
    found = faults(_findings(Verdict({f"s{n}": ("bad", "worse") for n in range(12)}, 0), troubles=["late"]))
    assert found[0] == "saga s0: bad; worse"
    assert found[10:] == ["... and 2 more sagas", "late"]


def test_a_timeline_shows_start_effects_refusal_and_end_by_time() -> None:
    effects = [
        Effect("inventory", "s1", "reserve-stock", DO, 1, 2_000_000),
        Effect("inventory", "s1", "reserve-stock", UNDO, 5, 9_500_000),
        Effect("inventory", "s2", "reserve-stock", DO, 1, 1),
    ]
    heard = [
        _heard("s1", "order.created", 1, "saga.started", step="origin", service="order"),
        _heard("s1", "step.failed", 5, "step.failed", step="charge-payment", service="payment", reason="card declined"),
        _heard("s1", "saga.failed", 12, "saga.failed", service="order"),
        _heard("s2", "saga.completed", 3, "saga.completed", service="order"),
    ]
    assert [line.split(maxsplit=2) for line in timeline("s1", effects, heard)][1:] == [
        ["(start)", "order", "started                 +0.0 ms"],
        ["reserve-stock", "inventory", "completed               +1.0 ms"],
        ["charge-payment", "payment", "refused: card declined  +4.0 ms"],
        ["reserve-stock", "inventory", "compensated             +8.5 ms"],
        ["(end)", "order", "compensated             +11.0 ms"],
    ]


def test_the_table_counts_what_each_service_did() -> None:
    effects = [
        Effect("payment", "s1", "charge", DO, 1),
        Effect("payment", "s2", "charge", DO, 1),
        Effect("payment", "s2", "charge", UNDO, 2),
    ]
    assert services_table(effects, _findings())[1:] == [
        "payment  2     1       3            with 9 in flight",
        "order    0     0       1            -",
    ]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert columns(("A", "B"), [("longer", "x")]) == ["A       B", "longer  x"]
