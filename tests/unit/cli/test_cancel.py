"""Cancelling from the command line: plan, consent, request."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from process import in_process
from shopstore import DONE, RUNNING, fill

from saga_choreo.ports import Record
from saga_choreo.runtime.plugins import make_store


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fill(tmp_path)


def _records(url: str) -> list[Record]:
    async def read() -> list[Record]:
        opened = make_store(url)
        await opened.open(migrate=False)
        try:
            return list(await opened.records(RUNNING))
        finally:
            await opened.close()

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("args", "exit_code"),
    [(["--dry-run"], 0), ([], 9), (["--yes", "--expect-count", "2"], 1), (["--yes", "--expect-count", "0"], 1)],
)
def test_without_consent_the_plan_is_shown_and_nothing_is_changed(store: str, args: list[str], exit_code: int) -> None:
    before = _records(store)
    done = in_process("sagas", "cancel", "ORDER-2", *args, "--store", store)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.splitlines()[:2] == [
        "Plan: cancel sagas (cancelled by an operator), 1 in all",
        f"  {RUNNING}  ORDER-2  orders  running",
    ]
    assert _records(store) == before


def test_where_only_reading_is_permitted_nothing_is_changed_and_the_plan_may_be_seen(
    store: str,
) -> None:
    before = _records(store)
    done = in_process("sagas", "cancel", "ORDER-2", "--yes", "--store", store, SAGA_READ_ONLY="1")
    assert (done.returncode, done.stdout) == (8, "")
    assert "SAGA_READ_ONLY" in done.stderr
    assert in_process("sagas", "cancel", "ORDER-2", "--dry-run", "--store", store, SAGA_READ_ONLY="1").returncode == 0
    assert in_process("sagas", "list", "--store", store, SAGA_READ_ONLY="1").returncode == 0
    assert _records(store) == before


def test_with_consent_the_request_is_kept_in_the_store(store: str) -> None:
    before = _records(store)
    done = in_process("sagas", "cancel", RUNNING.hex, "--yes", "--reason", "customer called", "--json", "--store", store)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"id": str(RUNNING), "key": "ORDER-2", "result": "requested", "message": ""}]
    assert _records(store) != before


def test_a_saga_that_has_completed_is_refused_and_the_others_are_requested(store: str) -> None:
    both = in_process("sagas", "cancel", "ORDER-1", "ORDER-2", "--yes", "--json", "--store", store)
    alone = in_process("sagas", "cancel", str(DONE), "--yes", "--json", "--store", store)
    assert [row["result"] for row in json.loads(both.stdout)] == ["refused", "requested"]
    assert (both.returncode, alone.returncode) == (7, 1)
    assert "1 of 2 requests were refused" in json.loads(both.stderr)["error"]["message"]


def test_a_dry_run_as_json_is_the_plan_as_data(store: str) -> None:
    done = in_process("sagas", "cancel", "ORDER-2", "--dry-run", "--json", "--store", store)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(row["key"], row["result"]) for row in json.loads(done.stdout)] == [("ORDER-2", "planned")]


def test_an_unknown_saga_stops_the_command_before_the_plan(store: str) -> None:
    done = in_process("sagas", "cancel", "ORDER-2", "ORDER-9", "--yes", "--store", store)
    assert (done.returncode, done.stdout) == (5, "")
    assert "Plan" not in done.stderr
