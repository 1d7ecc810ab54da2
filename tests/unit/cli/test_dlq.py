"""Dead letters on the command line: what is there, what would become of it, consent, and every kind of bad input."""

from __future__ import annotations

import getpass
import os
import pty
import subprocess
from pathlib import Path

import pytest
from letterstore import STEP, WHY, data, dlq, fill_letters, ids, jobs
from process import COMMAND, in_process, saga_choreo
from shopstore import CANCELLED, RUNNING

from saga_choreo.ports import JobState


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fill_letters(tmp_path)


def test_both_kinds_are_listed_and_told_apart(store: str) -> None:
    rows = data(dlq(store, "list", "--json"))
    assert [(row["id"], row["kind"]) for row in rows] == [("m3", "message"), ("m2", "message"), ("m1", "message"), (STEP, "step")]
    assert (rows[2]["code"], rows[2]["saga"], rows[2]["key"], rows[2]["step"]) == ("stale", str(CANCELLED), "ORDER-3", "origin")
    assert (rows[3]["step"], rows[3]["key"], rows[3]["attempts"], rows[3]["detail"]) == (
        "charge",
        "ORDER-2",
        5,
        "card service is down",
    )
    table = dlq(store, "list").stdout
    assert "card service is down" in table
    assert table.splitlines()[0].startswith("ID")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--kind", "step"], [STEP]),
        (["--kind", "message", "--error", "STALE"], ["m1"]),
        (["--saga", "ORDER-2"], [STEP]),
        (["--saga", str(CANCELLED)], ["m3", "m2", "m1"]),
        (["--step", "charge"], [STEP]),
        (["--service", "other"], []),
        (["--state", "archived"], []),
        (["--since", "2023-11-14T22:13:20.002Z", "--kind", "message"], ["m3", "m2"]),
        (["--until", "2023-11-14T22:13:20.002Z"], ["m1"]),
        (["--since", "1h"], []),
        (["--limit", "1"], ["m3"]),
    ],
)
def test_filters_find_what_they_say(store: str, filters: list[str], expected: list[str]) -> None:
    assert ids(store, *filters) == expected


def test_the_same_fault_is_one_group_whatever_the_numbers_and_names_in_it(store: str) -> None:
    rows = data(dlq(store, "groups", "--json"))
    assert [(row["kind"], row["code"], row["count"]) for row in rows] == [
        ("message", "invalid_json", 2),
        ("step", "card service is down", 1),
        ("message", "stale", 1),
    ]
    assert ids(store, "--group", rows[0]["group"][:6]) == ["m3", "m2"]


def test_a_letter_is_shown_in_full_with_what_a_replay_would_do(store: str) -> None:
    shown = dlq(store, "show", "m1")
    assert shown.returncode == 0, shown.stderr
    assert 'body:           {"n":1}' in shown.stdout
    assert "header:         ce-sagakey: ORDER-3" in shown.stdout
    assert "replay now:     ended (the saga has ended: a replay changes nothing)" in shown.stdout
    step = data(dlq(store, "show", STEP, "--json"))
    assert (step["verdict"], step["kind"], step["inputs"]) == ("ready", "step", [])
    broken = data(dlq(store, "show", "m2", "--json"))
    assert (broken["verdict"], broken["encoding"], broken["body"]) == ("undecodable", "base64", "/3s=")


@pytest.mark.parametrize("unknown", ["m99", "h1", "x", f"{RUNNING}:chrage", "not-a-saga:charge", "m"])
def test_an_unknown_letter_is_not_found(store: str, unknown: str) -> None:
    done = dlq(store, "show", unknown)
    assert (done.returncode, done.stdout) == (5, "")
    assert f"no dead letter {unknown!r} is in this store; list them with" in done.stderr


def test_a_dry_run_shows_every_verdict_and_changes_nothing(store: str) -> None:
    rows = data(dlq(store, "replay", "--all", *WHY, "--dry-run", "--json"))
    assert {row["id"]: (row["verdict"], row["moves"]) for row in rows} == {
        "m1": ("ended", True),
        "m2": ("undecodable", False),
        "m3": ("undecodable", False),
        STEP: ("ready", True),
    }
    forced = data(dlq(store, "replay", "--all", *WHY, "--dry-run", "--json", "--force"))
    assert all(row["moves"] for row in forced)
    assert jobs(store) == []


