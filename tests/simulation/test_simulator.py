"""The simulator finds nothing in the product, finds planted faults, and does the same thing every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from saga_choreo.testing.simulator.settings import Settings
from saga_choreo.testing.simulator.shapes import SHAPES
from saga_choreo.testing.simulator.simulate import Result, replay_command, simulate, simulate_every_crash
from saga_choreo.testing.simulator.simulation import run_seed
from saga_choreo.testing.simulator.world import World

HERE = Path(__file__).parent


def _module(name: str) -> ModuleType:
    """A module beside this one: tests are no package."""
    found = spec_from_file_location(f"simulation_{name}", HERE / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _assert_sound(result: Result, settings: Settings) -> None:
    for verdict in result.failures:
        pytest.fail(f"{verdict.violations[0]}; run again: {replay_command(verdict.seed, settings)}")


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(reannounce=False), Settings(reannounce=True, loss=0.4), Settings(sagas=12, reannounce=False)],
    ids=["as the seed decides", "nothing repeated", "messages lost", "many sagas"],
)
def test_no_promise_is_broken_under_random_faults(settings: Settings) -> None:
    result = simulate(range(40), settings)
    _assert_sound(result, settings)
    assert result.completed > 0
    assert result.aborted > 0
    assert result.completed + result.aborted == result.sagas


@pytest.mark.parametrize("shape", SHAPES)
def test_no_promise_is_broken_in_a_graph_of_any_shape(shape: str) -> None:
    settings = Settings(shape=shape, rates={"step_reject": 0.2, "hold": 0.05, "cancel": 0.3})
    result = simulate(range(1000, 1008), settings)
    _assert_sound(result, settings)


@pytest.mark.parametrize(("seed", "options", "story"), _module("seeds").REGRESSIONS)
def test_a_seed_that_once_failed_does_not_fail_again(seed: int, options: dict[str, Any], story: str) -> None:
    settings = Settings(**options)
    _assert_sound(simulate([seed], settings), settings)


@pytest.mark.parametrize("shape", ["diamond", "exclusive and a root", "pivot", "optional under all"])
def test_a_crash_at_any_single_operation_breaks_nothing(shape: str) -> None:
    result = simulate_every_crash(7, Settings(sagas=1, shape=shape))
    assert result.seeds > 30
    _assert_sound(result, Settings(shape=shape))


def test_a_crash_at_any_single_operation_of_an_aborting_saga_breaks_nothing() -> None:
    settings = Settings(sagas=1, shape="diamond", rates={"step_reject": 0.5})
    only = frozenset({"step_reject"})
    seed = next(seed for seed in range(50) if simulate([seed], replace(settings, only=only)).aborted)
    result = simulate_every_crash(seed, settings, faults=only)
    assert result.aborted > 30
    _assert_sound(result, settings)


_DIGESTS = """
import logging
logging.disable(logging.CRITICAL)
from saga_choreo.testing.simulator.settings import Settings
from saga_choreo.testing.simulator.simulation import run_seed
print([run_seed(seed, Settings(trace=True)).digest for seed in range(25)])
"""


def test_the_same_seed_does_the_same_under_any_hash_seed() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", _DIGESTS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "random")
    ]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(json.loads(digests[0]))) == 25


def test_leaving_out_one_fault_moves_no_earlier_one() -> None:
    settings = Settings()
    verdict = next(v for v in (run_seed(seed, settings) for seed in range(50)) if len(v.faults) > 20)
    left_out = verdict.faults[10][0]
    again = run_seed(verdict.seed, replace(settings, suppressed=frozenset({left_out})))
    assert again.faults[:10] == verdict.faults[:10]
    assert left_out not in [mark for mark, _ in again.faults]


@pytest.mark.parametrize("name", ["ack-before-commit", "skipped-clears-early", "no-scan"])
def test_a_planted_fault_is_found(name: str) -> None:
    mutants = _module("mutants")
    result = mutants.run_mutant(HERE / "mutants" / f"{name}.patch", 400)
    assert result["verdict"] == "killed", result


def test_a_run_that_never_ends_is_broken_off() -> None:
    world = World(1, Settings(sagas=1))
    world._events_max = 50

    def again() -> None:
        world.after(1, again)

    again()
    world.run(10**9)
    assert [violation.code for violation in world.violations] == ["L6"]
    assert world.now_ns < 60


def test_every_mutant_applies_to_the_shipped_source() -> None:
    patches = sorted((HERE / "mutants").glob("*.patch"))
    assert len(patches) > 40
    for patch in patches:
        subprocess.run(["git", "apply", "--check", "-p1", str(patch)], cwd=HERE.parents[1], check=True, capture_output=True)


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    run = "from saga_choreo.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", run, "simulate", *arguments], capture_output=True, text=True, check=False)


def test_the_command_prints_counts_and_rare_situations_as_json() -> None:
    ended = _cli("--seeds", "20", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["seeds"], found["sagas"], found["violations"]) == (20, 80, 0)
    assert found["sometimes"]["message duplicated"] > 0


def test_the_command_runs_a_users_own_choreography() -> None:
    ended = _cli("examples.order_processing.choreography", "--seeds", "10", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["completed"] > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--loss", "0.2", "--no-reannounce"), "repaired by repeated announcements"),
        (("--shape", "cube"), "there is no shape 'cube'"),
        (("--rate", "crash=often"), "is not FAULT=RATE"),
        (("--rate", "flood=1"), "there is no fault 'flood'"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(arguments: tuple[str, ...], says: str) -> None:
    ended = _cli(*arguments)
    assert ended.returncode == 2
    assert says in ended.stderr
