"""Help, version and completion are what people call most; they must not pay for what they do not use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ["pydantic", "yaml", "rich", "orjson", "opentelemetry", "asyncio", "nats", "apsw", "uvloop", "starlette", "uvicorn"]
SCRIPT = f"""
import os, sys
from saga_choreo.cli.main import main
sys.argv = ["saga-choreo", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print("LOADED", code, loaded, file=sys.stderr)
"""


def _loaded(*args: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *args], capture_output=True, text=True, timeout=60, env=os.environ | environ, check=False
    )
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["-h"],
        ["run", "--help"],
        ["graph", "--help"],
        ["verify", "--help"],
        ["states", "--help"],
        ["sagas", "list", "--help"],
        ["steps", "done", "--help"],
        ["dlq", "replay", "--help"],
        ["jobs", "resume", "--help"],
        [],
    ],
    ids=" ".join,
)
def test_help_and_version_import_nothing_heavy(args: list[str]) -> None:
    assert _loaded(*args) in ("LOADED 0 []", "LOADED 2 []")  # with no arguments the help is a usage error, as in Click


@pytest.mark.parametrize("words", ["saga-choreo s", "saga-choreo sagas c", "saga-choreo graph --o"])
def test_completion_imports_nothing_heavy(words: str) -> None:
    ending = _loaded(_SAGA_CHOREO_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert ending == "LOADED 0 []"


def test_completion_completes_commands() -> None:
    environ = os.environ | {"_SAGA_CHOREO_COMPLETE": "bash_complete", "COMP_WORDS": "saga-choreo ve", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, env=environ, check=False)
    assert done.stdout.split() == ["plain,verify", "plain,version"]


def test_the_door_of_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, saga_choreo; saga_choreo.Reject; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
