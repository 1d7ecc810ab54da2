"""Mutation testing of `saga_choreo.core` with mutmut: each small fault it makes in a function has to fail a unit test.

    python tests/simulation/mutation.py [MODULE ...]

mutmut makes the faults and runs the tests that call the changed function (`[tool.mutmut]` in pyproject.toml); here it is only
counted. A fault that no test reaches has survived. `.venv/bin/mutmut show NAME` shows a survivor, in the folder `mutants`. One that
nothing can tell from the original is marked in its line, with the reason: `# pragma: no mutate, ...`. The last line is JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTMUT = Path(sys.executable).with_name("mutmut")
FOUND = ("killed", "timeout", "segfault")
SCORE_MIN = 95.0


def main(modules: list[str]) -> int:
    began = time.perf_counter()
    chosen = [f"saga_choreo.core.{module}." for module in modules] or [""]
    # What an earlier run has found may be about other tests.
    shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    subprocess.run([MUTMUT, "run", *(f"{module}*" for module in chosen if module)], cwd=ROOT, check=True)
    told = subprocess.run([MUTMUT, "results", "--all", "true"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    verdicts = dict(line.strip().rsplit(": ", 1) for line in told.splitlines() if line.strip().startswith(tuple(chosen)))
    survivors = [name for name, verdict in verdicts.items() if verdict not in FOUND]
    killed = len(verdicts) - len(survivors)
    score = round(100 * killed / max(len(verdicts), 1), 1)
    seconds = round(time.perf_counter() - began, 1)
    print(json.dumps({"mutants": len(verdicts), "killed": killed, "survivors": survivors, "score": score, "seconds": seconds}))
    return 0 if score >= SCORE_MIN else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
