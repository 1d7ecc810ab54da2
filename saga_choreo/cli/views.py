"""Sagas and steps as rows: what records mean, in the words that people use. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from saga_choreo.cli.output import schema
from saga_choreo.core.graph import Plan, StepPlan, plan_of
from saga_choreo.core.states import saga_state, step_state
from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography
from saga_choreo.model.ids import started_ms
from saga_choreo.model.record import ORIGIN, ORIGIN_NAME, Record
from saga_choreo.model.states import Parked, State

__all__ = ["Plans", "plans_from", "saga_row", "step_rows"]

Plans = Mapping[str, Plan]


def plans_from(definitions: Mapping[str, bytes]) -> Plans:
    """Plans by definition hash. One that cannot be read is left out: its steps are then shown by number."""
    plans: dict[str, Plan] = {}
    for definition, canonical in definitions.items():
        try:
            plans[definition] = plan_of(Choreography.from_canonical(canonical))
        except DefinitionError:
            continue
    return plans


def _first(records: Sequence[Record]) -> Record:
    """The record that knows most of the saga as a whole: the origin's, else any."""
    return next((record for record in records if record.step == ORIGIN), records[0])


def _step_of(record: Record, plans: Plans) -> StepPlan | None:
    plan = plans.get(record.definition)
    return plan.step(record.step) if plan is not None and record.step < len(plan.steps) else None


def saga_row(records: Sequence[Record], plans: Plans) -> dict[str, Any]:
    """One saga; `records` is not empty."""
    first = _first(records)
    steps = [record for record in records if record.step != ORIGIN]
    counts = Counter(step_state(record.row, _step_of(record, plans)).value for record in steps)
    return {
        "schema": schema("saga"),
        "id": str(first.saga_id),
        "key": first.key,
        "choreography": first.choreography,
        "state": saga_state(records).value,
        "started_at": started_ms(first.saga_id),
        "steps": dict(sorted(counts.items())),
        "origin": first.origin,
        "definition": first.definition,
        "deadline_at": first.deadline_ms,
        "changed_at": max(record.changed_ms for record in records),
        "cause": first.row.cause.value,
        "reason": next((record.reason for record in records if record.row.vetoer and record.reason), first.reason),
    }


def step_rows(records: Sequence[Record], plans: Plans) -> list[dict[str, Any]]:
    """The saga's steps, in the order of the definition."""
    return [_step_row(record, plans) for record in sorted(records, key=lambda r: (r.definition, r.step)) if record.step != ORIGIN]


def _step_row(record: Record, plans: Plans) -> dict[str, Any]:
    step = _step_of(record, plans)
    row = record.row
    return {
        "step": step.name if step is not None else f"#{record.step}",
        "service": record.service,
        "state": step_state(row, step).value,
        "attempt": row.attempt,
        "changed_at": record.changed_ms,
        "due_at": record.due_ms,
        "parked": row.parked is not Parked.NO,
        "debt": row.debt,
        "reason": record.reason,
        "error": record.error,
        "waiting_for": _waiting_for(record, plans.get(record.definition), step),
    }


def _waiting_for(record: Record, plan: Plan | None, step: StepPlan | None) -> list[str]:
    """The in-edges of a waiting step that are not resolved yet: 'payment.charged from charge-payment'."""
    if plan is None or step is None or record.row.state is not State.WAITING:
        return []
    resolved = record.row.done_in | record.row.skip_in
    open_edges = [edge for bit, edge in enumerate(step.in_edges) if not resolved >> bit & 1]
    return [f"{event.name} from {_name(plan, source)}" for source, event in open_edges if event is not None]


def _name(plan: Plan, number: int) -> str:
    return ORIGIN_NAME if number == ORIGIN else plan.step(number).name
