"""The programs of examples/own_transactions, each run with its one command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
PROGRAMS = sorted(file.stem for file in (HERE / "examples" / "own_transactions").glob("with_*.py"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_committed_runs_and_what_is_rolled_back_leaves_nothing(program: str, postgres_schema: Callable[[], str]) -> None:
    command = [sys.executable, "-m", f"examples.own_transactions.{program}"]
    env = {**os.environ, "SAGA_STORE_URL": postgres_schema()}
    done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["A-1 completed", "('A-1', 'confirmed') 1 saga"]


def test_there_is_a_program_for_each_library() -> None:
    assert PROGRAMS == ["with_asyncpg", "with_psycopg", "with_sqlalchemy"]
