"""What an open saga waits for, as one participant can tell from its records: for what, from whom, since when, and why.

Pure. A participant knows its own steps only: it names what it waits for itself, and of the services before that it says which
are not there. Where more than one thing is in the way, each is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.core.rows import FINAL_ORIGIN, duty, is_finished, is_resolved
from saga_choreo.core.states import saga_state
from saga_choreo.model.record import ORIGIN, ORIGIN_NAME, Record
from saga_choreo.model.states import Outcome, Parked, SagaState, State
from saga_choreo.runtime.alive import Sign, life_of

__all__ = ["Known", "StuckSaga", "Wait", "stuck_saga"]

# What is due for longer than this, or not published for longer, is not just being worked on.
_LATE_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known besides the records. `heard`: service -> when an agent of it was last heard (None: nobody has listened).
    `holders`: definition -> services that have announced it."""

    now_ms: int
    heard: Mapping[str, Sign] | None = None
    holders: Mapping[str, frozenset[str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """`step` of `service` waits for `what` from the service `whom`. `why` is empty when nothing is known to be wrong there."""

    step: str
    service: str
    what: str
    whom: str
    since_ms: int
    why: str = ""

    def __str__(self) -> str:
        return f"{self.what} from {self.whom}{': ' + self.why if self.why else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckSaga:
    """A saga that has not ended; `since_ms` is when anything of it last changed here."""

    saga_id: UUID
    key: str
    choreography: str
    state: SagaState
    since_ms: int
    waits: tuple[Wait, ...]


def stuck_saga(records: Sequence[Record], plan: Plan | None, known: Known) -> StuckSaga | None:
    """What one saga (at least one record) waits for; None when it has ended, as far as this participant knows."""
    first = next((record for record in records if record.step == ORIGIN), records[0])
    if all(is_finished(record.row) for record in records) or first.row.state in FINAL_ORIGIN:
        return None
    waits = tuple(dict.fromkeys(_waits(records, plan, known)))
    return StuckSaga(
        saga_id=first.saga_id,
        key=first.key,
        choreography=first.choreography,
        state=saga_state(records),
        since_ms=max(record.changed_ms for record in records),
        waits=waits or (_for_the_end(first, plan, known),),
    )


def _waits(records: Sequence[Record], plan: Plan | None, known: Known) -> Iterator[Wait]:
    for record in records:
        if is_finished(record.row):
            continue
        name = _name(record, plan)
        if plan is None:
            yield _wait(record, name, "its definition", record.origin, f"definition {record.definition} is not known here")
            continue
        step = plan.step(record.step)
        if record.announced < record.version and known.now_ms - record.changed_ms > _LATE_MS:
            why = life_of(record.service, known.heard, known.now_ms) or "the broker does not take it; the agent's log says why"
            yield _wait(record, name, "the publication of what it did", record.service, why)
        yield from _of_one(record, step, name, records, plan, known)


def _of_one(record: Record, step: StepPlan, name: str, records: Sequence[Record], plan: Plan, known: Known) -> Iterator[Wait]:
    row = record.row
    if row.parked is not Parked.NO:
        yield _of_parked(record, name)
    elif duty(row, step) is not None or row.pending:
        yield _of_duty(record, name, known)
    elif row.state in (State.WAITING, State.OPEN) and not is_resolved(row, step):
        yield from _of_events(record, step, name, records, plan, known)
    elif row.abort or row.state is State.ABORTING:
        for successor in (plan.step(one) for one in step.succs if not row.clear_in & step.clear_bit(one)):
            owner = record.origin if successor.index == ORIGIN else successor.owner
            if owner != record.service or not any(one.step == successor.index for one in records):
                undone = "the end" if successor.index == ORIGIN else f"the undo of {successor.name!r}"
                yield _wait(record, name, undone, owner, _trouble(owner, record, known))


def _of_parked(record: Record, name: str) -> Wait:
    row = record.row
    if row.parked is Parked.HUMAN:
        return _wait(record, name, "its end by hand", row.operator, f"{row.operator!r} has taken it over")
    why = f"parked after attempt {row.attempt}: {record.error}; saga-choreo steps show {record.saga_id} {name}"
    return _wait(record, name, "a person's word", record.service, why)


def _of_duty(record: Record, name: str, known: Known) -> Wait:
    """It is this service's turn: something holds it back, it is tried again later, or nobody works on it."""
    row, due_ms = record.row, record.due_ms
    if row.pending:
        return _wait(record, name, "the outside", record.service, "nobody has completed it: agent.complete_step(token, ...)")
    nobody = life_of(record.service, known.heard, known.now_ms)
    if nobody:
        why = nobody
    elif record.lease_ms is not None and record.lease_ms > known.now_ms:
        why = f"attempt {row.attempt} is under way"
    elif record.error and due_ms is not None and due_ms > known.now_ms:
        why = f"{record.error}; tried again in {(due_ms - known.now_ms) / 1000:.0f} s"
    elif due_ms is not None and known.now_ms - due_ms > _LATE_MS:
        why = f"due and not begun{'; ' + record.error if record.error else ''}; its agents are down, at their limits, or without it"
    else:
        why = record.error
    undo = row.state in (State.DONE, State.COMPENSATING)
    return _wait(record, name, "its undo" if undo else "its own run", record.service, why)


def _of_events(record: Record, step: StepPlan, name: str, records: Sequence[Record], plan: Plan, known: Known) -> Iterator[Wait]:
    here = {one.step for one in records if one.service == record.service and one.definition == record.definition}
    resolved = record.row.done_in | record.row.skip_in
    seen: set[int] = set()

    def missing(of: StepPlan, bits: int) -> Iterator[Wait]:
        for bit, (source, event) in enumerate(of.in_edges):
            if bits >> bit & 1 or source in seen:
                continue
            before = plan.step(source)
            if source != ORIGIN and before.owner == record.service:
                if source not in here:  # nothing of it has come here: it waits for what comes before it
                    seen.add(source)
                    yield from missing(before, 0)
                continue
            whom = record.origin if source == ORIGIN else before.owner
            what = f"the end of {before.name!r}" if event is None else event.name
            yield _wait(record, name, what, whom, _trouble(whom, record, known) or _before(before, record, plan, known))

    yield from missing(step, resolved)


def _before(step: StepPlan, record: Record, plan: Plan, known: Known) -> str:
    """Whoever comes before the service that is waited for and is not there."""
    seen, todo = set[int](), [source for source, _ in step.in_edges]
    while todo:
        number = todo.pop()
        if number in seen or number == ORIGIN:
            continue
        seen.add(number)
        before = plan.step(number)
        trouble = _trouble(before.owner, record, known) if before.owner != record.service and known.heard is not None else ""
        if trouble:
            return f"before it, step {before.name!r} of {before.owner}: {trouble}"
        todo += [source for source, _ in before.in_edges]
    return ""


def _trouble(service: str, record: Record, known: Known) -> str:
    holders = None if known.holders is None else known.holders.get(record.definition)
    if holders is not None and service not in holders and service != record.origin:
        return f"it has not announced definition {record.definition} yet"
    return "" if service == record.service and known.heard is None else life_of(service, known.heard, known.now_ms)


def _for_the_end(first: Record, plan: Plan | None, known: Known) -> Wait:
    """Everything of this service is done; only the origin knows the rest."""
    what = "the undo of the saga" if first.row.outcome is Outcome.OPEN and first.row.abort else "the end of the saga"
    why = _trouble(first.origin, first, known) or "nothing is left to do here; its origin knows what is"
    return _wait(first, _name(first, plan), what, first.origin, why)


def _name(record: Record, plan: Plan | None) -> str:
    if record.step == ORIGIN:
        return ORIGIN_NAME
    return f"step {record.step}" if plan is None else plan.step(record.step).name


def _wait(record: Record, name: str, what: str, whom: str, why: str) -> Wait:
    return Wait(step=name, service=record.service, what=what, whom=whom, since_ms=record.changed_ms, why=why)
