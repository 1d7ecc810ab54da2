"""What README and docs show is run: their code in an interpreter of its own, their commands against the example."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from pages import ROOT, Page, Script, pages

from saga_choreo.cli.main import cli

# These need no server, and end by themselves.
RUN = ("graph", "verify", "check-model", "simulate", "states", "version")
SCRIPTS = [script for page in pages() for script in page.scripts()]
COMMANDS = sorted({command for page in pages() for command in page.commands(run=True)})
ALL_COMMANDS = sorted({command for page in pages() for command in page.commands(run=False)})


def _words(command: str) -> list[str]:
    """Without assignments of variables in front."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    return words


def test_there_is_something_to_run_in_the_readme_and_in_the_docs() -> None:
    assert {script.page for script in SCRIPTS} >= {"README.md", "docs/steps.md", "docs/testing-your-saga.md"}
    assert len([command for command in COMMANDS if _words(command)[1] in RUN]) >= 6


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_the_code_on_a_page_prints_what_its_comments_say(script: Script, tmp_path: Path) -> None:
    file = tmp_path / "shown.py"
    file.write_text(script.text)
    run = [sys.executable, "-W", "error", str(file)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == script.promised


@pytest.mark.parametrize("command", [command for command in COMMANDS if _words(command)[1] in RUN])
def test_a_command_on_a_page_that_needs_no_server_works(command: str) -> None:
    run = [sys.executable, "-m", "saga_choreo.cli.main", *_words(command)[1:]]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_a_command_on_a_page_exists_with_its_options(command: str) -> None:
    program, *words = _words(command)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert program == "saga-choreo"
    found: click.Command = cli
    context = click.Context(cli)
    while isinstance(found, click.Group) and words:
        inner = found.get_command(context, words.pop(0))
        assert inner is not None, command
        found = inner
    known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert [word for word in words if word.startswith("-") and word.partition("=")[0] not in known] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_link_on_a_page_leads_somewhere(page: Page) -> None:
    for link in page.links():
        place, _, anchor = link.partition("#")
        target = (page.path.parent / place).resolve() if place else page.path
        assert target.exists(), link
        assert not anchor or anchor in Page(target).anchors(), link


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_is_not_run_says_why(page: Page) -> None:
    assert [
        mark for mark in page.marks() if mark not in ("continues", "printed") and not re.fullmatch(r"not run: \w.{5,}", mark)
    ] == []
