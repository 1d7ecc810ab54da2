"""Parked steps as people see them, and what a person's word on one needs: the step found by name, the events checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from saga_choreo.codec.strict_json import check_object
from saga_choreo.codec.wire import BODY_BYTES_MAX
from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.core.resolutions import possible
from saga_choreo.core.states import step_state
from saga_choreo.errors import DecodeError, Refused, ResultTooLarge, SagaNotFound
from saga_choreo.model.choreography import Split
from saga_choreo.model.event import Event, EventRef
from saga_choreo.model.record import ORIGIN, Record, Resolution
from saga_choreo.model.states import Parked, State, StepState
from saga_choreo.ports.store import Reader, SagaFilter
from saga_choreo.runtime.declare.payload import encode
from saga_choreo.runtime.views import plan_from

__all__ = ["ParkedStep", "Published", "done_by_hand", "find_step", "parked_of", "parked_steps"]

_PAGE = 200


class Published(NamedTuple):
    """An event by its name, with its payload as JSON: for tools, which do not have its class."""

    event: EventRef
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedStep:
    """`parked` is 'parked', 'human' (`operator` has it) or 'passed'. `possible` are the verbs that can be said now. `error` is
    why it parked, `resolution` the last word a person said on it. `changed_ms` is when the record last changed."""

    saga_id: UUID
    key: str
    choreography: str
    step: str
    service: str
    state: StepState
    parked: Parked
    attempt: int
    error: str
    operator: str
    possible: tuple[str, ...]
    resolution: Resolution | None
    aborting: bool
    changed_ms: int


def parked_of(record: Record, plan: Plan | None) -> ParkedStep:
    step = plan.step(record.step) if plan is not None else None
    return ParkedStep(
        saga_id=record.saga_id,
        key=record.key,
        choreography=record.choreography,
        step=step.name if step is not None else f"step {record.step}",
        service=record.service,
        state=step_state(record.row, step),
        parked=record.row.parked,
        attempt=record.row.attempt,
        error=record.error,
        operator=record.row.operator,
        possible=possible(record.row, step) if step is not None else (),
        resolution=record.resolution,
        aborting=record.row.abort,
        changed_ms=record.changed_ms,
    )


async def parked_steps(store: Reader, *, service: str = "", choreography: str = "", limit: int = 50) -> list[ParkedStep]:
    """At most `limit` parked steps, of the newest sagas first."""
    plans: dict[str, Plan | None] = {}
    definitions = await store.definitions()
    found: list[ParkedStep] = []
    before: UUID | None = None
    while len(found) < limit:
        page = min(_PAGE, limit)
        wanted = SagaFilter(service=service, choreography=choreography, limit=page, before=before, parked=True)
        groups = await store.sagas(wanted)
        for record in (record for group in groups for record in group):
            if record.row.parked is not Parked.NO and service in ("", record.service):
                if record.definition not in plans:
                    plans[record.definition] = plan_from(definitions, record.definition)
                found.append(parked_of(record, plans[record.definition]))
        if len(groups) < page:
            break
        before = groups[-1][0].saga_id
    return found[:limit]


async def find_step(store: Reader, saga_id: UUID, name: str) -> tuple[Record, Plan]:
    """The record of a step by its name. Raises SagaNotFound."""
    definitions = await store.definitions()
    known: list[str] = []
    for record in await store.records(saga_id):
        plan = plan_from(definitions, record.definition)
        if plan is None or record.step == ORIGIN:
            continue
        step = plan.step(record.step)
        if step.name == name:
            return record, plan
        known.append(step.name)
    here = f"steps of it here: {', '.join(sorted(known))}" if known else "no step of it is here"
    raise SagaNotFound(f"saga {str(saga_id)!r} has no step {name!r} in this store; {here}; look in the store of the step's owner")


def done_by_hand(
    record: Record, step: StepPlan, plan: Plan, events: Sequence[Event | Published]
) -> tuple[int, Mapping[int, bytes], bytes | None]:
    """What somebody says a step published: the choice, the results, and for an undo the payload of its event. Raises Refused,
    ResultTooLarge."""
    given = [_published(event) for event in events]
    if record.row.state is State.COMPENSATING:
        declared = plan.choreography.steps[step.index].undo_event
        if len(given) > 1 or any(ref != declared for ref, _ in given):
            raise Refused(
                f"the undo of step {step.name!r} publishes {str(declared) if declared else 'nothing'}; give that or no event"
            )
        return 0, {}, given[0][1] if given else None
    outputs = plan.choreography.steps[step.index].publishes
    results: dict[int, bytes] = {}
    for ref, payload in given:
        if ref not in outputs or outputs.index(ref) in results:
            raise _wrong_events(step, outputs)
        results[outputs.index(ref)] = payload
    complete = {Split.ALL: len(outputs), Split.ONE: 1}.get(step.split)
    if len(results) != complete if complete is not None else not results:
        raise _wrong_events(step, outputs)
    return sum(1 << number for number in results), results, None


def _published(event: Event | Published) -> Published:
    if isinstance(event, Event):
        return Published(event.event, encode(event, f"event {str(event.event)!r}"))
    ref, payload = event
    if len(payload) > BODY_BYTES_MAX:
        raise ResultTooLarge(
            f"the payload of {str(ref)!r} has {len(payload)} bytes, more than {BODY_BYTES_MAX}; give a reference instead"
        )
    try:
        check_object(payload)
    except DecodeError as exc:
        raise Refused(f"the payload of {str(ref)!r} is no JSON object: {exc}") from exc
    return event


def _wrong_events(step: StepPlan, outputs: Sequence[EventRef]) -> Refused:
    how = {Split.ALL: "all of", Split.ONE: "one of", Split.SOME: "some of"}[step.split]
    declared = ", ".join(map(str, outputs))
    what = f"{how + ' ' if len(outputs) > 1 else ''}{declared}" if outputs else "nothing"
    return Refused(f"'done' says what the step has published; step {step.name!r} publishes {what}: give that, each event once")
