"""What a person sees at the end, and the numbers a program reads. Pure: text and values out of what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from saga_choreo.demo.chaos import Kill
from saga_choreo.demo.hops import Heard, percentile
from saga_choreo.demo.judge import DO, UNDO, Effect, Verdict

__all__ = ["Findings", "columns", "faults", "services_table", "summary", "timeline"]

_DONE = {DO: "completed", UNDO: "compensated"}
_FAULTS_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that was found. `troubles` are faults of the run itself; `states` is by saga id, `redelivered` by service."""

    sagas: int
    states: Mapping[str, str]
    verdict: Verdict
    redelivered: Mapping[str, int]
    seconds: float
    hops: Sequence[float]
    kills: Sequence[Kill]
    troubles: Sequence[str] = field(default=())

    @property
    def is_right(self) -> bool:
        return not (self.verdict.wrong or self.verdict.repeated_effects or self.troubles)


def summary(found: Findings) -> dict[str, object]:
    """The last line of the demo's output."""
    ends = Counter(found.states.values())
    return {
        "sagas": found.sagas,
        "completed": ends["completed"],
        "compensated": ends["compensated"],
        "wrong": found.verdict.wrong,
        "repeated_effects": found.verdict.repeated_effects,
        "redelivered": sum(found.redelivered.values()),
        "seconds": round(found.seconds, 2),
        "sagas_per_s": round(found.sagas / found.seconds, 1) if found.seconds else 0.0,
        "hop_ms": {"p50": round(percentile(found.hops, 50), 1), "p99": round(percentile(found.hops, 99), 1)},
        "killed": len(found.kills),
        "in_flight_at_kill": [kill.in_flight for kill in found.kills],
    }


def faults(found: Findings) -> list[str]:
    """What is wrong, for people."""
    lines = [f"saga {saga_id}: {'; '.join(said)}" for saga_id, said in found.verdict.faults.items()]
    more = [f"... and {len(lines) - _FAULTS_SHOWN} more sagas"] if len(lines) > _FAULTS_SHOWN else []
    return [*lines[:_FAULTS_SHOWN], *more, *found.troubles]


def timeline(saga_id: str, effects: Iterable[Effect], heard: Iterable[Heard]) -> list[str]:
    """One saga as it happened, in lines: effects by the services' ledgers; start, refusal and end by what was published."""
    said = [one for one in heard if one.saga_id == saga_id]
    lines = [(row.wall_ns, row.step, row.service, _DONE[row.effect]) for row in effects if row.saga_id == saga_id]
    for words, step in ((("saga.started",), "(start)"), (("step.failed",), ""), (("saga.completed", "saga.failed"), "(end)")):
        first = min((one for one in said if one.word in words), key=lambda one: one.at_ns, default=None)
        if first is not None:
            lines.append((first.at_ns, step or first.step, first.service, _state_of(first)))
    began = min((at for at, *_ in lines), default=0)
    rows = [(step, service, state, f"+{(at - began) / 1e6:.1f} ms") for at, step, service, state in sorted(lines)]
    return columns(("STEP", "SERVICE", "STATE", "TIME"), rows)


def _state_of(one: Heard) -> str:
    match one.word:
        case "saga.started":
            return "started"
        case "step.failed":
            return f"refused: {one.reason}"
        case "saga.completed":
            return "completed"
        case _:
            return "compensated"


def services_table(effects: Sequence[Effect], found: Findings) -> list[str]:
    """What each service did."""
    counts = Counter((row.service, row.effect) for row in effects)
    held = {kill.service: f"with {kill.in_flight} in flight" for kill in found.kills}
    rows = [
        (name, str(counts[name, DO]), str(counts[name, UNDO]), str(found.redelivered.get(name, 0)), held.get(name, "-"))
        for name in found.redelivered
    ]
    return columns(("SERVICE", "DONE", "UNDONE", "REDELIVERED", "KILLED"), rows)


def columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines, titles first."""
    shown = [titles, *rows]
    widths = [max(len(line[i]) for line in shown) for i in range(len(titles))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in shown]
