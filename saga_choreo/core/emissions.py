"""What a row implies it has said: one function, used by the hot path, the crash path and re-announcing alike.

A step that happened keeps saying so after it is undone (D, CR and C all imply its DONE), so that a fact is never lost to
readers without an agent, even when the process died between two commits. Messages are abstract here: numbers and names of
steps and services; `runtime` makes envelopes of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from saga_choreo.core.graph import TO_SINK, Plan, StepPlan
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN, ORIGIN_NAME, Row
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State

__all__ = ["Message", "emissions"]


class Message(NamedTuple):
    """One message to be sent. `service` is the receiving service ('origin' for the one that started the saga, '' for whoever
    reads the event or, for an outcome, everybody); `event` the number of a published event, or TO_SINK."""

    kind: MessageKind
    source: int
    service: str = ""
    event: int = TO_SINK
    target: int = ORIGIN
    outcome: Outcome = Outcome.OPEN
    cause: Cause = Cause.NONE
    debt: bool = False


_HAPPENED = frozenset({State.DONE, State.COMPENSATING, State.COMPENSATED})
_CLEAR = frozenset({State.TOMB, State.SKIPPED_CLEARED, State.COMPENSATED})


# A saga's rows take few different values, and each is asked about several times; the values that come only once fall out again.
@lru_cache(maxsize=8192)
def emissions(row: Row, step: StepPlan, plan: Plan) -> tuple[Message, ...]:
    """Everything this row implies it has said, in a fixed order."""
    if step.index == ORIGIN:
        return tuple(_of_origin(row, plan))
    said: list[Message] = []
    if row.state in _HAPPENED:
        said += [Message(MessageKind.DONE, step.index, event=n) for n in range(len(step.outputs)) if row.choice >> n & 1]
    if row.state is State.DONE:
        said += _skips(step, plan, ~row.choice)
        if step.is_last:
            said.append(Message(MessageKind.DONE, step.index, ORIGIN_NAME))
    elif row.state is State.SKIPPED:
        said += _skips(step, plan, -1)
        if step.is_last:
            said.append(Message(MessageKind.SKIP, step.index, ORIGIN_NAME))
    if row.vetoer:
        said += [Message(MessageKind.ABORT, step.index, owner, cause=row.cause) for owner in (*plan.owners, ORIGIN_NAME)]
    if row.state in _CLEAR or (row.state is State.COMPENSATING and row.parked is Parked.PASSED):
        said += [_clear(step.index, pred, row, plan) for pred in step.preds]
    if row.state is State.COMPENSATED:
        said.append(Message(MessageKind.UNDONE, step.index))
    if row.cancel & Cancel.ASKED and row.outcome is Outcome.OPEN:
        said.append(Message(MessageKind.CANCEL_REQUEST, step.index, ORIGIN_NAME))
    return tuple(said)


def _skips(step: StepPlan, plan: Plan, skipped: int) -> list[Message]:
    return [
        Message(MessageKind.SKIP, step.index, owner, event=number)
        for number in range(len(step.outputs))
        if skipped >> number & 1
        for owner in plan.reader_owners(step.index, number)
    ]


def _clear(source: int, target: int, row: Row, plan: Plan) -> Message:
    service = ORIGIN_NAME if target == ORIGIN else plan.steps[target].owner
    return Message(MessageKind.CLEAR, source, service, target=target, debt=row.debt)


def _of_origin(row: Row, plan: Plan) -> list[Message]:
    said: list[Message] = []
    if row.choice:
        said.append(Message(MessageKind.DONE, ORIGIN, event=0))
    match row.state:
        case State.OPEN if row.cancel & Cancel.ASKED:
            said += [Message(MessageKind.CANCEL, ORIGIN, owner, cause=row.cause) for owner in plan.owners]
        case State.ABORTING:
            if row.vetoer:
                said += [Message(MessageKind.ABORT, ORIGIN, owner, cause=row.cause) for owner in plan.owners]
            said += [_clear(ORIGIN, last, row, plan) for last in plan.origin.preds]
        case State.COMPLETED | State.ABORTED | State.REFUSED:
            said.append(Message(MessageKind.OUTCOME, ORIGIN, outcome=row.outcome, cause=row.cause, debt=row.debt))
        case _:
            pass
    return said
