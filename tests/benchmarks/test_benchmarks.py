"""The benchmark's own scripts work, and so do their judges; speed is for `make bench`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks.contenders import CONTENDERS, one_run
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
    assert said["hops"] == 20 * 3
    assert 0 < said["hop_p50_ms"] <= said["hop_p99_ms"]


def test_a_server_that_does_not_sync_its_commits_is_refused() -> None:
    with staged(postgres={"synchronous_commit": "off"}) as running, pytest.raises(NotDurable, match="synchronous_commit"):
        running.settings()
