"""From a message to facts: which records of a service a message concerns, and what it means to each."""

from __future__ import annotations

from functools import lru_cache
from typing import assert_never

from saga_choreo.core.emissions import Message
from saga_choreo.core.facts import AbortCame, CancelCame, CancelRequested, ClearCame, DoneCame, Fact, OutcomeCame, SkipCame
from saga_choreo.core.graph import TO_SINK, Plan
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN

__all__ = ["facts_for"]


# One for each edge of a graph and service, roughly, and the hot path asks several times a message.
@lru_cache(maxsize=8192)
def facts_for(message: Message, plan: Plan, service: str, *, is_origin: bool) -> tuple[tuple[int, Fact], ...]:
    """(step, fact) for every record of the service that the message concerns; step ORIGIN only where the saga was started.

    ABORT, CANCEL and OUTCOME concern all steps of the service at once, so that one commit answers them.
    """
    source, target = message.source, message.target
    match message.kind:
        case MessageKind.DONE | MessageKind.SKIP:
            came = DoneCame if message.kind is MessageKind.DONE else SkipCame
            if message.event == TO_SINK:
                last_bit = source != ORIGIN and plan.steps[source].is_last and 1 << plan.origin.preds.index(source)
                return ((ORIGIN, came(last_bit)),) if is_origin and last_bit else ()
            readers = plan.readers.get((source, message.event), ())
            return tuple((reader, came(edges)) for reader, edges in readers if plan.steps[reader].owner == service)
        case MessageKind.CLEAR:
            if target == ORIGIN:
                known = is_origin and source in plan.origin.succs
                return ((ORIGIN, ClearCame(plan.origin.clear_bit(source), message.debt)),) if known else ()
            step = plan.steps[target]
            known = step.owner == service and source in step.succs
            return ((target, ClearCame(step.clear_bit(source), message.debt)),) if known else ()
        case MessageKind.ABORT:
            facts: tuple[tuple[int, Fact], ...] = tuple((step.index, AbortCame(message.cause)) for step in plan.owned_by(service))
            return (*facts, (ORIGIN, AbortCame(message.cause))) if is_origin and source != ORIGIN else facts
        case MessageKind.CANCEL:
            return tuple((step.index, CancelCame(message.cause)) for step in plan.owned_by(service))
        case MessageKind.CANCEL_REQUEST:
            return ((ORIGIN, CancelRequested()),) if is_origin else ()
        case MessageKind.OUTCOME:
            return tuple((step.index, OutcomeCame(message.outcome, message.cause)) for step in plan.owned_by(service))
        case MessageKind.UNDONE | MessageKind.PARKED | MessageKind.RESOLVED:
            return ()
        case _:
            assert_never(message.kind)
