"""What people see of a saga, made from a participant's records in one place; agent, CLI and console show the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from saga_choreo.core.graph import Plan, plan_of
from saga_choreo.core.states import saga_state, step_state
from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography
from saga_choreo.model.ids import started_ms
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Parked, SagaState, StepState

__all__ = ["SagaView", "StepView", "plan_from", "view_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One step as this participant knows it. `changed_ms` is when its record last changed (Unix milliseconds)."""

    step: str
    service: str
    state: StepState
    changed_ms: int
    attempt: int
    parked: bool
    operator: str
    reason: str
    error: str
    due_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaView:
    """One saga as this participant knows it: all of it at its origin, elsewhere only the participant's own steps."""

    saga_id: UUID
    key: str
    choreography: str
    definition: str
    origin: str
    state: SagaState
    reason: str
    started_ms: int
    changed_ms: int
    deadline_ms: int | None
    steps: tuple[StepView, ...]


def plan_from(definitions: Mapping[str, bytes], definition: str) -> Plan | None:
    """The plan of a stored definition; None when it is not stored or cannot be read."""
    blob = definitions.get(definition)
    if not blob:
        return None
    try:
        return plan_of(Choreography.from_canonical(blob))
    except DefinitionError:
        return None


def view_of(records: Sequence[Record], plan: Plan | None) -> SagaView:
    """The view of one saga's records (at least one)."""
    first = next((record for record in records if record.step == ORIGIN), records[0])
    return SagaView(
        saga_id=first.saga_id,
        key=first.key,
        choreography=first.choreography,
        definition=first.definition,
        origin=first.origin,
        state=saga_state(records),
        reason=first.reason or next((record.reason for record in records if record.reason), ""),
        started_ms=started_ms(first.saga_id),
        changed_ms=max(record.changed_ms for record in records),
        deadline_ms=first.deadline_ms,
        steps=tuple(_step_view(record, plan) for record in records if record.step != ORIGIN),
    )


def _step_view(record: Record, plan: Plan | None) -> StepView:
    step = plan.step(record.step) if plan is not None else None
    return StepView(
        step=step.name if step is not None else f"step {record.step}",
        service=record.service,
        state=step_state(record.row, step),
        changed_ms=record.changed_ms,
        attempt=record.row.attempt,
        parked=record.row.parked is not Parked.NO,
        operator=record.row.operator,
        reason=record.reason,
        error=record.error,
        due_ms=record.due_ms,
    )


def state_named(word: SagaState | str) -> SagaState:
    """Raises ValueError."""
    try:
        return SagaState(word)
    except ValueError:
        raise ValueError(f"{word!r} is no state of a saga; use one of: {', '.join(SagaState)}") from None
