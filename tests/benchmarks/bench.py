"""`make bench`: our services, the peers and the hand-written floor side by side, on one machine in one run.

Rounds alternate: each round runs every contender once, in turn, each on an empty database of its own, so that what else the machine
does meets all of them alike. What counts is the median of the per-round ratios. Raw figures go to `.bench/`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.stage import Stage, staged

__all__ = ["Contender", "measure", "one_run"]

_ROOT = Path(__file__).resolve().parents[2]
_ANSWER_S = 300.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A script and what it needs. A `share` below one: a slow peer runs that part of the sagas."""

    name: str
    module: str
    mode: str = ""
    needs: tuple[str, ...] = ()
    share: float = 1.0
    at_once: int = 200

    @property
    def missing(self) -> str:
        return ", ".join(name for name in self.needs if find_spec(name) is None)


OURS = Contender("ours", "ours", "one")
CONTENDERS = (
    OURS,
    Contender("limit_handlers", "peers.floor", "handlers"),
    Contender("limit_batch", "peers.floor", "batch"),
    Contender("limit_single", "peers.floor", "single", share=0.5),
    Contender("faststream", "peers.faststream_outbox", needs=("faststream", "faststream_outbox"), share=0.2, at_once=64),
    Contender("dbos", "peers.dbos_workflow", needs=("dbos",), share=0.15, at_once=64),
    Contender("cqrs", "peers.cqrs_saga", needs=("cqrs",), share=0.15, at_once=64),
    Contender("ours_four", "ours", "four"),
)


def one_run(stage: Stage, contender: Contender, sagas: int, *more: str, fail_every: int = 10) -> dict[str, Any]:
    """Run a contender's script once on an empty database. Raises RuntimeError with what it said when it fails."""
    name = f"bench_{time.time_ns()}"
    database, before = stage.fresh_database(name), stage.servers_cpu_s()
    count = max(20, int(sagas * contender.share))
    words = ["--sagas", str(count), "--at-once", str(contender.at_once), "--mode", contender.mode, "--fail-every", str(fail_every)]
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            f"tests.benchmarks.{contender.module}",
            "--database",
            database,
            "--nats",
            stage.nats.url,
            *words,
            *more,
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_ANSWER_S,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"{contender.name} failed with {ended.returncode}: {ended.stdout[-500:]}{ended.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    found["servers_cpu_ms_per_saga"] = round(1000 * (stage.servers_cpu_s() - before) / count, 3)
    stage.drop_database(name)
    return found


def measure(stage: Stage, contenders: Sequence[Contender], rounds: int, sagas: int) -> list[dict[str, Any]]:
    """One dictionary a round: contender -> its figures, or {"error": ...}."""
    found: list[dict[str, Any]] = []
    for number in range(rounds):
        figures: dict[str, Any] = {}
        # Turned by one each round, so that nobody always runs after the same neighbour.
        turned = [*contenders[number % len(contenders) :], *contenders[: number % len(contenders)]]
        for contender in turned:
            try:
                figures[contender.name] = said = one_run(stage, contender, sagas)
                words = f"{said['sagas_per_s']:9.1f} sagas/s {said['cpu_ms_per_saga']:8.2f} ms CPU/saga"
                print(f"round {number + 1} {contender.name:16} {words} (servers {said['servers_cpu_ms_per_saga']:.2f})", flush=True)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                figures[contender.name] = {"error": str(error)}
                print(f"round {number + 1} {contender.name:16} FAILED: {error}", file=sys.stderr, flush=True)
        found.append(figures)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sagas", type=int, default=2000)
    parser.add_argument("--only", default="", help="names of contenders, separated by commas")
    given = parser.parse_args()
    wanted = [one for one in CONTENDERS if not given.only or one.name in given.only.split(",")]
    missing = {one.name: one.missing for one in wanted if one.missing}
    for name, what in missing.items():
        print(f"{name} is missing: the package {what} is not installed (make bench installs it where it can be had)")
    with staged() as stage:
        stage.settings()
        found = measure(stage, [one for one in wanted if one.name not in missing], given.rounds, given.sagas)
    for name in ("ours", "ours_four"):
        for other in (one.name for one in wanted):
            ratios = [
                r[name]["sagas_per_s"] / r[other]["sagas_per_s"]
                for r in found
                if "sagas_per_s" in r.get(name, {}) and "sagas_per_s" in r.get(other, {})
            ]
            if ratios and other != name:
                print(name, "/", other, round(median(ratios), 3), [round(r, 2) for r in sorted(ratios)])


if __name__ == "__main__":
    main()
