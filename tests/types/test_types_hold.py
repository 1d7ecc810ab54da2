"""mypy must conclude what the files `*_types.py` beside this one assert. Pyright checks them with everything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_mypy_concludes_what_the_type_files_assert() -> None:
    files = sorted(str(path) for path in HERE.glob("*_types.py"))
    assert files
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *files],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
