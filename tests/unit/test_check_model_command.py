"""`saga-choreo check-model`: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saga_choreo.cli.check_model import command
from saga_choreo.core import transitions
from saga_choreo.core.facts import AbortCame
from saga_choreo.core.transitions import TABLE
from saga_choreo.errors import ConfigurationError
from saga_choreo.model.states import State

FIELDS = ["graph", "states", "transitions", "violations", "ends", "transitions_per_s"]


def run(*words: str) -> Result:
    return CliRunner().invoke(command, words)


def test_a_built_in_graph_is_checked_by_name_and_answers_one_json_object() -> None:
    result = run("chain3", "--json")
    assert result.exit_code == 0
    answer = json.loads(result.output)
    assert list(answer) == FIELDS
    assert (answer["graph"], answer["violations"]) == ("chain3", 0)
    assert answer["ends"]["completed"] == 1


def test_switches_change_what_may_happen() -> None:
    with_cancel, without = (json.loads(run("chain3", "--json", switch).output) for switch in ("--cancel", "--no-cancel"))
    assert with_cancel["states"] > without["states"]


def test_all_graphs_of_a_size_are_summed_up_in_one_object() -> None:
    result = run("--all-graphs", "1", "--json")
    assert result.exit_code == 0
    answer = json.loads(result.output)
    assert list(answer) == FIELDS
    assert answer["graph"] == "all graphs of up to 1 steps"
    # A plain, an external and an optional step, and a pivot; the optional one can end skipped as well.
    assert answer["ends"]["completed"] == 5


def test_a_choreography_of_ones_own_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_to_check.py").write_text(
        "from saga_choreo.model.choreography import Choreography, ChoreographyStep\n"
        "step = ChoreographyStep('pay').on_event('order.placed').publish_event('order.paid').with_compensation().owned_by('bank')\n"
        "orders = Choreography('orders').starts_with('order.placed').step(step)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = run("shop_to_check:orders")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("orders: holds; ")


def test_a_broken_promise_is_told_as_a_story_and_ends_with_code_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        TABLE,
        (State.DONE, AbortCame),
        transitions.Rule("wrong", (), lambda row, _fact, _step: row._replace(state=State.COMPENSATED, abort=True)),
    )
    result = run("chain3")
    assert result.exit_code == 6
    assert "chain3: BROKEN" in result.output
    assert "S5 is broken after 6 actions" in result.output
    assert "service-a receives ABORT" in result.output


def test_a_name_that_is_no_graph_is_refused_with_the_names_there_are() -> None:
    result = run("chain4")
    assert isinstance(result.exception, ConfigurationError)
    assert "no built-in graph 'chain4'; name one of chain3, fork" in str(result.exception)


def test_a_graph_and_all_graphs_exclude_each_other() -> None:
    result = run("chain3", "--all-graphs", "2")
    assert result.exit_code == 2
    assert "exclude each other" in result.output
