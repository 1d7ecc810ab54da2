"""Dead letters on the command line, in a real Redis: the same verbs as on every other store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from letterstore import STEP, WHY, data, dlq, fill_letters_at, ids, jobs
from process import in_process
from shopstore import CANCELLED


@pytest.fixture
def store(redis_prefix: Callable[[], str]) -> str:
    url = redis_prefix()
    asyncio.run(fill_letters_at(url))
    return url


def test_letters_in_redis_are_listed_and_shown_with_what_a_replay_would_do(store: str) -> None:
    rows = data(dlq(store, "list", "--json"))
    assert [(row["id"], row["kind"]) for row in rows] == [("m3", "message"), ("m2", "message"), ("m1", "message"), (STEP, "step")]
    assert (rows[2]["code"], rows[2]["saga"], rows[2]["key"]) == ("stale", str(CANCELLED), "ORDER-3")
    assert ids(store, "--saga", "ORDER-2") == [STEP]
    shown = data(dlq(store, "show", "m1", "--json"))
    assert (shown["verdict"], shown["agent"], shown["version"], shown["state"]) == ("ended", "a1b2", "0.1.0", "open")
    assert data(dlq(store, "show", STEP, "--json"))["verdict"] == "ready"


def test_a_replay_in_redis_is_a_job_that_is_listed_steered_and_over(store: str) -> None:
    planned = data(dlq(store, "replay", "--all", *WHY, "--dry-run", "--json"))
    assert {row["id"]: row["verdict"] for row in planned} == {
        "m1": "ended",
        "m2": "undecodable",
        "m3": "undecodable",
        STEP: "ready",
    }
    assert jobs(store) == []
    (row,) = data(dlq(store, "replay", "--kind", "step", *WHY, "--rate", "300/m", "--yes", "--json"))
    assert (row["service"], row["state"], row["total"], row["staged"]) == ("shop", "running", 1, 1)
    again = dlq(store, "replay", "--kind", "step", *WHY, "--yes")
    assert (again.returncode, "it is in a replay that is not over" in again.stderr) == (1, True)
    assert [one["id"] for one in data(in_process("jobs", "list", "--store", store, "--json"))] == [row["id"]]
    states = [data(in_process("jobs", verb, row["id"], "--store", store, "--json"))[0]["state"] for verb in ("pause", "resume")]
    assert states == ["paused", "running"]
    data(in_process("jobs", "cancel", row["id"], "--store", store, "--json"))
    (view,) = jobs(store)
    assert (view.job.state, view.job.rate_per_min) == ("cancelled", 300)


def test_messages_in_redis_are_archived_restored_and_purged(store: str) -> None:
    rows = data(dlq(store, "archive", "--all", *WHY, "--operator", "ana", "--yes", "--json"))
    assert {row["id"] for row in rows} == {"m1", "m2", "m3"}
    assert ids(store) == [STEP]
    data(dlq(store, "restore", "m1", *WHY, "--yes", "--json"))
    assert ids(store, "--kind", "message") == ["m1"]
    assert len(data(dlq(store, "purge", "--all", "--expect-count", "2", "--yes", "--json"))) == 2
    assert ids(store, "--state", "all") == ["m1", STEP]
