"""The page on states is drawn from the transition table; a change of the table has to redraw it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from saga_choreo.core.drawing import lines, mermaid, page, text
from saga_choreo.core.transitions import TABLE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "states.md"


def _states(*options: str) -> str:
    run = [sys.executable, "-m", "saga_choreo.cli.main", "states", *options]
    return subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_page_on_states_is_what_the_transition_table_says() -> None:
    assert PAGE.read_text() == page(), "docs/states.md is stale; run: python docs/generate.py"


def test_every_rule_of_the_table_is_on_one_line_of_the_drawing() -> None:
    drawn = [(line.state, line.rule, line.to) for origin in (False, True) for line in lines(origin=origin)]
    assert sorted(drawn) == sorted((state, rule.number, rule.to) for (state, _), rule in TABLE.items())


def test_a_diagram_draws_an_arrow_for_each_change_of_state_and_no_other() -> None:
    arrows = {line.strip() for line in mermaid(origin=True).splitlines()[1:]}
    assert "open --> completed : done came, skip came" in arrows
    assert not any(line.startswith("completed -->") and line != "completed --> [*]" for line in arrows)
    changes = {(a, b) for (a, _), rule in TABLE.items() for b in rule.to if a is not b}
    drawn = [line for origin in (False, True) for line in mermaid(origin=origin).splitlines() if " : " in line]
    assert len(drawn) == len(changes)


def test_every_fact_of_the_page_says_what_has_happened() -> None:
    facts = page().split("## Facts")[1].split("## What people see")[0]
    rows = [row.split(" | ") for row in facts.strip().splitlines()[2:]]
    assert len(rows) == 19
    assert all(len(row) == 2 and row[1].endswith(". |") for row in rows)


def test_the_command_prints_the_table_the_diagrams_and_json() -> None:
    assert _states().strip() == text()
    assert _states("-o", "mermaid").count("stateDiagram-v2") == 2
    assert len(json.loads(_states("--json"))) == len(TABLE)