@pytest.mark.parametrize(("args", "exit_code"), [(["--dry-run"], 0), ([], 9), (["--yes", "--expect-count", "3"], 1)])
def test_without_consent_a_replay_is_planned_only(store: str, args: list[str], exit_code: int) -> None:
    done = dlq(store, "replay", "--all", *WHY, "--operator", "ana", "--rate", "20/s", *args)
    assert done.returncode == exit_code
    assert done.stderr.splitlines()[:3] == [
        "2 of 4 stay where they are: 2 undecodable.",
        done.stderr.splitlines()[1],
        "Plan: replay for shop, 20 a second, as ana (ticket 4411), 2 in all",
    ]
    assert jobs(store) == []


def test_a_replay_is_a_job_that_waits_for_the_agents(store: str) -> None:
    (row,) = data(dlq(store, "replay", "--kind", "step", *WHY, "--rate", "300/m", "--max-in-flight", "4", "--yes", "--json"))
    assert (row["service"], row["state"], row["total"], row["staged"]) == ("shop", "running", 1, 1)
    assert (row["operator"], row["reason"], row["wanted"]) == (getpass.getuser(), "ticket 4411", "kind=step")
    (view,) = jobs(store)
    assert (view.job.rate_per_min, view.job.in_flight_max, view.job.stop_percent) == (300, 4, 20)
    again = dlq(store, "replay", "--kind", "step", *WHY, "--yes")
    assert (again.returncode, again.stdout) == (1, "")
    assert "none of 1 can be replayed: it is in a replay that is not over" in again.stderr
    listed = in_process("jobs", "list", "--store", store, "--json")
    assert [one["id"] for one in data(listed)] == [row["id"]]
    (item,) = data(in_process("jobs", "show", row["id"][-6:], "--store", store, "--json"))
    assert (item["letter"], item["state"], item["verdict"]) == (STEP, "staged", "ready")


def test_a_job_is_paused_resumed_and_cancelled(store: str) -> None:
    (row,) = data(dlq(store, "replay", "m1", *WHY, "--yes", "--json"))
    states = []
    for verb in ("pause", "resume", "cancel"):
        (after,) = data(in_process("jobs", verb, row["id"], "--store", store, "--json"))
        states.append(after["state"])
    assert states == [JobState.PAUSED, JobState.RUNNING, JobState.CANCELLED]
    twice = in_process("jobs", "cancel", row["id"], "--store", store)
    assert (twice.returncode, "it cannot cancel now" in twice.stderr) == (1, True)
    read_only = in_process("jobs", "pause", row["id"], "--store", store, SAGA_READ_ONLY="1")
    assert (read_only.returncode, "SAGA_READ_ONLY" in read_only.stderr) == (8, True)
    unknown = in_process("jobs", "pause", "nothing", "--store", store)
    assert (unknown.returncode, "no replay in this store" in unknown.stderr) == (5, True)
    bad = in_process("jobs", "show", row["id"], "--state", "fialed", "--store", store)
    assert (bad.returncode, "known: staged, running" in bad.stderr) == (2, True)


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["replay", *WHY], "or --all for every one"),
        (["replay", "m1", "--kind", "step", *WHY], "give ids, or filters"),
        (["replay", "-", "m1", *WHY], "give - alone"),
        (["replay", "m1"], "--reason"),
        (["replay", "m1", "--rate", "fast", *WHY], "write 20/s, 300/m"),
        (["replay", "m1", "--rate", "0/s", *WHY], "write 20/s, 300/m"),
        (["replay", "m1", "--rate", "nan", *WHY], "write 20/s, 300/m"),
        (["replay", "m1", "--stop-when-failing", "120%", *WHY], "from 0 to 100"),
        (["replay", "--since", "yesterday", *WHY], "2026-11-23T01:40:00Z"),
        (["list", "--kind", "poison"], "saga-choreo dlq list --help"),
        (["list", "--fields", "idd"], "Did you mean 'id'"),
        (["purge"], "or --all for every one"),
        (["lsit"], "Did you mean 'list'"),
    ],
)
def test_a_command_that_cannot_be_understood_says_how_to_write_it(store: str, args: list[str], hint: str) -> None:
    done = in_process("dlq", *args, *(() if args == ["lsit"] else ("--store", store)))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert hint in done.stderr
    assert jobs(store) == []


