"""Words on parked steps from the command line: list, show, plan, consent, and what is refused."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from process import in_process, saga_choreo
from shopstore import DONE, RUNNING, fill

from saga_choreo.ports import Parked, Record, State
from saga_choreo.runtime.plugins import make_store

WHY = ("--reason", "ticket 4411")


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fill(tmp_path)


def records(url: str) -> dict[int, Record]:
    async def read() -> dict[int, Record]:
        opened = make_store(url)
        await opened.open(migrate=False)
        try:
            return {record.step: record for record in await opened.records(RUNNING)}
        finally:
            await opened.close()

    return asyncio.run(read())


def steps(url: str, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return in_process("steps", *args, "--store", url, **environ)


def data(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_parked_steps_are_listed(store: str) -> None:
    (row,) = data(steps(store, "list", "--json"))
    assert (row["id"], row["key"], row["step"], row["parked"], row["attempt"]) == (str(RUNNING), "ORDER-2", "charge", "parked", 5)
    assert (row["error"], row["possible"], row["resolution"]) == ("card service is down", ["retry", "waive", "take"], None)
    assert steps(store, "list", "-o", "name").stdout.split() == [str(RUNNING)]
    assert "card service is down" in steps(store, "list").stdout
    assert data(steps(store, "list", "--json", "--service", "other")) == []
    assert "No parked steps." in steps(store, "list", "--service", "other").stderr


def test_a_step_is_shown_with_what_can_be_decided(store: str) -> None:
    text = steps(store, "show", "ORDER-2", "charge")
    assert text.returncode == 0, text.stderr
    assert "possible:     retry, waive, take" in text.stdout
    assert "nothing: it is not parked" in steps(store, "show", "ORDER-2", "ship").stdout
    assert data(steps(store, "show", RUNNING.hex, "charge", "--json"))["step"] == "charge"
    unknown = steps(store, "show", "ORDER-2", "chrage")
    assert unknown.returncode == 5
    assert "steps of it here: charge, ship" in unknown.stderr


@pytest.mark.parametrize(
    ("args", "exit_code"),
    [(["--dry-run"], 0), ([], 9), (["--yes", "--expect-count", "2"], 1)],
)
def test_without_consent_the_plan_is_shown_and_nothing_is_changed(store: str, args: list[str], exit_code: int) -> None:
    before = records(store)
    done = steps(store, "retry", "ORDER-2", "charge", *WHY, "--operator", "ana", *args)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.splitlines()[:2] == [
        "Plan: retry as ana (ticket 4411), 1 in all",
        f"  {RUNNING}  ORDER-2  charge  running, parked after 5 attempts: card service is down",
    ]
    assert records(store) == before


def test_a_reason_is_required_and_the_operator_is_the_user_unless_said(store: str) -> None:
    assert steps(store, "retry", "ORDER-2", "charge", "--yes").returncode == 2
    (row,) = data(steps(store, "retry", "ORDER-2", "charge", *WHY, "--yes", "--json"))
    assert row["resolution"]["operator"] == getpass.getuser()
    assert (row["result"], row["parked"], row["attempt"], row["error"]) == ("said", "", 0, "card service is down")
    record = records(store)[0]
    assert record.due_ms is not None
    assert record.announced < record.version  # for an agent to tell


def test_a_waived_step_is_skipped(store: str) -> None:
    (row,) = data(steps(store, "waive", "ORDER-2", "charge", *WHY, "--yes", "--json"))
    assert (row["state"], row["parked"]) == ("skipped", "")
    assert records(store)[1].row.state is State.SKIPPED  # the step after it, of the same service, in the same commit


def test_a_step_is_taken_and_done_by_hand_with_what_it_published(store: str, tmp_path: Path) -> None:
    data(steps(store, "take", "ORDER-2", "charge", *WHY, "--operator", "ana", "--yes", "--json"))
    assert records(store)[0].row.parked is Parked.HUMAN
    payload = tmp_path / "charged.json"
    payload.write_text('{"by": "phone"}')
    event = ("--event", "payment.charged", "--payload", str(payload))
    other = steps(store, "done", "ORDER-2", "charge", *event, *WHY, "--operator", "ben", "--yes")
    assert (other.returncode, "in the hands of 'ana'" in other.stderr) == (1, True)
    bare = steps(store, "done", "ORDER-2", "charge", *WHY, "--operator", "ana", "--yes")
    assert (bare.returncode, "publishes payment.charged v1" in bare.stderr) == (1, True)
    wrong = steps(store, "done", "ORDER-2", "charge", "--event", "payment.charged", *WHY, "--operator", "ana", "--yes")
    assert (wrong.returncode, "each event with its payload" in wrong.stderr) == (2, True)
    bad = ("--event", "payment.charged@x", "--payload", str(payload))
    assert steps(store, "done", "ORDER-2", "charge", *bad, *WHY, "--operator", "ana", "--yes").returncode == 2
    (row,) = data(steps(store, "done", "ORDER-2", "charge", *event, *WHY, "--operator", "ana", "--yes", "--json"))
    assert (row["state"], row["resolution"]["verb"], row["resolution"]["number"]) == ("completed", "done", 2)
    assert records(store)[0].results == {0: b'{"by": "phone"}'}
    assert records(store)[1].inputs == {0: b'{"by": "phone"}'}


def test_a_step_that_was_taken_is_given_back(store: str) -> None:
    data(steps(store, "take", "ORDER-2", "charge", *WHY, "--operator", "ana", "--yes", "--json"))
    (row,) = data(steps(store, "give-back", "ORDER-2", "charge", *WHY, "--operator", "ana", "--yes", "--json"))
    assert (row["parked"], row["operator"], row["possible"]) == ("parked", "", ["retry", "waive", "take"])
    shown = steps(store, "show", "ORDER-2", "charge").stdout
    assert "last word:    give-back by ana, " in shown
    assert shown.splitlines()[-2].endswith(": ticket 4411")


def test_what_cannot_be_said_is_refused_with_what_can(store: str) -> None:
    before = records(store)
    fail = steps(store, "fail", "ORDER-2", "charge", *WHY, "--yes")
    assert (fail.returncode, fail.stdout) == (1, "")
    assert "cannot be resolved as 'fail': possible now: retry, waive, take" in fail.stderr
    ended = steps(store, "retry", str(DONE), "charge", *WHY, "--dry-run")
    assert (ended.returncode, "it is not parked, but completed" in ended.stderr) == (1, True)
    assert records(store) == before


def test_a_dry_run_as_json_is_the_plan_as_data(store: str) -> None:
    done = steps(store, "waive", "ORDER-2", "charge", *WHY, "--dry-run", "--json")
    assert done.stderr == ""
    assert [(row["step"], row["result"], row["parked"]) for row in data(done)] == [("charge", "planned", "parked")]


def test_the_command_works_as_a_process_and_reads_the_store_from_the_environment(store: str) -> None:
    done = saga_choreo("steps", "take", "ORDER-2", "charge", *WHY, "--operator", "ana", "--yes", "-o", "name", SAGA_STORE_URL=store)
    assert (done.returncode, done.stdout.strip()) == (0, str(RUNNING)), done.stderr


@pytest.fixture
def started_elsewhere(store: str) -> str:
    """The same store as that of a service which only takes part: business keys are registered where a saga was started."""
    with sqlite3.connect(store.removeprefix("sqlite:///")) as file:
        file.execute("DELETE FROM saga_business_key")
    return store


def test_a_step_is_found_by_the_key_of_a_saga_that_another_service_started(started_elsewhere: str) -> None:
    assert steps(started_elsewhere, "show", "ORDER-2", "charge").returncode == 0
    done = steps(started_elsewhere, "retry", "ORDER-2", "charge", *WHY, "--yes")
    assert done.returncode == 0, done.stderr
    unknown = steps(started_elsewhere, "show", "ORDER-9", "charge")
    assert (unknown.returncode, "newest 20000 sagas" in unknown.stderr) == (5, True)


def test_sagas_that_another_service_started_are_shown_by_their_key(started_elsewhere: str) -> None:
    shown = saga_choreo("sagas", "show", "ORDER-3", "--store", started_elsewhere, "--json")
    assert shown.returncode == 0, shown.stderr
    listed = saga_choreo("sagas", "list", "--key", "ORDER-3", "--store", started_elsewhere, "-o", "name")
    assert listed.stdout.split() == [json.loads(shown.stdout)["id"]]


def test_what_cannot_be_said_is_refused_before_anybody_is_asked(store: str, tmp_path: Path) -> None:
    assert steps(store, "take", "ORDER-2", "charge", "--operator", "ana", *WHY, "--yes").returncode == 0
    payload = tmp_path / "charged.json"
    payload.write_text("{}")
    event = ("--event", "payment.charged", "--payload", str(payload))
    cases = [
        (("--operator", "ben", *event), "in the hands of 'ana'"),
        (("--operator", "ana"), "publishes payment.charged v1: give that"),
        (("--operator", "ana", "--event", "payment.charged", "--payload", os.devnull), "is no JSON object"),
    ]
    for said, why in cases:
        refused = steps(store, "done", "ORDER-2", "charge", *said, *WHY, "--dry-run")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert why in refused.stderr
        assert "Plan:" not in refused.stderr
    assert steps(store, "done", "ORDER-2", "charge", "--operator", "ana", *event, *WHY, "--yes").returncode == 0
