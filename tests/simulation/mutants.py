"""Runs the simulator against copies of the toolkit with one planted fault each: it has to find every one.

    python tests/simulation/mutants.py [PATCH ...] [--seeds N] [--jobs N]

A mutant is a patch in `mutants/`, or in any file that is named; its first lines may say how to run it (`# simulate: ...`). One that
says nothing is tried in the ways of TRIES, one after the other, until one finds it. A patch that does not apply fails the suite, and
so does a mutant that survives, unless it is in EQUIVALENT with the proof that nothing can tell it apart. Re-announcing is off unless
messages are lost: it would repair what a mutant loses.
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
# What a patch may change.
COPIED = ("saga_choreo", "adapters", "examples")
FINDINGS = 6
RUN = "from saga_choreo.cli.main import main; main()"
# Far more than the rarest mutant needs; one that survives costs this much.
SEEDS = 1500
# A mutant that makes a run endless is found by that.
PATIENCE_S = 900
EXAMPLE = " ".join(f"examples.order_processing.{name}:agent" for name in ("order", "inventory", "payment", "shipping"))
# What a fault may need to be seen, from the common to the rare: the pipeline, real agents, the table alone, handlers on a database.
TRIES = (
    "simulate --no-reannounce --seeds 600",
    "simulate --no-reannounce --seeds 150 --layer c",
    "simulate --no-reannounce --seeds 150 --rate provider_unknown=0.6 --rate step_reject=0.3 --rate undo_error=0.8 --rate hold=0.1",
    "simulate --no-reannounce --seeds 150 --rate commit_unknown=0.4 --rate crash=0.02 --rate stall=0.4",
    "simulate --no-reannounce --seeds 60 --sagas 10 --rate lock=1 --rate concurrency=0.6 --rate step_error=0.4",
    "simulate --no-reannounce --seeds 60 --sagas 10 --rate breaker=1 --rate rate=0.7 --rate step_error=0.6 --rate provider_lost=0.5",
    "simulate --no-reannounce --seeds 60 --sagas 8 --rate publish_refused=0.5 --rate duplicate=0.3 --rate late_definition=0.6",
    "simulate --no-reannounce --seeds 100 --shape pivot --sagas 8 --rate cancel=0.9 --rate deadline=0.5",
    "simulate --no-reannounce --seeds 100 --shape deadline",
    "simulate --no-reannounce --seeds 60 --layer c --sagas 8 --rate publish_refused=0.4 --rate store_slow=0.2 --rate store_error=0.2",
    "simulate --no-reannounce --seeds 60 --layer c --sagas 10 --rate concurrency=1 --rate lock=1 --rate step_error=0.4",
    "simulate --no-reannounce --seeds 60 --layer c --rate store_cut=0.02 --rate crash=0.01",
    "simulate --no-reannounce --seeds 60 --layer c --sagas 8 --rate store_cut=0 --rate store_slow=0 --rate store_error=0 --rate crash=0",
    "simulate --no-reannounce --seeds 60 --sagas 10 --rate too_long=0.5 --rate delay=0.5 --rate stall=0",
    "simulate --no-reannounce --seeds 60 --sagas 6 --rate next_week=1 --rate undo_error=0.9 --rate step_reject=0.4",
    "simulate --no-reannounce --seeds 60 --shape fork --sagas 8 --rate provider_lost=0.8 --rate step_reject=0.4 --rate cancel=0.8",
    "simulate --no-reannounce --seeds 60 --shape 'pivot beside' --sagas 12 --rate provider_decline=0.5 --rate step_error=0.7 "
    "--rate step_reject=0.5 --rate provider_lost=0 --rate provider_unknown=0 --rate step_overrun=0",
    "simulate --reannounce --seeds 150",
    "simulate --seeds 300 --loss 0.4",
    "check-model two_roots --park --veto --operator --undo-fails --go-on --ask",
    "check-model chain3 --park --operator --undo-fails --forget --causes",
    "check-model diamond_external --undo-fails --no-deadline",
    "check-model diamond_optional",
    "check-model pivot_parallel --causes --ask",
    "check-model xor_diamond",
    f"simulate {EXAMPLE} --start examples.order_processing.simulation:start --no-reannounce --seeds 25",
)

# Name -> why nothing can tell it from the original.
EQUIVALENT: dict[str, str] = {
    "recalled-not-verified": (
        "What is recalled was committed once, so it is a state that the record has been in; and a message that changes nothing in one "
        "state is never needed in a later one (L0, which the model checker checks at every state). The look is kept for what is no later "
        "state: a record that a failover took back, or that somebody mended by hand."
    ),
}


def tries_of(patch: Path, seeds: int) -> list[list[str]]:
    found = re.search(r"^# simulate: (.*)$", patch.read_text(), re.MULTILINE)
    if found is None and patch.parent != PATCHES:
        return [shlex.split(words) for words in TRIES]
    return [["simulate", "--no-reannounce", "--seeds", str(seeds), *shlex.split(found.group(1) if found else "")]]


def _run(place: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, *words, "--json", *(["--no-shrink"] if words[0] == "simulate" else [])]
    environment = {**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{place / 'adapters'}"}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def planted(patch: Path, place: Path) -> str:
    """Why the patch cannot be planted into a copy; '' when it is."""
    for folder in COPIED:
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    # A repository around the copy would make git apply skip files silently.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(place.parent)}
    said = ""
    for strip in ("-p1", "-p0"):  # with "a/" and "b/" before the names, or without
        command = ["git", "apply", strip, str(patch)]
        applied = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        if not applied.returncode:
            return ""
        said = said or applied.stderr.strip()
    return said


def _found(place: Path, words: list[str]) -> tuple[str, str, int]:
    """(verdict, how, seeds run) of one try; the verdict is '' when nothing was found."""
    try:
        ended = _run(place, words)
    except subprocess.TimeoutExpired:
        return "killed", f"{shlex.join(words)} did not end in {PATIENCE_S} s", 0
    if ended.returncode not in (0, 1, FINDINGS) or (not ended.stdout and ended.returncode != FINDINGS):
        return "does not run", ended.stderr[-2000:], 0
    told = json.loads(ended.stdout or "{}")
    seeds = told.get("seeds", 0)
    if ended.returncode != FINDINGS:
        return "", "", seeds
    how, again = f"{shlex.join(words)} finds it", words
    if "failures" in told:
        first = told["failures"][0]
        how, again = first["violations"][0], [*words, "--seed", str(first["seed"]), "--seeds", "1"]
    if _run(ROOT, again).returncode == FINDINGS:
        return "not told apart", f"{shlex.join(again)} fails without the mutant too: {how}", seeds
    return "killed", how, seeds


def run_mutant(patch: Path, seeds: int) -> dict[str, object]:
    """Plant one fault in a copy and try to find it. `how` is the first broken promise."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if why := planted(patch, place):
            return {"name": patch.stem, "verdict": "does not apply", "how": why}
        verdict, how, run = "", "", 0
        for words in tries_of(patch, seeds):
            verdict, how, more = _found(place, words)
            run += more
            if verdict:
                break
    verdict = verdict or ("equivalent" if patch.stem in EQUIVALENT else "survived")
    return {"name": patch.stem, "verdict": verdict, "how": how, "seeds": run, "seconds": round(time.perf_counter() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    asked = parser.parse_args()
    missing = [str(patch) for patch in asked.patches if not patch.is_file()]
    if missing:
        parser.error(
            f"there is no patch file {', '.join(map(repr, missing))}; a relative path is looked for from {str(Path.cwd())!r}"
        )
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