def test_nothing_that_matches_is_said(store: str) -> None:
    done = dlq(store, "replay", "--saga", "ORDER-9", *WHY, "--yes")
    assert (done.returncode, "no dead letter matches" in done.stderr) == (5, True)
    endless = dlq(store, "replay", "m1", "--reason", "w" * 2_000, "--yes", "--force")
    assert (endless.returncode, "this needs the reason" in endless.stderr) == (1, True)


def test_messages_are_archived_restored_and_purged(store: str) -> None:
    early = dlq(store, "purge", "m2", "--yes")
    assert (early.returncode, "to purge them they must be archived" in early.stderr) == (5, True)
    rows = data(dlq(store, "archive", "--all", *WHY, "--operator", "ana", "--yes", "--json"))
    assert sorted((row["id"], row["result"]) for row in rows) == [("m1", "archived"), ("m2", "archived"), ("m3", "archived")]
    assert ids(store) == [STEP], "a parked step is never put aside: its saga waits"
    assert ids(store, "--state", "archived") == ["m3", "m2", "m1"]
    shown = data(dlq(store, "show", "m1", "--json"))
    assert (shown["operator"], shown["note"], shown["verdict"]) == ("ana", "ticket 4411", "put_aside")
    data(dlq(store, "restore", "m1", *WHY, "--yes", "--json"))
    assert ids(store, "--kind", "message") == ["m1"]
    assert dlq(store, "purge", "--all").returncode == 9
    gone = data(dlq(store, "purge", "--all", "--expect-count", "2", "--operator", "ana", *WHY, "--yes", "--json"))
    assert [(row["id"], row["operator"], row["note"]) for row in gone] == [("m3", "ana", WHY[1]), ("m2", "ana", WHY[1])]
    assert ids(store, "--state", "all") == ["m1", STEP]
    mixed = dlq(store, "archive", STEP, *WHY, "--yes")
    assert (mixed.returncode, "resolve them with: saga-choreo steps" in mixed.stderr) == (5, True)


@pytest.mark.parametrize(("answer", "exit_code", "made"), [(b"y\n", 0, 1), (b"n\n", 9, 0)])
def test_on_a_terminal_the_question_is_asked(store: str, answer: bytes, exit_code: int, made: int) -> None:
    terminal, other_end = pty.openpty()
    command = [COMMAND, "dlq", "replay", "m1", *WHY, "--store", store]
    with subprocess.Popen(command, stdin=other_end, stderr=other_end, stdout=subprocess.PIPE) as child:
        os.close(other_end)
        os.write(terminal, answer)
        assert child.wait(60) == exit_code
        shown = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert "Plan: replay for shop" in shown
    assert "Go on?" in shown
    assert len(jobs(store)) == made


def test_a_store_without_letters_says_so(tmp_path: Path) -> None:
    none = in_process("dlq", "list")
    assert (none.returncode, "--store URL" in none.stderr) == (3, True)
    wrong = saga_choreo("dlq", "list", "--store", f"sqlite:///{tmp_path}/none.db")
    assert (wrong.returncode, wrong.stdout) == (3, "")


@pytest.mark.parametrize("args", [["dlq"], ["jobs"]])
def test_every_verb_has_help_with_two_examples(args: list[str]) -> None:
    verbs = [line.split()[0] for line in in_process(*args, "--help").stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert len(verbs) >= 6
    for verb in verbs:
        shown = in_process(*args, verb, "--help")
        assert shown.returncode == 0
        assert shown.stdout.partition("Examples:")[2].count("saga-choreo ") >= 2, verb


@pytest.mark.parametrize("verb", ["replay", "archive", "purge"])
def test_a_reason_that_says_nothing_is_refused_before_anything_is_planned(store: str, verb: str) -> None:
    refused = dlq(store, verb, "--all", "--reason", " ", "--yes")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Plan:" not in refused.stderr
    assert "say why in a few words" in refused.stderr


def test_a_dry_run_of_what_cannot_be_replayed_says_so(store: str) -> None:
    planned = dlq(store, "replay", "m2", *WHY, "--dry-run")
    assert planned.returncode == 0
    assert "Plan: replay nothing, 0 in all" in planned.stderr
