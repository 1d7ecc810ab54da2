"""When a record has to be looked at again: one number per record, from its row, its step and what is asked of it.

Pure arithmetic. A retry's backoff, a lease and a deadline are durable because they are this column, nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from saga_choreo.core.graph import StepPlan
from saga_choreo.core.rows import FINAL_ORIGIN, duty, is_finished, is_resolved
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Cancel, Parked, State

__all__ = ["DAY_MS", "Limits", "deadline_of", "deadline_own_of", "due_of", "nudge_after_ms", "without_handler_ms"]

DAY_MS = 86_400_000
# Asked for with every change; to look a member up on its class costs as much as a call (Python 3.11).
_WAITING, _OPEN, _NOT_PARKED = State.WAITING, State.OPEN, Parked.NO
_UNSAID = (State.WAITING, State.RUNNING)
_ABOVE_ZERO = ("slow_timeout_s", "lease_s", "nudge_first_s", "nudges_per_s", "horizon_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound of an agent's runtime, with its default. Seconds unless the name says otherwise."""

    # A batch of deliveries shares one transaction; PostgreSQL caches 64 subtransactions, each step may use one.
    batch_max: int = 32
    # While a batch is under way, so long at most until the next one sets out beside it.
    batch_wait_s: float = 0.05
    # Batches of several messages set out so far apart at least: a batch costs as much as some messages do. Each further agent of the
    # service gathers its part for so much longer.
    batch_gather_s: float = 0.01
    fast_budget_s: float = 0.25
    slow_timeout_s: float = 30.0
    slow_at_once: int = 16
    # A living agent renews its attempts' leases four times as often; what a killed one had begun, others begin again after it.
    lease_s: float = 4.0
    # A message delivered more often may have killed its agent: its step runs in the slow lane, where dying is counted.
    deliveries_fast: int = 3
    # One over which we fail unexpectedly every time is quarantined then, a quarter of an hour after it came first.
    deliveries_max: int = 20
    reannounce: bool = True
    nudge_first_s: float = 30.0
    nudge_max_s: float = 3600.0
    # At most this many repeated announcements a second and agent (5 % of a publish capacity of 2,000 messages a second).
    nudges_per_s: float = 100.0
    unannounced_after_s: float = 3.0
    start_unannounced_after_s: float = 0.2
    scan_every_s: float = 0.25
    # No saga is started while so many of the service's own are open, or so many of its records wait to be published.
    open_sagas_max: int = 1_000_000
    unannounced_max: int = 2_000_000
    # Another process may have made a record due (a web process, a command): looked for at least this often.
    look_every_s: float = 1.0
    outcome_wait_s: float = 0.2
    outcome_max: int = 500
    # One `on_outcome` callback may take so long; after that it has failed, and is called again.
    outcome_timeout_s: float = 5.0
    # How often an agent says that it is there, for people who ask what a saga waits for.
    alive_every_s: float = 10.0
    horizon_s: float = 7 * 86_400
    # The bound on clock differences: a saga from further ahead is refused, one past the horizon is kept this much longer.
    clock_bound_s: float = 7200.0
    # How often an agent tells how far its store is, and looks whether it is still the same; one small commit each time.
    epoch_every_s: float = 5.0
    stop_grace_s: float = 25.0
    ready_timeout_s: float = 10.0
    # Messages of a definition that is not known yet: how often they are looked at, and when a copy goes to the dead letters.
    held_look_s: float = 1.0
    held_copy_after_s: float = 60.0

    def __post_init__(self) -> None:
        """Raises ValueError."""
        for one in fields(self):
            value = getattr(self, one.name)
            least = 1 if one.type == "int" else 0
            is_number = isinstance(value, int | float) and math.isfinite(value)
            if not is_number or value < least or (value == 0 and one.name in _ABOVE_ZERO):
                needed = "above zero" if one.name in _ABOVE_ZERO else f"of {least} or more"
                raise ValueError(f"the limit {one.name} is {value!r}; give a number {needed}, or leave it out for the default")


def deadline_of(record: Record, step: StepPlan) -> int | None:
    """The deadline that still matters to this record: a step that cannot refuse any more has none."""
    state, cancel = record.row.state, record.row.cancel
    # A person who has the step hears of the deadline once, and is not asked again.
    if state is _WAITING and step.may_veto and step.index != ORIGIN and not cancel & Cancel.HEARD:
        return record.deadline_ms
    if state is _OPEN and not cancel & Cancel.ASKED:
        return record.deadline_ms
    return None


def deadline_own_of(record: Record, step: StepPlan) -> int | None:
    """The step's own deadline, while it can still do anything: take the branch of its event, or refuse before it has run."""
    row = record.row
    if row.pending:
        return record.deadline_own_ms if step.deadline_choice else None
    ready = row.state is _WAITING and row.parked is not Parked.HUMAN and is_resolved(row, step)
    return record.deadline_own_ms if ready and (step.deadline_choice or step.may_veto or step.optional) else None


def nudge_after_ms(nudges: int, limits: Limits, chance: float) -> int:
    """The wait before the next repeated announcement: doubling, with a quarter of jitter so that services do not beat in time."""
    wait_s: float = min(limits.nudge_first_s * float(1 << min(nudges, 20)), limits.nudge_max_s)
    return int(1000 * wait_s * (0.75 + 0.5 * chance))


def due_of(record: Record, step: StepPlan, limits: Limits, now_ms: int, chance: float, retry_at_ms: int | None) -> int | None:
    """When this record is due; None when only a message can change anything.

    `retry_at_ms` is the end of a backoff or of a lease; without one, something to execute is due at once.
    """
    row = record.row
    if is_finished(row):
        return None
    wakes = [at for at in (deadline_of(record, step), deadline_own_of(record, step)) if at is not None]
    if duty(row, step) is not None:
        wakes.append(now_ms if retry_at_ms is None else retry_at_ms)
    elif limits.reannounce and _has_said_something(record):
        wakes.append(now_ms + nudge_after_ms(record.nudges, limits, chance))
    return min(wakes) if wakes else None


def _has_said_something(record: Record) -> bool:
    row = record.row
    if record.step == ORIGIN:
        return row.state not in FINAL_ORIGIN
    return row.state not in _UNSAID or bool(row.cancel) or row.parked is not _NOT_PARKED


def without_handler_ms(age_ms: int) -> int:
    """How long a step waits that this agent has no handler for. While a release is rolled out, another agent of the service has
    one and must get its turn soon; of an old saga nobody may have one any more."""
    return max(1_000, min(age_ms // 4, 60_000))
