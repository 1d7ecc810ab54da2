"""What a replay job does next, as plain functions: how many to begin, when to stop, what has become of a step. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saga_choreo.core.graph import StepPlan
from saga_choreo.core.states import step_state
from saga_choreo.model.record import Record
from saga_choreo.model.states import Parked, StepState
from saga_choreo.ports.letters import ItemState, Job, JobState

__all__ = ["Budget", "Over", "Say", "UnderWay", "is_over", "of_step", "room", "stops"]

# With fewer letters settled, a share of failures says nothing.
_SAMPLE_MIN = 5


@dataclass(frozen=True, slots=True)
class Say:
    """Nobody has said the word since the letter was staged: it is to be said now."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The word was said, and the step has not been settled yet."""


@dataclass(frozen=True, slots=True)
class Over:
    state: ItemState
    detail: str


def of_step(record: Record | None, step: StepPlan | None, round_: int) -> Say | UnderWay | Over:
    """`round_` is how many words people had said on the step when it was staged, so a word that was said by this job or anybody
    since is seen on the record itself, and none is ever said twice."""
    if record is None:
        return Over(ItemState.RESOLVED, "the saga has ended and is forgotten")
    row, said = record.row, record.resolution.number if record.resolution is not None else 0
    if row.parked in (Parked.PARKED, Parked.PASSED):
        return Say() if said <= round_ else Over(ItemState.FAILED, record.error or "parked again")
    if row.parked is Parked.HUMAN:
        return Over(ItemState.SKIPPED, f"{row.operator!r} has taken the step over")
    if said <= round_:
        return Over(ItemState.SKIPPED, f"it was not parked any more: {step_state(row, step)}")
    # The error that it was parked with stays until it works; or the saga has gone another way meanwhile.
    state = step_state(row, step)
    if record.error and state in (StepState.RUNNING, StepState.COMPENSATING):
        return UnderWay()
    return Over(ItemState.RESOLVED, f"the step is {state}")


def room(job: Job, counts: Mapping[str, int], allowed: float) -> int:
    """How many letters may be begun now. A few first, then as many again as have been settled: a fault that is still there is met
    by few, not by all at once."""
    if job.state != JobState.RUNNING:
        return 0
    running, settled = counts.get(ItemState.RUNNING, 0), _settled(counts)
    return max(0, int(min(job.in_flight_max - running, max(_SAMPLE_MIN, settled) - running, allowed)))


def _settled(counts: Mapping[str, int]) -> int:
    return counts.get(ItemState.FAILED, 0) + counts.get(ItemState.RESOLVED, 0)


def stops(job: Job, counts: Mapping[str, int]) -> str:
    """Why the job stops, or an empty text: more than its share of what was replayed has failed again."""
    failed = counts.get(ItemState.FAILED, 0)
    settled = _settled(counts)
    if job.state != JobState.RUNNING or settled < _SAMPLE_MIN or failed * 100 <= job.stop_percent * settled:
        return ""
    return f"{failed} of {settled} failed again, more than {job.stop_percent} %"


def is_over(job: Job, counts: Mapping[str, int]) -> bool:
    """Nothing is under way, and nothing more will be begun."""
    if counts.get(ItemState.RUNNING, 0):
        return False
    return job.state == JobState.CANCELLED or not counts.get(ItemState.STAGED, 0)


class Budget:
    """A rate as a bucket of at most a second's worth; 0 a minute means no limit."""

    def __init__(self, rate_per_min: int, now_s: float) -> None:
        self._per_s = rate_per_min / 60
        self._left = min(1.0, self._per_s) if rate_per_min else float("inf")
        self._at_s = now_s

    def left(self, now_s: float) -> float:
        if self._per_s:
            earned = (now_s - self._at_s) * self._per_s
            self._left = min(self._left + earned, max(self._per_s, 1.0))
            self._at_s = now_s
        return self._left

    def spend(self, count: int) -> None:
        self._left -= count
