"""How the cost of a saga grows with the sagas that are open beside it, as JSON lines and as a picture in `.bench/`."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.contenders import CONTENDERS, one_run
from tests.benchmarks.stage import Stage

__all__ = ["growth", "picture_of"]

_FOLDER = Path(__file__).resolve().parents[2] / ".bench"
_SAGAS = 600
# Of the throughput with the fewest open sagas, for the hops under load; one rate for all, so that only the open ones differ.
_LOADED, _LOADED_S = 0.3, 15.0
# Title, unit, and what is drawn: figure -> its name.
_PANELS = (
    ("Throughput, 200 at once", "sagas a second", {"sagas_per_s": "sagas"}),
    ("CPU time a saga", "ms", {"cpu_ms_per_saga": "agents", "servers_cpu_ms_per_saga": "PostgreSQL and NATS"}),
    ("Hops at 30 % of capacity", "ms", {"hop_p99_ms": "p99", "hop_p50_ms": "median"}),
)


def growth(stage: Stage, rounds: int, most: int) -> list[dict[str, Any]]:
    """A line for a hundredth, a tenth and all of `most` open sagas: medians of alternating rounds. Last a line that
    names the picture of them, which is drawn where matplotlib is."""
    counts = (most // 100, most // 10, most)
    runs: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    rate = 0.0
    for number in range(rounds):
        turn = number % len(counts)
        for count in (*counts[turn:], *counts[:turn]):
            said = one_run(stage, CONTENDERS[0], _SAGAS, "--open", str(count))
            rate = rate or _LOADED * said["sagas_per_s"]
            busy = ("--open", str(count), "--hops", "--rate", f"{rate:.2f}", "--fail-every", "0")
            hops = one_run(stage, CONTENDERS[0], int(rate * _LOADED_S), *busy)
            runs[count].append(said | {name: hops[name] for name in ("hop_p50_ms", "hop_p99_ms")})
    lines = [
        {"open": count, "rounds": rounds, "rate_per_s": round(rate, 1)} | {name: _middle(of, name) for name in _names()}
        for count, of in runs.items()
    ]
    return [*lines, picture_of(lines)]


def picture_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Where it is, or what it takes to make one."""
    if find_spec("matplotlib") is None:
        return {"picture": None, "missing": "matplotlib"}
    _FOLDER.mkdir(exist_ok=True)
    path = _FOLDER / f"growth-{time.strftime('%Y%m%d-%H%M%S')}.png"
    _draw(lines, path)
    return {"picture": str(path)}


def _names() -> list[str]:
    return [name for _, _, drawn in _PANELS for name in drawn]


def _middle(runs: list[dict[str, Any]], name: str) -> float:
    return round(median(said[name] for said in runs), 2)


def _draw(lines: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl  # in the extra "bench" only

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(_PANELS), figsize=(13, 4), layout="constrained")
    counts = [line["open"] for line in lines]
    for panel, (title, unit, drawn) in zip(panels, _PANELS, strict=True):
        for name, label in drawn.items():
            panel.plot(counts, [line[name] for line in lines], marker="o", label=label)
        panel.set(xscale="log", xlabel="further sagas open", ylabel=unit, title=title)
        panel.set_ylim(0, 1.15 * max(line[name] for line in lines for name in drawn))
        panel.grid(visible=True, alpha=0.3)
        if len(drawn) > 1:
            panel.legend(loc="best")
    figure.suptitle(f"What an order saga costs while others are open; median of {lines[0]['rounds']} rounds")
    figure.savefig(path, dpi=120)
