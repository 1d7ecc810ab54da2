"""The forgetting rule: what a message means for a saga older than the horizon of which there is no record.

It never creates a record, whatever it says: too short a horizon turns late messages into visible quarantine rows, never into a
second execution. An ABORT or a CLEAR proves that the saga did not complete and that this step will never run, so it is answered
as a tombstone would answer, without leaving one. Anything else is quarantined.
"""

from __future__ import annotations

from saga_choreo.core.emissions import Message
from saga_choreo.core.graph import Plan
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN, ORIGIN_NAME
from saga_choreo.model.states import Outcome

__all__ = ["stale_answer"]


def stale_answer(message: Message, step: int, plan: Plan) -> tuple[Message, ...] | None:
    """What to say, without a record, on behalf of `step` (ORIGIN where the saga was started). None: quarantine the message.

    An OUTCOME needs no answer and no quarantine: there is nothing left to finish.
    """
    match message.kind:
        case MessageKind.OUTCOME:
            return ()
        case MessageKind.ABORT | MessageKind.CLEAR if step == ORIGIN:
            outcome = Outcome.FAILED if message.debt else Outcome.ABORTED
            return (Message(MessageKind.OUTCOME, ORIGIN, outcome=outcome, cause=message.cause, debt=message.debt),)
        case MessageKind.ABORT | MessageKind.CLEAR:
            return tuple(
                Message(
                    MessageKind.CLEAR,
                    step,
                    ORIGIN_NAME if pred == ORIGIN else plan.steps[pred].owner,
                    target=pred,
                    debt=message.debt,
                )
                for pred in plan.steps[step].preds
            )
        case _:
            return None
