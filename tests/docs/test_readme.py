"""What the README shows is run: its code in an interpreter of its own, its commands against the example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readme_shows_code() -> None:
    assert PYTHON_BLOCKS


@pytest.mark.parametrize("number", range(len(PYTHON_BLOCKS)))
def test_the_code_in_the_readme_prints_what_its_comment_says(number: int, tmp_path: Path) -> None:
    block = PYTHON_BLOCKS[number]
    script = tmp_path / "shop.py"
    script.write_text(block)
    done = subprocess.run([sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"print\(.*\)  # (.*)", block)
    assert done.stdout.splitlines() == promised


@pytest.mark.parametrize("command", re.findall(r"^\$ saga-choreo ((?:graph|verify|check-model) .*)$", README, re.MULTILINE))
def test_a_command_in_the_readme_that_needs_no_server_works(command: str) -> None:
    run = [sys.executable, "-m", "saga_choreo.cli.main", *command.split()]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_a_link_in_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
