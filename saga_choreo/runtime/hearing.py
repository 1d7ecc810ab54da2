"""What the records of several services in one store say of the messages between them. Pure.

Nobody sees a message that is gone, but both ends of it: who says it has said it and published it, and who was to hear it. A step that
has heard what its sender's record never said was told by a ghost; one that has not heard what was published long ago lost a
message, or nobody is there to take it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from saga_choreo.core.emissions import Message, emissions
from saga_choreo.core.facts import Refusal
from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.core.routing import facts_for
from saga_choreo.core.transitions import transition
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Outcome, State

__all__ = ["ghosts", "unheard"]

_HAPPENED = frozenset({State.DONE, State.COMPENSATING, State.COMPENSATED})


def unheard(record: Record, step: StepPlan, plan: Plan, records: Sequence[Record], service: str) -> Iterable[tuple[int, Message]]:
    """(step, message): what the record has said, and that step of the service does not know. Hearing it again would change
    nothing otherwise."""
    mine = {other.step: other for other in records if (other.service, other.definition) == (service, record.definition)}
    for message in emissions(record.row, step, plan):
        if message.kind is MessageKind.OUTCOME:
            continue  # who has not heard of the end is named as such
        for number, fact in facts_for(message, plan, service, is_origin=record.origin == service):
            before = mine[number].row if number in mine else Row()
            if number == ORIGIN and number not in mine:
                continue
            after = transition(before, fact, plan.step(number))
            if not isinstance(after, Refusal) and after != before:
                yield number, message


def ghosts(record: Record, step: StepPlan, plan: Plan, records: Sequence[Record], here: frozenset[str]) -> Iterable[int]:
    """Steps of services in this store (`here`) of which the record has heard that they are done, and that never were. A record that
    is gone proves nothing once the saga is over: each service forgets by its own horizon."""
    mine = {other.step: other for other in records if other.definition == record.definition}
    for bit, (source, event) in enumerate(step.in_edges):
        if not record.row.done_in >> bit & 1:
            continue
        sender = mine.get(source)
        if sender is None:
            owner = record.origin if source == ORIGIN else plan.steps[source].owner
            if owner in here and record.row.outcome is Outcome.OPEN:
                yield source
        elif source != ORIGIN:
            number = plan.event_number(source, event) if event is not None else None
            if sender.row.state not in _HAPPENED or (number is not None and not sender.row.choice >> number & 1):
                yield source
