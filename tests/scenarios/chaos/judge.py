"""The oracle: what the services' ledgers say, against what was asked for. It knows nothing of records and messages."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from saga_choreo import SagaState

__all__ = ["MAY_BE_UNDONE", "Effect", "Verdict", "judge"]

# Instead of the step that refuses: it is cancelled, or a clock is wrong, and it may be too late for that or not.
MAY_BE_UNDONE = "?"
_UNDONE = (SagaState.CANCELLED, SagaState.TIMED_OUT)
_STEPS = ("reserve-stock", "charge-payment", "book-shipment", "confirm-order")


class Effect(NamedTuple):
    saga: str
    step: str
    effect: str
    at_ns: int


@dataclass
class Verdict:
    """`lost`: sagas that did not end, or ended without an effect. `repeated`: effects that happened more than once."""

    sagas: int = 0
    lost: int = 0
    repeated: int = 0
    violations: list[str] = field(default_factory=list[str])


def judge(refused_at: Mapping[str, str], states: Mapping[str, SagaState | None], ledgers: Sequence[Effect]) -> Verdict:
    """`refused_at` by saga: the step that refuses, or nothing; every saga that was started is in it. `states`: how it ended."""
    verdict = Verdict(sagas=len(refused_at))
    counts = Counter((one.saga, one.step, one.effect) for one in ledgers)
    verdict.repeated = sum(count - 1 for count in counts.values())
    undone: dict[str, dict[str, int]] = defaultdict(dict)
    for one in ledgers:
        if one.effect == "undo":
            undone[one.saga][one.step] = one.at_ns
    strangers = {one.saga for one in ledgers} - set(refused_at)
    verdict.violations += [f"effects of a saga {saga} that nobody started" for saga in sorted(strangers)]
    for saga, step in refused_at.items():
        state = states.get(saga)
        done = {name for name in _STEPS if counts[saga, name, "do"]}
        if state is None:
            verdict.lost += 1
        elif step == MAY_BE_UNDONE and state in _UNDONE:
            _judge_undone(verdict, saga, done, undone[saga])
        elif step and step != MAY_BE_UNDONE:
            _judge_refused(verdict, saga, step, state, done, undone[saga])
        elif state is not SagaState.COMPLETED or undone[saga]:
            verdict.violations.append(f"saga {saga} was to complete and is {state}, undone: {sorted(undone[saga])}")
        elif len(done) < len(_STEPS):
            verdict.lost += 1
    return verdict


def _judge_refused(verdict: Verdict, saga: str, step: str, state: SagaState, done: set[str], undone: Mapping[str, int]) -> None:
    before = _STEPS[: _STEPS.index(step)]
    if state is not SagaState.COMPENSATED:
        verdict.violations.append(f"saga {saga} was to be compensated and is {state}")
    if done != set(before) or set(undone) != set(before):
        verdict.violations.append(f"saga {saga} was refused at {step}; done: {sorted(done)}, undone: {sorted(undone)}")
        return
    times = [undone[name] for name in reversed(before)]
    if times != sorted(times):
        verdict.violations.append(f"saga {saga} was not undone in reverse order")


def _judge_undone(verdict: Verdict, saga: str, done: set[str], undone: Mapping[str, int]) -> None:
    before = _STEPS[: len(done)]
    times = [undone[name] for name in reversed(before) if name in undone]
    if done != set(before) or set(undone) != done or times != sorted(times):
        verdict.violations.append(
            f"saga {saga} was to be undone in reverse order; done: {sorted(done)}, undone: {sorted(undone)}, at {times}"
        )
