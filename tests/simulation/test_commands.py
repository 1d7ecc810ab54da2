"""`saga-choreo simulate` and `check-model`: what they print, and what they refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from saga_choreo.cli import simulate as command
from saga_choreo.cli.main import cli
from saga_choreo.testing.simulator.simulate import Result

ROOT = Path(__file__).resolve().parents[2]
RUN = "from saga_choreo.cli.main import main; main()"
# The payment cannot be undone, and the step behind it may refuse.
ILL_FORMED = """
from saga_choreo import Choreography, ChoreographyStep
shop = Choreography("shop").starts_with("order.placed").step(
    ChoreographyStep("charge").on_event("order.placed").publish_event("payment.charged").owned_by("payment"),
    ChoreographyStep("ship").on_event("payment.charged").with_compensation().owned_by("shipping"),
)
"""


def _cli(*arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, "-c", RUN, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def ill_formed(tmp_path: Path) -> Path:
    (tmp_path / "illshop.py").write_text(ILL_FORMED)
    return tmp_path


def test_a_clean_simulation_prints_exactly_the_documented_keys() -> None:
    for layer, seeds in (("b", "10"), ("c", "3")):
        found = json.loads(_cli("simulate", "--seeds", seeds, "--layer", layer, "--json").stdout)
        assert sorted(found) == ["aborted", "completed", "sagas", "sagas_per_s", "seeds", "sometimes", "violations"]
        assert found["violations"] == 0
        assert found["completed"] + found["aborted"] == found["sagas"] == 4 * int(seeds)


def test_how_many_processes_run_the_seeds_changes_nothing() -> None:
    one, two = (json.loads(_cli("simulate", "--seeds", "60", "--jobs", jobs, "--json").stdout) for jobs in ("1", "2"))
    assert one | {"sagas_per_s": 0} == two | {"sagas_per_s": 0}
    own = _cli(
        "simulate", "examples.order_processing.order:agent", "--start", "examples.order_processing.simulation:start", "--jobs", "2"
    )
    assert own.returncode == 2
    assert "leave --jobs or --start out" in own.stderr


def test_a_failing_seed_is_the_same_in_several_processes(ill_formed: Path) -> None:
    words = ("simulate", "illshop:shop", "--anyway", "--seeds", "400", "--no-shrink", "--json")
    one, two = (_cli(*words, "--jobs", jobs, path=ill_formed) for jobs in ("1", "2"))
    assert one.returncode == two.returncode == 6
    assert json.loads(one.stdout)["failures"] == json.loads(two.stdout)["failures"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_that_is_interrupted_tells_what_it_has_found(jobs: str) -> None:
    command_line = [sys.executable, "-c", RUN, "simulate", "--seeds", "1000000", "--jobs", jobs, "--json"]
    with subprocess.Popen(command_line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        time.sleep(6)
        running.send_signal(signal.SIGINT)
        said, complaint = running.communicate(timeout=120)
    assert running.returncode == 130
    found = json.loads(said)
    assert found["violations"] == 0
    assert 0 < found["seeds"] < 1_000_000
    assert f"interrupted after {found['seeds']} of 1000000 seeds" in complaint


def test_a_search_prints_exactly_the_documented_keys() -> None:
    found = json.loads(_cli("check-model", "two_roots", "--json").stdout)
    assert sorted(found) == ["ends", "graph", "states", "transitions", "transitions_per_s", "violations"]
    assert sorted(found["ends"]) == ["aborted", "completed"]


@pytest.mark.parametrize("arguments", [("check-model",), ("simulate", "--seeds", "2")])
def test_a_choreography_that_is_not_well_formed_is_refused_with_the_findings(arguments: tuple[str, ...], ill_formed: Path) -> None:
    ended = _cli(*arguments, "illshop:shop", path=ill_formed)
    assert ended.returncode == 6
    assert "WF2: step 'charge' cannot be undone" in ended.stderr
    assert "--anyway" in ended.stderr
    assert ended.stdout == ""


def test_who_insists_sees_what_goes_wrong_with_it(ill_formed: Path) -> None:
    ended = _cli("check-model", "illshop:shop", "--anyway", path=ill_formed)
    assert ended.returncode == 6
    assert "S9 is broken after 5 actions" in ended.stdout
    ended = _cli("simulate", "illshop:shop", "--anyway", "--seeds", "300", "--no-shrink", "--json", path=ill_formed)
    assert ended.returncode == 6
    found = json.loads(ended.stdout)
    assert found["violations"] == len(found["failures"][0]["violations"]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "crash=nan"), "--rate 'crash=nan' is not between 0 and 1"),
        (("--rate", "crash=2"), "--rate 'crash=2' is not between 0 and 1"),
        (("--rate", "crash=much"), "--rate 'crash=much' is not FAULT=RATE"),
        (("--rate", "crush=0.1"), "there is no fault 'crush'"),
        (("--loss", "nan"), "--loss is nan; give a share from 0 to 0.9"),
        (("--seeds", "0"), "'--seeds': 0 is not in the range"),
        (("--loss", "0.4", "--no-reannounce"), "lost messages are repaired by repeated announcements"),
    ],
)
def test_a_setting_that_makes_no_sense_is_a_mistake_of_usage(arguments: tuple[str, ...], message: str) -> None:
    ended = CliRunner().invoke(cli, ["simulate", *arguments])
    assert ended.exit_code == 2
    assert message in ended.output


@pytest.mark.parametrize(("layer", "sagas", "is_full"), [("b", 19_999, False), ("b", 20_000, True), ("c", 12_000, True)])
def test_only_a_full_run_has_to_reach_every_rare_situation(layer: str, sagas: int, is_full: bool) -> None:
    result = Result(layer=layer, sagas=sagas, sometimes={"commit refused": 3})
    missed = command.missed(result, is_drawn=True)
    assert ("message duplicated" in missed or "crash of an agent" in missed) is is_full
    assert "commit refused" not in missed
    assert command.missed(result, is_drawn=False) == []
