"""`saga-choreo demo` as people run it: a process of its own with a real server, four services and kill -9.

Each test runs in a checkout of its own, so that nothing is left in this one, and some change the example there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

COMMAND = str(Path(sys.executable).parent / "saga-choreo")
ROOT = Path(__file__).resolve().parents[2]
KEYS = [
    "sagas",
    "completed",
    "compensated",
    "wrong",
    "repeated_effects",
    "redelivered",
    "seconds",
    "sagas_per_s",
    "hop_ms",
    "killed",
    "in_flight_at_kill",
]
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


def _marked(mark: str) -> list[str]:
    """Processes that inherited the mark in their environment, however they are related to each other now."""
    found: list[str] = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes():
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended, or belongs to somebody else
    return found


def _wait_until_gone(mark: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while left := _marked(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))


@contextmanager
def _demo(tmp_path: Path, mark: str, *arguments: str, **settings: str) -> Generator[subprocess.Popen[str]]:
    """The demo, in a group of its own as in a terminal; its stderr goes to a file, so that it can be watched."""
    environ = {name: value for name, value in os.environ.items() if name not in ("SAGAS", "FAIL_EVERY", "CHAOS")}
    with (
        (tmp_path / "stderr").open("w") as talk,
        subprocess.Popen(
            [COMMAND, "demo", *arguments],
            cwd=tmp_path,
            env={**environ, "DEMO_MARK": mark, **settings},
            stdout=subprocess.PIPE,
            stderr=talk,
            text=True,
            process_group=0,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _talk(tmp_path: Path) -> str:
    return (tmp_path / "stderr").read_text()


def _ran(tmp_path: Path, *arguments: str, **settings: str) -> tuple[int, list[str]]:
    mark = f"demo-{uuid4()}"
    with _demo(tmp_path, mark, *arguments, **settings) as process:
        out, _ = process.communicate(timeout=150)
    assert _marked(mark) == []
    return process.returncode, out.splitlines()


def test_the_demo_completes_and_compensates_sagas_and_says_so_in_its_last_line(tmp_path: Path) -> None:
    code, lines = _ran(tmp_path, SAGAS="30", FAIL_EVERY="5")
    assert code == 0, _talk(tmp_path)
    found: dict[str, Any] = json.loads(lines[-1])
    assert list(found) == KEYS
    hops = found.pop("hop_ms")
    assert 0 < hops["p50"] <= hops["p99"]
    assert found.pop("seconds") > 0
    assert found.pop("sagas_per_s") > 0
    assert found.pop("redelivered") >= 0
    assert found == {
        "sagas": 30,
        "completed": 24,
        "compensated": 6,
        "wrong": 0,
        "repeated_effects": 0,
        "killed": 0,
        "in_flight_at_kill": [],
    }


def test_a_person_sees_one_completed_and_one_compensated_saga_step_by_step(tmp_path: Path) -> None:
    code, lines = _ran(tmp_path, "--sagas", "4", "--fail-every", "2")
    assert code == 0, _talk(tmp_path)
    steps = [line.split()[0:3] for line in lines if line.rstrip().endswith("ms")]
    assert steps == [
        ["(start)", "order", "started"],
        ["reserve-stock", "inventory", "completed"],
        ["charge-payment", "payment", "completed"],
        ["book-shipment", "shipping", "completed"],
        ["confirm-order", "order", "completed"],
        ["(end)", "order", "completed"],
        ["(start)", "order", "started"],
        ["reserve-stock", "inventory", "completed"],
        ["charge-payment", "payment", "completed"],
        ["book-shipment", "shipping", "refused:"],
        ["charge-payment", "payment", "compensated"],
        ["reserve-stock", "inventory", "compensated"],
        ["(end)", "order", "compensated"],
    ]
    assert _talk(tmp_path).count(" is process ") == 5


@pytest.mark.slow
def test_three_services_killed_in_the_middle_of_their_work_leave_nothing_wrong_and_nothing_repeated(tmp_path: Path) -> None:
    code, lines = _ran(tmp_path, SAGAS="80", FAIL_EVERY="8", CHAOS="1")
    assert code == 0, _talk(tmp_path)
    found = json.loads(lines[-1])
    assert (found["completed"], found["compensated"], found["wrong"], found["repeated_effects"]) == (70, 10, 0, 0)
    assert found["killed"] == len(found["in_flight_at_kill"]) == 3
    assert min(found["in_flight_at_kill"]) >= 5
    assert found["redelivered"] > 0
    assert _talk(tmp_path).count("started it again") == 3


def test_too_few_sagas_for_three_kills_are_a_failure_that_says_so(tmp_path: Path) -> None:
    code, lines = _ran(tmp_path, SAGAS="1", CHAOS="1")
    assert code == 1
    assert json.loads(lines[-1])["killed"] < 3
    assert "of 3 kills were possible: with 1 sagas" in _talk(tmp_path)


def _wait_for(process: subprocess.Popen[str], tmp_path: Path, word: str) -> None:
    deadline = time.monotonic() + 60
    while word not in _talk(tmp_path):
        assert process.poll() is None, _talk(tmp_path)
        assert time.monotonic() < deadline, _talk(tmp_path)
        time.sleep(0.02)


def _sabotage(tmp_path: Path, service: str, sound: str, broken: str) -> None:
    source = tmp_path / "examples" / "order_processing" / f"{service}.py"
    text = source.read_text()
    assert text.count(sound) == 1
    source.write_text(text.replace(sound, broken))


def test_a_service_that_does_its_step_twice_is_found_out(tmp_path: Path) -> None:
    _sabotage(tmp_path, "shipping", '    await note(ctx, "do")\n', '    await note(ctx, "do")\n    await note(ctx, "do")\n')
    code, lines = _ran(tmp_path, SAGAS="6", FAIL_EVERY="3")
    found = json.loads(lines[-1])
    assert (code, found["wrong"], found["repeated_effects"]) == (1, 4, 4)
    assert "do of book-shipment: 2 times instead of 1" in _talk(tmp_path)
    assert "databases and logs are kept in" in _talk(tmp_path)


def test_a_service_that_forgets_to_undo_is_found_out(tmp_path: Path) -> None:
    _sabotage(tmp_path, "payment", '    await note(ctx, "undo")\n', "")
    code, lines = _ran(tmp_path, SAGAS="6", FAIL_EVERY="3")
    assert (code, json.loads(lines[-1])["wrong"]) == (1, 1)
    assert "undo of charge-payment: 0 times instead of 1" in _talk(tmp_path)


def test_a_service_that_cannot_start_ends_the_demo_with_its_last_words(tmp_path: Path) -> None:
    _sabotage(tmp_path, "inventory", 'agent = Agent("inventory"', 'raise RuntimeError("no stock today")\nagent = Agent("inventory"')
    code, _ = _ran(tmp_path, SAGAS="6")
    assert code == 1
    assert "service 'inventory' ended by itself with exit code 3" in _talk(tmp_path)
    assert "no stock today" in _talk(tmp_path)


def test_sagas_that_do_not_end_in_time_are_listed_with_what_every_service_knows(tmp_path: Path) -> None:
    _sabotage(tmp_path, "shipping", "    if order.address", '    raise RuntimeError("the van broke down")\n    if order.address')
    code, lines = _ran(tmp_path, "--timeout", "3", SAGAS="2", FAIL_EVERY="0")
    assert (code, json.loads(lines[-1])["wrong"]) == (1, 2)
    assert "the sagas did not end within 3 s" in _talk(tmp_path)
    assert "ORDER-1 (" in _talk(tmp_path)
    assert "the van broke down" in _talk(tmp_path)


@needs_proc
@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        (signal.SIGINT, 130, "sagas start"),
        (signal.SIGTERM, 143, "sagas start"),
        (signal.SIGINT, 130, "service shipping is process"),
    ],
    ids=["ctrl-c under load", "sigterm under load", "ctrl-c while services start"],
)
def test_a_signal_in_the_middle_stops_everything_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals, code: int, moment: str
) -> None:
    mark = f"demo-{uuid4()}"
    with _demo(tmp_path, mark, SAGAS="20000") as process:
        _wait_for(process, tmp_path, moment)
        assert _marked(mark), "the mark is not seen in any process, so that the test would show nothing"
        os.killpg(process.pid, number)  # as a terminal does
        assert process.wait(timeout=40) == code, _talk(tmp_path)
        assert _marked(mark) == []
    assert "stopping all processes" in _talk(tmp_path)


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_demo_that_is_killed_takes_its_processes_with_it(tmp_path: Path) -> None:
    mark = f"demo-{uuid4()}"
    with _demo(tmp_path, mark, SAGAS="20000") as process:
        _wait_for(process, tmp_path, "sagas start")
        process.kill()
        process.wait()
        _wait_until_gone(mark)


@pytest.mark.parametrize(("name", "value"), [("SAGAS", "0"), ("SAGAS", "many"), ("FAIL_EVERY", "-1"), ("CHAOS", "perhaps")])
def test_a_bad_setting_is_a_usage_error_that_names_it(tmp_path: Path, name: str, value: str) -> None:
    code, lines = _ran(tmp_path, **{name: value})
    assert (code, lines) == (2, [])
    assert f"env var: '{name}'" in _talk(tmp_path)


def test_without_a_checkout_the_demo_says_where_to_run_it(tmp_path: Path) -> None:
    # -P and -S: neither this directory nor the editable install is on the path; the packages are, without the example.
    shutil.rmtree(tmp_path / "examples")
    code = (
        "import sys; "
        f"sys.path += [{str(tmp_path)!r}, *{[path for path in sys.path if path.endswith('site-packages')]!r}]; "
        "sys.argv = ['saga-choreo', 'demo']; from saga_choreo.cli.main import main; main()"
    )
    for package, place in (
        ("saga_choreo", ROOT),
        ("saga_choreo_nats", ROOT / "adapters"),
        ("saga_choreo_sqlite", ROOT / "adapters"),
    ):
        (tmp_path / package).symlink_to(place / package)
    found = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 3, found.stderr
    assert found.stdout == ""
    assert "run the demo from its checkout: make demo" in found.stderr
