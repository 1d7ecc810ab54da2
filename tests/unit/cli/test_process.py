"""The command as a process: endings, streams, pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from process import COMMAND, in_process, saga_choreo, write_app

import saga_choreo as toolkit


def test_version_is_data_on_stdout_and_nothing_on_stderr() -> None:
    done = saga_choreo("version", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["schema"] == "saga-choreo/v1/version"
    assert document["version"] == toolkit.__version__
    assert "nats" in document["brokers"]
    assert f"saga-choreo {toolkit.__version__}" in saga_choreo("version").stdout


def test_a_mistyped_command_is_a_usage_error_with_a_suggestion() -> None:
    done = saga_choreo("vresion")
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no command 'vresion'. Did you mean 'version'?" in done.stderr
    assert "run: saga-choreo --help" in done.stderr


@pytest.mark.parametrize("flag", [["-o", "json"], ["--json"], ["-ojson"], ["--output=json"]])
def test_with_json_an_error_is_an_object_on_stderr_and_stdout_is_empty(flag: list[str]) -> None:
    done = saga_choreo("sagas", "list", "--store", "postgre://u:hunter2@h/db", *flag)
    assert (done.returncode, done.stdout) == (3, "")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "SAGA-E0300"
    assert "hunter2" not in done.stderr


def test_a_usage_error_is_json_too_when_json_is_asked_for() -> None:
    done = saga_choreo("graph", "--nonsense", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["code"] == "SAGA-E0200"


def test_the_reader_of_a_pipe_may_leave_early(tmp_path: Path) -> None:
    write_app(tmp_path)
    code = (
        f"import subprocess, sys; sys.exit(subprocess.run([{COMMAND!r}, 'graph', 'shop:orders'], cwd={str(tmp_path)!r}).returncode)"
    )
    # stdout's other end is closed before the command writes anything.
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        complaints = running.stderr.read()
        assert running.wait(timeout=60) == 141
    assert complaints == ""


def test_a_traceback_is_shown_with_debug_only(tmp_path: Path) -> None:
    write_app(tmp_path, "1 / 0\n")
    without = saga_choreo("graph", "shop", cwd=tmp_path)
    with_debug = saga_choreo("graph", "shop", "--debug", cwd=tmp_path)
    assert (without.returncode, with_debug.returncode) == (3, 3)
    assert "Traceback" not in without.stderr
    assert "importing 'shop' failed with ZeroDivisionError: division by zero; add --debug" in without.stderr
    assert "ZeroDivisionError" in with_debug.stderr
    assert "Traceback" in with_debug.stderr


def test_every_help_opens_with_two_examples() -> None:
    for command in (
        ["run"],
        ["graph"],
        ["verify"],
        ["version"],
        ["sagas"],
        ["sagas", "list"],
        ["sagas", "show"],
        ["sagas", "cancel"],
        ["steps"],
        *(["steps", verb] for verb in ("list", "show", "retry", "take", "give-back", "done", "fail", "waive")),
        [],
    ):
        shown = in_process(*command, "--help").stdout
        examples = shown.partition("Examples:")[2].partition("Options:")[0]
        lines = [line for line in examples.splitlines() if "saga-choreo" in line]
        assert len(lines) == 2, f"{command} has {len(lines)} examples"


def test_a_missing_app_and_a_missing_store_say_what_to_give() -> None:
    graph, listing = saga_choreo("graph"), saga_choreo("sagas", "list")
    assert (graph.returncode, listing.returncode) == (3, 3)
    assert "set SAGA_APP" in graph.stderr
    assert "give --store URL or set SAGA_STORE_URL" in listing.stderr


def test_a_group_without_a_command_answers_with_its_help() -> None:
    for args in ((), ("dlq",)):
        done = in_process(*args)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: saga-choreo")


def test_a_noun_in_the_singular_is_understood_and_not_listed() -> None:
    assert in_process("saga", "list", "--help").returncode == 0
    assert "\n  saga " not in in_process("--help").stdout
