"""Listing and showing sagas, against a real SQLite file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from process import in_process, saga_choreo
from shopstore import CANCELLED, DONE, RUNNING, fill

from saga_choreo import SagaState
from saga_choreo.cli.sagas import STATES
from saga_choreo.runtime import stuck


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(tmp_path_factory.mktemp("store"))


def _ids(*args: str) -> list[str]:
    done = in_process("sagas", "list", "-o", "name", *args)
    assert (done.returncode, done.stderr.startswith("Error")) == (0, False), done.stderr
    return done.stdout.split()


def test_the_states_to_filter_by_are_the_states_there_are() -> None:
    assert list(STATES) == [state.value for state in SagaState]


def test_sagas_are_listed_newest_first_in_a_table_for_pipes(store: str) -> None:
    done = saga_choreo("sagas", "list", SAGA_STORE_URL=store)
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["ID", "KEY", "CHOREOGRAPHY", "STATE", "STARTED", "STEPS"]
    assert [line.split()[1:5] for line in lines] == [
        ["ORDER-3", "orders", "cancelled", "2023-11-14T22:13:23.000Z"],
        ["ORDER-2", "orders", "running", "2023-11-14T22:13:22.000Z"],
        ["ORDER-1", "orders", "completed", "2023-11-14T22:13:21.000Z"],
    ]
    assert lines[2].endswith("2 completed")


def test_json_is_one_document_with_names_and_utc_times(store: str) -> None:
    found = json.loads(in_process("sagas", "list", "--json", "--store", store).stdout)
    assert [saga["id"] for saga in found] == [str(CANCELLED), str(RUNNING), str(DONE)]
    assert found[0]["schema"] == "saga-choreo/v1/saga"
    assert found[0]["reason"] == "ordered twice"
    assert found[2]["steps"] == {"completed": 2}
    assert found[2]["started_at"] == "2023-11-14T22:13:21.000Z"


def test_jsonl_is_an_object_a_line_with_the_fields_asked_for(store: str) -> None:
    done = in_process("sagas", "list", "-o", "jsonl", "--fields", "key,state", "--store", store)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"key": "ORDER-3", "state": "cancelled"},
        {"key": "ORDER-2", "state": "running"},
        {"key": "ORDER-1", "state": "completed"},
    ]


def test_an_unknown_field_is_a_usage_error_with_a_suggestion(store: str) -> None:
    done = in_process("sagas", "list", "--fields", "stat", "--store", store)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no field 'stat'. Did you mean 'state'" in done.stderr


def test_filters_choose_by_state_choreography_and_key(store: str) -> None:
    assert _ids("--store", store, "--state", "running", "--state", "completed") == [str(RUNNING), str(DONE)]
    assert _ids("--store", store, "--choreography", "others") == []
    assert _ids("--store", store, "--service", "shop", "--key", "ORDER-2") == [str(RUNNING)]
    assert _ids("--store", store, "--key", "ORDER-2", "--state", "completed") == []


def test_nothing_found_is_an_empty_document_or_a_remark(store: str) -> None:
    as_json = in_process("sagas", "list", "--choreography", "others", "--json", "--store", store)
    as_table = in_process("sagas", "list", "--choreography", "others", "--store", store)
    assert (as_json.returncode, as_json.stdout.strip(), as_json.stderr) == (0, "[]", "")
    assert (as_table.returncode, as_table.stdout, as_table.stderr.strip()) == (0, "", "No sagas.")


def test_pages_follow_each_other_by_cursor(store: str) -> None:
    first = in_process("sagas", "list", "--limit", "2", "-o", "name", "--no-header", "--store", store)
    assert first.stdout.split() == [str(CANCELLED), str(RUNNING)]
    assert f"--cursor {RUNNING}" in first.stderr
    assert _ids("--limit", "2", "--cursor", str(RUNNING), "--store", store) == [str(DONE)]
    assert in_process("sagas", "list", "--cursor", "x", "--store", store).returncode == 2


@pytest.mark.parametrize("word", ["ORDER-2", str(RUNNING), RUNNING.hex, RUNNING.hex[:20]])
def test_a_saga_is_found_by_key_by_id_and_by_the_beginning_of_an_id(store: str, word: str) -> None:
    shown = json.loads(in_process("sagas", "show", word, "--json", "--store", store).stdout)
    assert (shown["id"], shown["state"]) == (str(RUNNING), "running")


def test_a_beginning_that_several_ids_share_is_refused_with_the_ids(store: str) -> None:
    done = in_process("sagas", "show", RUNNING.hex[:8], "--json", "--store", store)
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["details"]["ids"] == [str(CANCELLED), str(RUNNING)]


@pytest.mark.parametrize("word", ["ORDER-9", "ffffffff", "00000000-0000-7000-8000-000000000000", "abc"])
def test_an_unknown_saga_is_not_found(store: str, word: str) -> None:
    done = in_process("sagas", "show", word, "--store", store)
    assert (done.returncode, done.stdout) == (5, "")
    assert "saga-choreo sagas list" in done.stderr


def test_show_explains_what_each_step_waits_for(store: str) -> None:
    done = in_process("sagas", "show", "ORDER-2", "--store", store)
    assert done.returncode == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "state: running" in lines
    assert "charge shop running 5 2023-11-14T22:13:25.000Z parked: card service is down" in lines
    assert "ship shop pending 0 2023-11-14T22:13:25.000Z waiting for payment.charged from charge" in lines
    assert "As known to shop" in done.stderr


def test_show_as_json_has_the_steps_with_all_that_is_known(store: str) -> None:
    shown = json.loads(in_process("sagas", "show", "ORDER-3", "--json", "--store", store).stdout)
    assert (shown["state"], shown["cause"], shown["reason"]) == ("cancelled", "cancelled", "ordered twice")
    (step,) = shown["steps"]
    assert (step["step"], step["state"], step["changed_at"]) == ("charge", "compensated", "2023-11-14T22:13:25.000Z")


def test_looking_does_not_make_a_store(tmp_path: Path) -> None:
    done = in_process("sagas", "list", "--store", f"sqlite:///{tmp_path}/none.db")
    assert done.returncode in (3, 4)
    assert not (tmp_path / "none.db").exists()


def test_what_was_not_looked_at_for_stuck_sagas_is_said_to_people_and_to_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fill(tmp_path)
    asked = ("sagas", "stuck", "--for", "1h", "--store", url)
    (one,) = json.loads(in_process(*asked, "--json").stdout)
    assert (one["id"], one["schema"]) == (str(RUNNING), "saga-choreo/v1/stuck")
    monkeypatch.setattr(stuck, "_PAGE", 1)
    monkeypatch.setattr(stuck, "_WALKED_MAX", 1)
    table, lines = in_process(*asked), in_process(*asked, "-o", "jsonl")
    assert "No saga of those that were looked at waits for longer than 1h." in table.stderr
    assert "There are more: steps that wait without a timer were looked for in the oldest 1 sagas only." in table.stderr
    (last,) = map(json.loads, lines.stdout.splitlines())
    assert (last["schema"], last["id"]) == ("saga-choreo/v1/stuck-further", None)
    assert last["waiting"].startswith("steps that wait without a timer")
    assert in_process(*asked, "-o", "name").stdout == ""
