"""Runs the simulator against copies of the toolkit with one planted fault each: it has to find every one.

    python tests/simulation/mutants.py [PATCH ...] [--seeds N] [--jobs N]

A mutant is a patch in `mutants/`; its first lines may say how to run it (`# simulate: ...`). A patch that does not apply
fails the suite, and so does a mutant that survives, unless it is in EQUIVALENT with the proof that nothing can tell it apart.
Re-announcing is off: it would repair what a mutant loses.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).with_suffix("")
FINDINGS = 6
RUN = "from saga_choreo.cli.main import main; main()"
# Far more than the rarest mutant needs; one that survives costs this much.
SEEDS = 1500

# Name -> why nothing can tell it from the original.
EQUIVALENT: dict[str, str] = {
    "live-stop-forgets-attempts": (
        "Attempts are tasks of the session's task group, which waits for them before the agent ends. What is lost is the limit of "
        "that wait, and no simulated attempt lasts longer than the grace it has."
    ),
}


def _arguments(patch: Path) -> list[str]:
    found = re.search(r"^# simulate: (.*)$", patch.read_text(), re.MULTILINE)
    return shlex.split(found.group(1)) if found else []


def _simulate(place: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = ["simulate", "--no-reannounce", "--no-shrink", "--json", *arguments]
    environment = {**os.environ, "PYTHONPATH": place}
    return subprocess.run(
        [sys.executable, "-c", RUN, *command], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def run_mutant(patch: Path, seeds: int) -> dict[str, object]:
    """Plant one fault in a copy and simulate. `how` is the first broken promise."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(ROOT / "saga_choreo", Path(place) / "saga_choreo", ignore=shutil.ignore_patterns("__pycache__"))
        # A repository around the copy would make git apply skip files silently.
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(place).parent)}
        applied = subprocess.run(
            ["git", "apply", "-p1", str(patch)], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        if applied.returncode:
            return {"name": patch.stem, "verdict": "does not apply", "how": applied.stderr.strip()}
        ended = _simulate(place, ["--seeds", str(seeds), *_arguments(patch)])
    seconds = round(time.perf_counter() - began, 1)
    if ended.returncode not in (0, 1, FINDINGS) or not ended.stdout:
        return {"name": patch.stem, "verdict": "does not run", "how": ended.stderr[-2000:]}
    found = json.loads(ended.stdout)
    how, verdict = "", "equivalent" if patch.stem in EQUIVALENT else "survived"
    if ended.returncode == FINDINGS:
        first = found["failures"][0]
        how, verdict = first["violations"][0], "killed"
        if _simulate(str(ROOT), [*_arguments(patch), "--seed", str(first["seed"]), "--seeds", "1"]).returncode == FINDINGS:
            how, verdict = f"seed {first['seed']} fails without the mutant too: {how}", "not told apart"
    return {"name": patch.stem, "verdict": verdict, "how": how, "seeds": found["seeds"], "seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    asked = parser.parse_args()
    patches = [patch.resolve() for patch in asked.patches] or sorted(PATCHES.glob("*.patch"))
    began = time.perf_counter()
    results: list[dict[str, object]] = []
    with ThreadPoolExecutor(asked.jobs) as pool:
        for result in pool.map(lambda patch: run_mutant(patch, asked.seeds), patches):
            results.append(result)
            if not asked.quiet:
                print(f"{result['name']:<34} {result['verdict']:<15} {str(result['how'])[:150]}", file=sys.stderr, flush=True)
    killed = [result for result in results if result["verdict"] == "killed"]
    bad = [result for result in results if result["verdict"] not in ("killed", "equivalent")]
    names = [str(result["name"]) for result in results if result["verdict"] == "equivalent"]
    print(
        json.dumps(
            {
                "mutants": len(results),
                "killed": len(killed),
                "equivalent": [{"name": name, "proof": EQUIVALENT[name]} for name in names],
                "survivors": [{"name": r["name"], "verdict": r["verdict"], "how": r["how"]} for r in bad],
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
