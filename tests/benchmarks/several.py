"""What a second and a third agent of one service cost and bring: the same sagas with one, two and three processes of payment.

On a full machine (nothing waits) more agents can only cost. When the handler waits, as one that asks somebody else does, an agent's
throughput ends where its handlers' time ends, and each further one adds to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

from tests.benchmarks.contenders import CONTENDERS, one_run
from tests.benchmarks.stage import Stage

__all__ = ["several"]

_AGENTS = (1, 2, 3)
_WAITS_MS = 20.0
# A waiting handler takes this share of the sagas, so that a run of one agent does not take minutes.
_SHARE_WAITING = 0.5


def several(stage: Stage, rounds: int, sagas: int) -> Iterator[dict[str, Any]]:
    """A line for the full machine and one for the waiting handler; ratios are medians of the rounds' own."""
    for waits_ms, share in ((0.0, 1.0), (_WAITS_MS, _SHARE_WAITING)):
        yield {"handler_waits_ms": waits_ms, "rounds": rounds} | _compared(stage, rounds, int(sagas * share), waits_ms)


def _compared(stage: Stage, rounds: int, sagas: int, waits_ms: float) -> dict[str, Any]:
    four = replace(next(one for one in CONTENDERS if one.name == "ours_four"), share=1.0)
    found: dict[int, list[dict[str, Any]]] = {count: [] for count in _AGENTS}
    for number in range(rounds):
        turn = number % len(_AGENTS)
        for count in (*_AGENTS[turn:], *_AGENTS[:turn]):
            found[count].append(one_run(stage, four, sagas, "--agents", str(count), "--wait-ms", str(waits_ms)))
    alone = [said["sagas_per_s"] for said in found[1]]
    return {
        "sagas_per_s": {count: round(median(said["sagas_per_s"] for said in runs), 1) for count, runs in found.items()},
        "cpu_ms_per_saga": {count: round(median(said["cpu_ms_per_saga"] for said in runs), 2) for count, runs in found.items()},
        "of_one": {
            count: round(median(said["sagas_per_s"] / one for said, one in zip(runs, alone, strict=True)), 3)
            for count, runs in found.items()
        },
    }
