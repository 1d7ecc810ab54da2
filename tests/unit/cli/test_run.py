"""`saga-choreo run` as a process: it stops when told to, at once when told twice, and says what was wrong."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process import COMMAND, saga_choreo, write_app

# Not an Agent, but all that `run` asks of one: the command must not need a broker to be tested.
APP = """
import asyncio, sys

class Sidecar:
    name = "payment"
    choreographies = ()
    def __init__(self, drain_s, error=None):
        self.drain_s, self.error = drain_s, error
    async def run(self, *, stop):
        print("running", type(asyncio.get_running_loop()).__module__, flush=True)
        if self.error:
            raise self.error
        await stop.wait()
        print("draining", flush=True)
        await asyncio.sleep(self.drain_s)
        print("drained", flush=True)

from saga_choreo import BrokerUnavailable
quick, slow = Sidecar(0), Sidecar(60)
down = Sidecar(0, BrokerUnavailable("broker at 'nats://h:1' does not answer; start it"))
buggy = Sidecar(0, KeyError("oops"))
"""


@contextmanager
def _running(folder: Path, target: str) -> Iterator[subprocess.Popen[str]]:
    command = [COMMAND, "run", target]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return write_app(tmp_path, APP, "app")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_stops_the_agent_cleanly(here: Path, number: signal.Signals) -> None:
    with _running(here, "app:quick") as process:
        assert _line(process) == "running uvloop"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out.split()) == (0, ["draining", "drained"])
    assert f"{number.name}: stopping agent 'payment'" in err


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_it_at_once_and_the_exit_code_tells(here: Path, number: signal.Signals, exit_code: int) -> None:
    with _running(here, "app:slow") as process:
        assert _line(process) == "running uvloop"
        process.send_signal(number)
        assert _line(process) == "draining"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, "Traceback" in err) == (exit_code, "", False)


def test_a_broker_that_cannot_be_reached_is_exit_code_4(here: Path) -> None:
    done = saga_choreo("run", "app:down", cwd=here)
    assert (done.returncode, "Traceback" in done.stderr) == (4, False)
    assert "Error: broker at 'nats://h:1' does not answer; start it (SAGA-E0401)" in done.stderr


def test_a_bug_shows_its_traceback_and_what_to_report(here: Path) -> None:
    done = saga_choreo("run", "app:buggy", cwd=here)
    assert done.returncode == 1
    assert "KeyError: 'oops'" in done.stderr
    assert "please report it" in done.stderr


def test_what_is_no_agent_is_a_configuration_error(here: Path) -> None:
    done = saga_choreo("run", "app:Sidecar", cwd=here)
    assert done.returncode == 3
    assert "'app:Sidecar' is a type, not an Agent" in done.stderr


def test_a_setting_that_cannot_be_is_refused_before_anything_starts(here: Path) -> None:
    done = saga_choreo("run", "app:quick", cwd=here, SAGA_LOG_LEVEL="loud")
    assert done.returncode == 3
    assert "SAGA_LOG_LEVEL is 'loud'" in done.stderr


def test_an_agent_without_a_broker_says_how_to_name_one(tmp_path: Path) -> None:
    source = """
from saga_choreo import Choreography, ChoreographyStep
from saga_choreo.runtime.agent import Agent
step = ChoreographyStep("charge").on_event("order.created").publish_event("payment.charged").owned_by("payment").with_compensation()
agent = Agent("stock", saga=Choreography("orders").starts_with("order.created").step(step))
"""
    done = saga_choreo("run", "shop:agent", cwd=write_app(tmp_path, source))
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (3, "", False)
    assert "agent 'stock' has no broker; pass broker='nats://127.0.0.1:4222' or set SAGA_BROKER_URL" in done.stderr
