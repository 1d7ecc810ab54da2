"""The benchmark's own scripts work, and so do their judges; speed is for `make bench`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks import growth
from tests.benchmarks.contenders import CONTENDERS, one_run
from tests.benchmarks.hops import Hops, quantile
from tests.benchmarks.stage import NotDurable, Stage, staged

_BY_NAME = {one.name: one for one in CONTENDERS}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged() as running:
        yield running


@pytest.mark.parametrize("name", ["ours", "ours_four", "limit_handlers", "limit_batch", "limit_single"])
def test_every_saga_of_a_script_has_exactly_its_effects(stage: Stage, name: str) -> None:
    said = one_run(stage, _BY_NAME[name], 40, "--fail-every", "5")
    assert (said["wrong"], said["repeated"]) == (0, 0)
    assert said["sagas"] >= 20


def test_what_a_saga_asks_of_the_servers_is_counted(stage: Stage) -> None:
    counts = one_run(stage, _BY_NAME["limit_handlers"], 40, "--fail-every", "0", count=True)["counts"]
    # Of each of five messages: a row in the inbox, one in the outbox and its deletion; four effects.
    assert counts["rows_inserted"] == pytest.approx(14, abs=0.5)
    assert counts["rows_deleted"] == pytest.approx(5, abs=0.5)
    assert counts["round_trips"] > 4
    assert counts["messages_to_broker"] > 5


def test_hops_are_measured_from_header_to_header(stage: Stage) -> None:
    said = one_run(stage, _BY_NAME["ours"], 20, "--fail-every", "0", "--at-once", "1", "--hops")
    assert said["hops"] == 20 * 4
    assert 0 < said["hop_p50_ms"] <= said["hop_p99_ms"]


def test_hops_are_measured_while_others_are_open(stage: Stage) -> None:
    busy = ("--rate", "20", "--open", "1200")
    said = one_run(stage, _BY_NAME["ours"], 20, "--fail-every", "0", "--hops", *busy)
    assert (said["hops"], said["wrong"]) == (20 * 4, 0)


def test_two_agents_of_a_service_share_its_sagas(stage: Stage) -> None:
    said = one_run(stage, _BY_NAME["ours_four"], 40, "--fail-every", "5", "--agents", "2", "--wait-ms", "5")
    assert (said["sagas"], said["wrong"], said["repeated"]) == (40, 0, 0)


def test_the_first_hop_counts_from_the_intended_time_and_a_repetition_is_no_hop() -> None:
    hops = Hops()
    hops.began("a", 10.0)
    for event, at_s in (("placed", 10.5), ("reserved", 10.75), ("charged", 11.0), ("reserved", 40.0)):
        hops.hear("a", event, at_s)
    assert hops.figures() == {"hops": 2, "hop_p50_ms": 250.0, "hop_p99_ms": 750.0}


def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], part) for part in (0.25, 0.5, 0.99)] == [1.0, 2.0, 4.0]


def test_a_server_that_does_not_sync_its_commits_is_refused() -> None:
    with staged(postgres={"synchronous_commit": "off"}) as running, pytest.raises(NotDurable, match="synchronous_commit"):
        running.settings()


def test_the_picture_of_growth_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "find_spec", lambda name: None)
    assert growth.picture_of([]) == {"picture": None, "missing": "matplotlib"}
