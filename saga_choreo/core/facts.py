"""Facts: what can happen to one record. A closed union; the transition table has a rule for every pair that matters."""

from __future__ import annotations

from typing import NamedTuple

from saga_choreo.model.states import Cause, Outcome

__all__ = [
    "AbortCame",
    "CancelCame",
    "CancelRequested",
    "Claimed",
    "ClearCame",
    "Completed",
    "CompletionDeclined",
    "DeadlinePassed",
    "Declined",
    "DoneCame",
    "Fact",
    "Failed",
    "OutcomeCame",
    "Refusal",
    "Resolved",
    "SkipCame",
    "Started",
    "Succeeded",
    "UndoFailed",
    "Undone",
    "WentPending",
]


class Started(NamedTuple):
    """The client started the saga (origin row only)."""


class DoneCame(NamedTuple):
    """Events came that these in-edges wait for."""

    edges: int


class SkipCame(NamedTuple):
    """These in-edges will get no event: the branch before them is skipped."""

    edges: int


class ClearCame(NamedTuple):
    """A successor and all that follows it is undone or will never run."""

    bit: int
    debt: bool = False


class AbortCame(NamedTuple):
    """Some step has refused, or the origin stops the saga: all that was done is to be undone."""

    cause: Cause = Cause.REFUSED


class CancelCame(NamedTuple):
    """The origin's request: only a step that may still veto can act on it."""

    cause: Cause = Cause.CANCELLED


class CancelRequested(NamedTuple):
    """Somebody asks for a cancel: the origin decides; elsewhere it is passed on to the origin."""


class DeadlinePassed(NamedTuple):
    """The saga's deadline, or with `own` the step's own one."""

    own: bool = False


class OutcomeCame(NamedTuple):
    """The origin's decision, with the first cause it recorded."""

    outcome: Outcome
    cause: Cause = Cause.NONE


class Claimed(NamedTuple):
    """An attempt begins (the lease is free)."""


class Succeeded(NamedTuple):
    """The handler, or the outside, did it; `choice` is the mask of events to publish."""

    attempt: int
    choice: int


class Declined(NamedTuple):
    """A business no, or a definite refusal of the outside. `exhausted` matters only for a step that may not veto."""

    attempt: int
    exhausted: bool = False


class Failed(NamedTuple):
    """A technical failure or, for an external step, an unknown result. `veto`: refuse when exhausted, instead of parking."""

    attempt: int
    exhausted: bool = False
    veto: bool = False


class WentPending(NamedTuple):
    """An external step asked, and will be finished from outside."""

    attempt: int


class Completed(NamedTuple):
    """A pending step is completed from outside, by the token's key number."""

    key_no: int
    choice: int


class CompletionDeclined(NamedTuple):
    """The outside says no to a pending step."""

    key_no: int


class Undone(NamedTuple):
    """The compensation ran."""

    attempt: int


class UndoFailed(NamedTuple):
    """The compensation failed. `refused`: a definite refusal, so the next attempt needs a new key. `go_on`: when parked, let the
    predecessors go on."""

    attempt: int
    exhausted: bool = False
    refused: bool = False
    go_on: bool = False


class Resolved(NamedTuple):
    """A person's word on a parked step: retry, waive, take, done, give_back or fail."""

    verb: str
    operator: str
    choice: int = 0


Fact = (
    Started
    | DoneCame
    | SkipCame
    | ClearCame
    | AbortCame
    | CancelCame
    | CancelRequested
    | DeadlinePassed
    | OutcomeCame
    | Claimed
    | Succeeded
    | Declined
    | Failed
    | WentPending
    | Completed
    | CompletionDeclined
    | Undone
    | UndoFailed
    | Resolved
)


class Refusal(NamedTuple):
    """The fact cannot be accepted, and somebody should hear why. `alarm`: it should never have happened."""

    reason: str
    alarm: bool = False
