"""Tables that are written by hand say what the code says."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

from saga_choreo.cli.check_model import command as check_model
from saga_choreo.cli.exits import ExitCode
from saga_choreo.codec.faults import Fault
from saga_choreo.core.graph import plan_of
from saga_choreo.core.resolutions import possible
from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.model.record import Row
from saga_choreo.model.states import Parked, State
from saga_choreo.runtime.hopeless import CODE
from saga_choreo.runtime.plain import CODES
from saga_choreo.runtime.settings import LOG_FORMATS, LOG_LEVELS, Settings, read_settings
from saga_choreo.runtime.timing import Limits

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
STEPS = (ROOT / "docs" / "steps.md").read_text()
TESTING = (ROOT / "docs" / "testing-your-saga.md").read_text()


def _section(page: str, title: str) -> str:
    return page.split(f"## {title}\n")[1].split("\n## ")[0]


def _rows(section: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if re.match(r"\| [^-]", line)]


def _quarantine_codes() -> set[str]:
    """The words that the runtime gives beside those of the codec: arguments and headers in its source."""
    found: set[str] = set()
    for name in ("arrivals.py", "holding.py"):
        for node in ast.walk(ast.parse((ROOT / "saga_choreo" / "runtime" / name).read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr="_quarantine"), args=[_, ast.Constant(value=str(code)), *_]):
                    found.add(code)
                case ast.Dict(keys=[ast.Constant(value="saga-quarantine-code"), *_], values=[ast.Constant(value=str(code)), *_]):
                    found.add(code)
                case _:
                    pass
    return found


def test_every_exit_code_is_in_the_table_and_no_other() -> None:
    told = {int(row[0]): row[1].replace(" ", "_").upper() for row in _rows(_section(OPERATIONS, "Exit codes"))[1:]}
    assert told == {code.value: code.name for code in ExitCode}


def test_every_quarantine_code_is_in_the_table_once_and_no_other() -> None:
    told = [code for row in _rows(_section(OPERATIONS, "Quarantine"))[1:] for code in re.findall(r"`(\w+)`", row[0])]
    assert sorted(told) == sorted({*(fault.value for fault in Fault), *_quarantine_codes(), *CODES, CODE})
    assert len(_quarantine_codes()) == 4


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = {row[0].strip("`"): row for row in _rows(_section(OPERATIONS, "Settings"))[1:]}
    assert set(rows) == {f"SAGA_{field.name.upper()}" for field in fields(Settings)}
    defaults = read_settings({})
    assert (rows["SAGA_LOG_LEVEL"][1], rows["SAGA_LOG_FORMAT"][1]) == (f"`{defaults.log_level}`", f"`{defaults.log_format}`")
    assert re.findall(r"`(\w+)`", rows["SAGA_LOG_LEVEL"][2]) == list(LOG_LEVELS)
    assert {*re.findall(r"`(\w+)`", rows["SAGA_LOG_FORMAT"][2])} == set(LOG_FORMATS)


def test_the_times_of_recovery_are_those_of_the_limits() -> None:
    limits, told = Limits(), _section(OPERATIONS, "Stopping and recovering")
    for seconds, text in (
        (limits.stop_grace_s, "longer than 25 s"),
        (limits.unannounced_after_s, "any agent of the service: 3 s"),
        (limits.start_unannounced_after_s, "0.2 s for the start"),
        (limits.lease_s, "4 s after its last sign of life"),
        (limits.nudge_first_s, "after 30 s, then doubling"),
        (limits.nudge_max_s / 3600, "up to 1 h"),
        (limits.horizon_s / 86_400, "7 days"),
        (limits.clock_bound_s / 3600, "2 hours"),
    ):
        assert text in told
        assert f"{seconds:g} " in text


def test_what_can_be_said_of_a_parked_step_is_what_the_rules_allow() -> None:
    plain, external = ChoreographyStep("a", "one").on_event("a.begun"), ChoreographyStep("b", "one").on_event("a.begun")
    plan = plan_of(Choreography("c").starts_with("a.begun").step(plain, external.kind(external=True)))
    rows = (
        (Row(state=State.WAITING, parked=Parked.PARKED), 0),
        (Row(state=State.WAITING, parked=Parked.HUMAN), 0),
        (Row(state=State.RUNNING, parked=Parked.PARKED), 1),
        (Row(state=State.COMPENSATING, parked=Parked.PARKED), 1),
    )
    allowed = [", ".join(possible(row, plan.steps[step])).replace("_", "-") for row, step in rows]
    assert [row[1] for row in _rows(_section(STEPS, "Parked steps"))[1:]] == allowed


def test_every_switch_of_the_model_checker_is_named_off_or_on_as_it_is_not_by_default() -> None:
    told = set(re.findall(r"`--((?:no-)?[\w-]+)`", _section(TESTING, "Every interleaving: `check-model`"))) - {
        "states-max",
        "anyway",
    }
    switches = [one for one in check_model.params if one.secondary_opts]
    assert told == {(one.secondary_opts if one.default else one.opts)[0].removeprefix("--") for one in switches}
