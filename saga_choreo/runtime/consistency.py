"""What contradicts itself in a participant's store: records in, contradictions out. Pure.

Two kinds of rules. What one commit writes together must agree at once: masks with states, a step with its neighbours in the same
service, a record with its timer and its lock. What others have to do may take a while, and is named only once it has taken longer than
`late_ms`: announcing, hearing what another service of the same store has published, hearing the end, waking up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.core.rows import FINAL_ORIGIN, duty, is_resolved
from saga_choreo.model.choreography import Undo
from saga_choreo.model.record import ORIGIN, ORIGIN_NAME, Record
from saga_choreo.model.states import Outcome, Parked, State
from saga_choreo.runtime.hearing import ghosts, unheard

__all__ = ["Contradiction", "Effect", "Judged", "judge_effects", "judge_keys", "judge_ledger", "judge_locks", "judge_saga"]

_UNRESOLVED_ALLOWED = frozenset({State.WAITING, State.TOMB})
_HAPPENED = frozenset({State.DONE, State.COMPENSATING, State.COMPENSATED})


@dataclass(frozen=True, slots=True, order=True)
class Contradiction:
    """`code` is one of a small set of words; `step` is '' for what is not about one step."""

    code: str
    service: str
    saga: str
    step: str
    detail: str


class Effect(NamedTuple):
    """One line of a user's own ledger: what a step did ('do'), or took back ('undo')."""

    saga_id: UUID
    step: str
    side: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a judgement needs beside the records. `plans` by definition; a lock maps (service, name) to the saga that holds it.
    `services` are those that have records in this store."""

    plans: Mapping[str, Plan]
    now_ms: int
    late_ms: int
    locks: Mapping[tuple[str, str], UUID]
    services: frozenset[str] = frozenset()


def judge_saga(records: Sequence[Record], known: Judged) -> list[Contradiction]:
    """All records of one saga that the store has, of all services in it."""
    found: list[Contradiction] = list(_disagreements(records, known))
    ended = {record.definition for record in records if record.step == ORIGIN and record.row.state in FINAL_ORIGIN}
    for record in records:
        plan = known.plans.get(record.definition)
        late = known.now_ms - record.changed_ms > known.late_ms
        found += _of_announcing(record, plan, late=late)
        if plan is None:
            found.append(_said(record, plan, "unknown_definition", f"the store does not hold its definition {record.definition}"))
            continue
        if not ORIGIN <= record.step < len(plan.steps):
            found.append(_said(record, plan, "unknown_step", "its definition has no such step"))
            continue
        step = plan.step(record.step)
        found += _of_row(record, step, plan)
        found += _of_timer(record, step, plan, known)
        found += _of_lock(record, plan, known)
        found += _of_messages(record, step, plan, records, known, late=late)
        if late and record.definition in ended and record.row.outcome is Outcome.OPEN and record.step != ORIGIN:
            found.append(
                _said(record, plan, "open_after_the_end", "the saga has ended at its origin, and the step has not heard of it")
            )
    return found


def _said(record: Record, plan: Plan | None, code: str, detail: str) -> Contradiction:
    return Contradiction(code, record.service, str(record.saga_id), _name(record.step, plan), detail)


def _name(step: int, plan: Plan | None) -> str:
    if step == ORIGIN:
        return ORIGIN_NAME
    return plan.steps[step].name if plan is not None and step < len(plan.steps) else f"step {step}"


def _disagreements(records: Sequence[Record], known: Judged) -> Iterable[Contradiction]:
    first: dict[str, Record] = {}
    for record in records:
        other = first.setdefault(record.definition, record)
        for what in ("origin", "key", "deadline_ms", "choreography"):
            mine, theirs = getattr(record, what), getattr(other, what)
            if mine != theirs:
                plan = known.plans.get(record.definition)
                yield _said(
                    record, plan, "disagreement", f"its {what} is {mine!r}, that of {_name(other.step, plan)} is {theirs!r}"
                )


def _of_announcing(record: Record, plan: Plan | None, *, late: bool) -> Iterable[Contradiction]:
    if record.announced > record.version:
        detail = f"version {record.announced} is said to be announced, the record is at {record.version}"
        yield _said(record, plan, "announced_ahead", detail)
    if record.announced < record.version and late:
        detail = (
            f"version {record.version} is not known to be published: no agent of the service runs, or it cannot reach the broker"
        )
        yield _said(record, plan, "not_announced", detail)
    if record.row.parked is Parked.PARKED and late:
        yield _said(record, plan, "parked", f"it waits for a person ({record.error or record.reason}); see: saga-choreo steps list")


def _of_row(record: Record, step: StepPlan, plan: Plan) -> Iterable[Contradiction]:
    row = record.row
    if record.step == ORIGIN:
        return
    if step.owner != record.service:
        yield _said(record, plan, "wrong_owner", f"the step belongs to service {step.owner!r}")
    if (row.done_in | row.skip_in) & ~step.all_in or row.clear_in & ~step.all_succ:
        yield _said(record, plan, "mask", "an edge is marked that its definition does not have")
    if row.done_in & row.skip_in:
        yield _said(record, plan, "mask", "an edge is marked both as come and as skipped")
    if row.state not in _UNRESOLVED_ALLOWED and not is_resolved(row, step) and not (row.abort or row.state is State.SKIPPED):
        yield _said(record, plan, "mask", f"the step is in state {row.state.name.lower()} although not all its edges are resolved")
    missing = [bit for bit in record.inputs if not row.done_in >> bit & 1]
    if missing:
        yield _said(record, plan, "mask", f"there is an input for edge {missing[0]}, which is not marked as come")
    if row.state in _HAPPENED and row.choice & ~((1 << len(step.outputs)) - 1):
        yield _said(record, plan, "choice", "an event is marked as published that its definition does not have")


def _of_timer(record: Record, step: StepPlan, plan: Plan, known: Judged) -> Iterable[Contradiction]:
    if record.due_ms is None:
        if duty(record.row, step) is not None:
            yield _said(record, plan, "no_timer", "there is something to execute, and nothing that would wake it")
    elif record.due_ms < known.now_ms - known.late_ms:
        yield _said(record, plan, "overdue", "it was due long ago: no agent of the service runs, or it cannot reach the store")


def _of_lock(record: Record, plan: Plan, known: Judged) -> Iterable[Contradiction]:
    if record.lock:
        holder = known.locks.get((record.service, record.lock))
        if holder != record.saga_id:
            held = "nobody" if holder is None else f"saga {holder}"
            yield _said(record, plan, "lock_not_held", f"it believes to hold the lock {record.lock!r}, which {held} holds")


def _of_messages(
    record: Record, step: StepPlan, plan: Plan, records: Sequence[Record], known: Judged, *, late: bool
) -> Iterable[Contradiction]:
    """What a record says to its own service is applied in the same commit; what it says to others, once a message has come."""
    for source in ghosts(record, step, plan, records, known.services):
        yield _said(
            record, plan, "ghost", f"it has heard that {_name(source, plan)!r} is done, and that step's record does not say so"
        )
    if not late or record.row.outcome is not Outcome.OPEN:
        return
    for number, message in unheard(record, step, plan, records, record.service):
        detail = f"{_name(number, plan)!r} of the same service does not know what it says ({message.kind.name.lower()})"
        yield _said(record, plan, "neighbour", detail)
    if record.announced < record.version:
        return
    for service in sorted(known.services - {record.service}):
        for number, message in unheard(record, step, plan, records, service):
            detail = (
                f"{_name(number, plan)!r} of service {service!r} has not applied what it has published ({message.kind.name.lower()}): "
                "the message was lost, or no agent of that service runs"
            )
            yield _said(record, plan, "not_heard", detail)


def judge_locks(locks: Mapping[tuple[str, str], UUID], holders: Mapping[UUID, Sequence[Record]]) -> list[Contradiction]:
    """Locks that no record holds: what they guard is closed for ever. `holders` are the records of the sagas that hold locks."""
    return [
        Contradiction(
            "lock_without_owner", service, str(saga_id), "", f"the lock {name!r} is held by a saga that does not know of it"
        )
        for (service, name), saga_id in sorted(locks.items())
        if not any(one.service == service and one.lock == name for one in holders.get(saga_id, ()))
    ]


def judge_keys(keys: Iterable[tuple[str, str, UUID]], started: Mapping[UUID, Sequence[Record]]) -> list[Contradiction]:
    """Business keys (service, key, saga) whose saga is not there, or was started under another key."""
    found: list[Contradiction] = []
    for service, key, saga_id in keys:
        origins = [one for one in started.get(saga_id, ()) if one.step == ORIGIN and one.service == service]
        if not origins:
            detail = f"the business key {key!r} names a saga that was not started here, or whose records are gone"
            found.append(Contradiction("key_without_saga", service, str(saga_id), ORIGIN_NAME, detail))
        elif origins[0].key != key:
            detail = f"the business key {key!r} names a saga that was started under {origins[0].key!r}"
            found.append(Contradiction("key_of_another", service, str(saga_id), ORIGIN_NAME, detail))
    return found


def judge_ledger(records: Iterable[Record], plans: Mapping[str, Plan], *, steps: frozenset[str]) -> list[Contradiction]:
    """Steps that were done, could have written to the ledger, and are not among these, of which there is a line in it: each once."""
    done: dict[tuple[str, str], set[UUID]] = {}
    for record in records:
        plan = plans.get(record.definition)
        if plan is None or not 0 <= record.step < len(plan.steps) or record.row.state not in _HAPPENED:
            continue
        step = plan.step(record.step)
        if step.name not in steps and not step.external:
            done.setdefault((record.service, step.name), set()).add(record.saga_id)
    return [
        Contradiction(
            "step_not_in_ledger",
            service,
            "",
            name,
            f"it is done in {len(sagas)} sagas, {min(sagas)} for one, and the ledger has no line of it at all; if it writes none, name "
            "those that do with --ledger-step",
        )
        for (service, name), sagas in sorted(done.items())
    ]


def judge_effects(
    records: Iterable[Record], effects: Iterable[Effect], plans: Mapping[str, Plan], *, steps: frozenset[str]
) -> list[Contradiction]:
    """Records against the user's own ledger, for these steps: each that is done has one effect, each that is undone has it taken back
    (where its undo can write to the ledger: one that is external, or none, can not)."""
    counted: dict[tuple[UUID, str], list[str]] = {}
    for effect in effects:
        counted.setdefault((effect.saga_id, effect.step), []).append(effect.side)
    found: list[Contradiction] = []
    for record in records:
        plan = plans.get(record.definition)
        name = _name(record.step, plan)
        if record.step == ORIGIN or name not in steps:
            continue
        sides = counted.pop((record.saga_id, name), [])
        did, undid = sides.count("do"), sides.count("undo")
        happened = record.row.state in _HAPPENED
        undone = record.row.state is State.COMPENSATED and (plan is None or plan.step(record.step).undo is Undo.LOCAL)
        if did != int(happened) and not (record.row.state is State.RUNNING and did <= 1):
            code = "effect_missing" if did < int(happened) else "effect_twice" if happened else "effect_without_step"
            found.append(
                _said(record, plan, code, f"the step is {record.row.state.name.lower()}, the ledger has {did} effects of it")
            )
        if undid > 1 or undid > did or (undone and undid != did and not record.row.debt):
            found.append(
                _said(record, plan, "undo", f"the step is {record.row.state.name.lower()}, the ledger has {undid} undos of it")
            )
    for saga_id, name in sorted(counted, key=str):
        if name in steps:
            detail = f"the ledger has {len(counted[saga_id, name])} lines of a step that has no record"
            found.append(Contradiction("effect_without_record", "", str(saga_id), name, detail))
    return found
