"""The words for states, outcomes and causes. One word for one thing, in code, store, CLI and docs."""

from __future__ import annotations

from enum import IntFlag, StrEnum

__all__ = ["Cancel", "Cause", "Outcome", "Parked", "SagaState", "State", "StepState"]


class State(StrEnum):
    """State of one record, as in the protocol's rules. The last five belong to the origin row (source and sink in one)."""

    WAITING = "W"
    RUNNING = "R"
    DONE = "D"
    TOMB = "T"
    SKIPPED = "K"
    SKIPPED_CLEARED = "X"
    COMPENSATING = "CR"
    COMPENSATED = "C"
    OPEN = "O"
    COMPLETED = "OD"
    ABORTING = "OA"
    ABORTED = "OC"
    REFUSED = "OT"


class Parked(StrEnum):
    """Whether execution of a step is held back: not, until somebody resolves it, taken over by a person, or passed by: an undo
    that waits for a person while the steps before it are undone without it."""

    NO = ""
    PARKED = "parked"
    HUMAN = "human"
    PASSED = "passed"


class Outcome(StrEnum):
    """How a saga ended, as far as this record knows. FAILED is aborted with a debt: an undo was waived."""

    OPEN = ""
    COMPLETED = "completed"
    ABORTED = "aborted"
    FAILED = "failed"


class Cause(StrEnum):
    """The first reason for an abort: a step refused, somebody cancelled, or the deadline passed."""

    NONE = ""
    REFUSED = "refused"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class Cancel(IntFlag):
    """ASKED: somebody here asked for a cancel, tell the origin. HEARD: a CANCEL came while a person held the step."""

    NO = 0
    ASKED = 1
    HEARD = 2


class SagaState(StrEnum):
    """What users see of a saga."""

    PENDING = "pending"
    RUNNING = "running"
    STEP_COMPLETED = "step_completed"
    COMPLETED = "completed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class StepState(StrEnum):
    """What users see of a step."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    SKIPPED = "skipped"
