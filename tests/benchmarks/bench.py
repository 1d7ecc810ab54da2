"""`make bench`: our services, the peers and the hand-written floor side by side, on one machine in one run.

Rounds alternate: each round runs every contender once, in turn, each on an empty database of its own, so that what else the machine
does meets all of them alike. What counts is the median of the per-round ratios. The raw figures go to `.bench/`, with the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.contenders import CONTENDERS, Contender, one_run
from tests.benchmarks.stage import NotDurable, Stage, machine, staged

__all__ = ["main"]

_RAW = Path(__file__).resolve().parents[2] / ".bench"
# Of this run's own measured capacity, for the latency under load.
_LOADED = 0.3
# So long, with so many further sagas of ours open: they announce themselves again after half a minute, which belongs to the load.
_LOADED_S, _OPEN = 35.0, 1000
# Before the first round, of each contender; not among the figures.
_WARM_UP_SAGAS = 200
# Many, since what a script needs for getting ready is counted too.
_COUNTED_SAGAS = 1000
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sagas", type=int, default=2000)
    parser.add_argument("--only", default="", help="names of contenders, separated by commas")
    given = parser.parse_args()
    wanted = [one for one in CONTENDERS if not given.only or one.name in given.only.split(",")]
    missing = {one.name: one.missing for one in wanted if one.missing}
    for name, what in missing.items():
        print(f"{name} is missing: {what} is not installed", flush=True)
    there = [one for one in wanted if one.name not in missing]
    with staged() as stage:
        try:
            settings = stage.settings()
        except NotDurable as error:
            parser.exit(1, f"nothing is measured: {error}\n")
        raw: Figures = {"machine": machine(), "settings": settings, "missing": missing}
        _warm_up(stage, there)
        raw["rounds"] = _rounds(stage, there, given.rounds, given.sagas)
        raw["hops"] = {one.name: _hops(stage, one, raw["rounds"]) for one in there if one.name in ("ours", "limit_handlers")}
        raw["counts"] = {
            one.name: _try(stage, one, _COUNTED_SAGAS, count=True).get("counts", {})
            for one in there
            if one.name in ("ours", "limit_handlers")
        }
    summary = _summary(raw)
    _RAW.mkdir(exist_ok=True)
    path = _RAW / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({"summary": summary, **raw}, indent=1))
    _print_table(summary)
    print(f"raw figures: {path}")
    print(json.dumps(summary))
    failed = sorted({name for found in raw["rounds"] for name, said in found.items() if "error" in said})
    if failed:
        sys.exit(f"these failed in some round, and their figures are of the others: {', '.join(failed)}")


def _warm_up(stage: Stage, contenders: Sequence[Contender]) -> None:
    """Nobody is the one who runs first on servers that have just started, with code that nothing has read from the disk yet."""
    for one in contenders:
        print(f"warming up: {one.name}", flush=True)
        _try(stage, one, _WARM_UP_SAGAS)


def _rounds(stage: Stage, contenders: Sequence[Contender], rounds: int, sagas: int) -> list[Figures]:
    """One dictionary a round: contender -> its figures, or {"error": ...}."""
    found: list[Figures] = []
    for number in range(rounds):
        # Turned by one each round, so that nobody always runs after the same neighbour.
        turn = number % len(contenders)
        figures = {one.name: _try(stage, one, sagas) for one in (*contenders[turn:], *contenders[:turn])}
        for name, said in figures.items():
            if "error" not in said:
                cpu = f"{said['cpu_ms_per_saga']:7.2f} ms CPU/saga, servers {said['servers_cpu_ms_per_saga']:6.2f}"
                print(f"round {number + 1} {name:15} {said['sagas_per_s']:8.1f} sagas/s {cpu}", flush=True)
        found.append(figures)
    return found


def _try(stage: Stage, contender: Contender, sagas: int, *more: str, count: bool = False) -> Figures:
    try:
        return one_run(stage, contender, sagas, *more, count=count)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{contender.name} FAILED: {error}", file=sys.stderr, flush=True)
        return {"error": str(error)}


def _hops(stage: Stage, contender: Contender, rounds: Sequence[Figures]) -> Figures:
    """Of one saga at a time, and of arrivals at a share of the capacity that this run has measured."""
    capacity = _median(rounds, contender.name, "sagas_per_s")
    if not capacity:
        return {}
    rate = _LOADED * capacity
    idle = _try(stage, contender, 100, "--hops", "--at-once", "1", "--fail-every", "0")
    busy = ("--rate", f"{rate:.2f}", "--open", str(_OPEN))
    loaded = _try(stage, contender, int(max(rate * _LOADED_S, 50)), "--hops", "--fail-every", "0", *busy)
    return {"idle": idle, "loaded": loaded}


def _median(rounds: Sequence[Figures], name: str, what: str) -> float:
    values = [said[name][what] for said in rounds if what in said.get(name, {})]
    return round(median(values), 3) if values else 0.0


def _ratio(rounds: Sequence[Figures], name: str, other: str) -> float | None:
    pairs = [(said.get(name, {}).get("sagas_per_s"), said.get(other, {}).get("sagas_per_s")) for said in rounds]
    ratios = [mine / theirs for mine, theirs in pairs if mine and theirs]
    return round(median(ratios), 3) if ratios else None


def _summary(raw: Figures) -> Figures:
    rounds: list[Figures] = raw["rounds"]
    names = list(rounds[0]) if rounds else []
    of = {
        name: {what: _median(rounds, name, what) for what in ("sagas_per_s", "cpu_ms_per_saga", "servers_cpu_ms_per_saga")}
        for name in sorted(names)
    }
    for name, hops in raw["hops"].items():
        idle, loaded = hops.get("idle", {}), hops.get("loaded", {})
        of[name]["hop_ms"] = {
            "idle_p99": idle.get("hop_p99_ms"),
            "loaded_p50": loaded.get("hop_p50_ms"),
            "loaded_p99": loaded.get("hop_p99_ms"),
        }
    for name, counts in raw["counts"].items():
        of[name]["counts_per_saga"] = counts
    others = sorted({name for name in (*names, *raw["missing"]) if not name.startswith("ours")})
    return {
        "rounds": len(rounds),
        "ours": of.get("ours", {}),
        "ours_four": of.get("ours_four", {}),
        "peers": {name: of.get(name) for name in others},
        "missing": raw["missing"],
        "ratio": {name: _ratio(rounds, "ours", name) for name in others},
        "ratio_four": {name: _ratio(rounds, "ours_four", name) for name in others},
    }


def _print_table(summary: Figures) -> None:
    print(f"\n{'':15} {'sagas/s':>9} {'CPU ms/saga':>12} {'servers':>8} {'ours is':>9} {'four are':>9}")
    rows = {"ours": summary["ours"], "ours_four": summary["ours_four"], **summary["peers"]}
    rows = {name: said for name, said in rows.items() if said}
    for name, said in rows.items():
        ratios = [summary[kind].get(name) for kind in ("ratio", "ratio_four")]
        words = " ".join(f"{ratio:>8.2f}x" if ratio else f"{'':9}" for ratio in ratios)
        print(
            f"{name:15} {said['sagas_per_s']:9.1f} {said['cpu_ms_per_saga']:12.2f} {said['servers_cpu_ms_per_saga']:8.2f} {words}"
        )
    for name, said in rows.items():
        if "hop_ms" in said:
            print(f"{name}: hops {said['hop_ms']}; per saga {said.get('counts_per_saga', {})}")


if __name__ == "__main__":
    main()
