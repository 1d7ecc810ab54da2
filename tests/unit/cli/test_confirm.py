"""The plan and the question, with a terminal and without one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from saga_choreo.cli.confirm import Consent, confirm
from saga_choreo.cli.exits import CliError, ExitCode

ITEMS = [f"saga-{number}" for number in range(7)]


def _consent(*, yes: bool = False, dry_run: bool = False, expect_count: int | None = None) -> Consent:
    return Consent(yes, dry_run, expect_count)


def test_the_plan_shows_the_first_five_and_counts_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert confirm("cancel sagas", ITEMS, _consent(yes=True))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == ["Plan: cancel sagas, 7 in all", *(f"  saga-{n}" for n in range(5)), "  ... and 2 more"]


def test_a_dry_run_stops_after_the_plan() -> None:
    assert not confirm("cancel sagas", ITEMS, _consent(yes=True, dry_run=True))


def test_another_number_than_expected_stops_everything() -> None:
    with pytest.raises(CliError, match="7 would be changed, but --expect-count says 6; nothing was changed") as info:
        confirm("cancel sagas", ITEMS, _consent(yes=True, expect_count=6))
    assert info.value.exit_code is ExitCode.FAILED
    assert confirm("cancel sagas", ITEMS, _consent(yes=True, expect_count=7))


def test_with_nobody_to_ask_nothing_is_changed_and_the_exit_code_is_9() -> None:
    with pytest.raises(CliError, match="there is no terminal to ask on") as info:
        confirm("cancel sagas", ITEMS, _consent())
    assert info.value.exit_code is ExitCode.CONFIRMATION_NEEDED


@pytest.mark.parametrize(("answer", "expected"), [("y\n", "went on"), ("n\n", "not confirmed; nothing was changed")])
def test_on_a_terminal_the_answer_decides(tmp_path: Path, answer: str, expected: str) -> None:
    script = tmp_path / "ask.py"
    script.write_text(
        "from saga_choreo.cli.confirm import Consent, confirm\n"
        "from saga_choreo.cli.exits import CliError\n"
        "try:\n    print('went on' if confirm('x', ['a'], Consent(False, False, None)) else 'dry')\n"
        "except CliError as error:\n    print(error)\n"
    )
    terminal, other_end = pty.openpty()
    with subprocess.Popen([sys.executable, str(script)], stdin=other_end, stdout=other_end, stderr=other_end) as asking:
        os.close(other_end)
        shown = _talk(terminal, answer)
        assert asking.wait(timeout=60) == 0
    os.close(terminal)
    assert expected in shown


def _talk(terminal: int, answer: str) -> str:
    """Read all that is shown on the terminal; answer the question when it comes."""
    shown, is_answered = "", False
    while True:
        try:
            piece = os.read(terminal, 1024).decode()
        except OSError:  # Linux's way to say that the other end of a terminal is closed
            return shown
        if not piece:
            return shown
        shown += piece
        if "Go on? [y/N]:" in shown and not is_answered:
            is_answered = True
            os.write(terminal, answer.encode())
