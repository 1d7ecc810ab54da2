"""Exit codes and errors: the documented table, row by row."""

from __future__ import annotations

import json

import pytest

from saga_choreo import errors
from saga_choreo.cli.exits import CliError, ExitCode, as_json, as_text, describe

DOCUMENTED = {
    "DONE": 0,
    "FAILED": 1,
    "USAGE": 2,
    "CONFIGURATION": 3,
    "UNREACHABLE": 4,
    "NOT_FOUND": 5,
    "FINDINGS": 6,
    "PARTIAL": 7,
    "NOT_PERMITTED": 8,
    "CONFIRMATION_NEEDED": 9,
    "TIMED_OUT": 10,
    "ENDED_OTHERWISE": 11,
    "INTERRUPTED": 130,
    "BROKEN_PIPE": 141,
    "TERMINATED": 143,
}


def test_the_exit_codes_are_the_documented_ones() -> None:
    assert {code.name: code.value for code in ExitCode} == DOCUMENTED


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (errors.AdapterNotInstalled("x"), 3, "SAGA-E0301"),
        (errors.ConfigurationError("x"), 3, "SAGA-E0300"),
        (errors.DefinitionError("x"), 3, "SAGA-E0303"),
        (errors.BrokerUnavailable("x"), 4, "SAGA-E0401"),
        (errors.StoreUnavailable("x"), 4, "SAGA-E0402"),
        (errors.SagaNotFound("x"), 5, "SAGA-E0501"),
        (errors.WaitTimeout("x"), 10, "SAGA-E1001"),
        (errors.Refused("x"), 1, "SAGA-E0101"),
        (errors.PublishRefused("x"), 1, "SAGA-E0100"),
        (RuntimeError("x"), 1, "SAGA-E0199"),
    ],
)
def test_each_error_leads_to_its_exit_code(error: Exception, exit_code: int, code: str) -> None:
    described = describe(error)
    assert (described.exit_code, described.code) == (exit_code, code)


def test_an_error_that_describes_itself_is_left_as_it_is() -> None:
    own = CliError(ExitCode.PARTIAL, "one of two failed")
    assert describe(own) is own
    assert own.code == "SAGA-E0700"


def test_an_error_as_json_is_one_object_on_one_line() -> None:
    text = as_json(CliError(ExitCode.NOT_FOUND, "no saga 'x'", hint="look again", details={"ids": []}))
    assert "\n" not in text
    body = json.loads(text)["error"]
    assert body == {"code": "SAGA-E0500", "message": "no saga 'x'", "hint": "look again", "docs": "", "details": {"ids": []}}


def test_findings_of_a_definition_are_listed_below_the_error() -> None:
    text = as_text(describe(errors.DefinitionError("not well-formed", ["WF1: a", "WF2: b"])))
    assert text.splitlines() == ["Error: not well-formed (SAGA-E0303)", "  - WF1: a", "  - WF2: b"]
