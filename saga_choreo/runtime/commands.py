"""Commands on a participant's store alone, for tools: they change records, and the service's agents publish what follows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from saga_choreo.codec.notices import OPERATOR_BYTES_MAX, TEXT_BYTES_MAX, VERBS
from saga_choreo.core.facts import CancelRequested, Fact, Refusal, Resolved
from saga_choreo.core.graph import Plan
from saga_choreo.core.resolutions import possible
from saga_choreo.core.transitions import transition
from saga_choreo.errors import Refused, SagaNotFound, StoreConflict
from saga_choreo.model.event import Event
from saga_choreo.model.record import ORIGIN, Record, RecordKey, Row
from saga_choreo.model.states import State
from saga_choreo.ports.broker import Broker, Outgoing
from saga_choreo.ports.clock import Clock
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.driver import Driver
from saga_choreo.runtime.gates import Gates
from saga_choreo.runtime.leases import Leases
from saga_choreo.runtime.operations import Ending, Publication
from saga_choreo.runtime.parked import Published, done_by_hand, find_step
from saga_choreo.runtime.pipeline import Pipeline
from saga_choreo.runtime.plugins import WholeStore
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.views import plan_from

__all__ = ["command", "rehearse", "request_cancel", "resolve"]

_log = logging.getLogger("saga_choreo.commands")
# Agents and other people write to the same records; a word that met one of their commits is said again.
_CONFLICTS_MAX = 8


class _StoreOnly:
    """Surroundings without a broker: what records say stays unannounced, so the service's agents find and publish it."""

    broker: Broker

    def __init__(self, service: str, store: WholeStore, catalog: Catalog) -> None:
        self.service = service
        self.store = store
        self.catalog = catalog
        self.clock: Clock = SystemClock()
        self.gates = Gates(self.clock)
        self.leases = Leases(service, catalog, Limits(), {})
        self.executing: dict[RecordKey, str] = {}
        self.agent = self.version = ""

    async def publish(self, publications: Sequence[Publication], loose: Sequence[Outgoing]) -> None:
        del publications, loose

    def saved(self, records: Sequence[Record]) -> None:
        del records

    def completed(self, keys: Sequence[RecordKey]) -> None:
        del keys

    def waited(self, seconds: float) -> None:
        del seconds

    async def tell(self, endings: Sequence[Ending]) -> frozenset[UUID]:
        del endings
        return frozenset()


async def command(store: WholeStore, service: str, saga_id: UUID, step: int | None, fact: Fact, reason: str, **changes: Any) -> Row:
    """Apply a person's word to one record of a service; `changes` are the record's other fields. Raises SagaNotFound, Refused."""
    records = await store.records(saga_id, service)
    record = next((one for one in records if step is None or one.step == step), None)
    plan = None if record is None else plan_from(await store.definitions(), record.definition)
    if record is None or plan is None:
        raise SagaNotFound(
            f"saga {str(saga_id)!r} is not known to service {service!r} in this store; look in the store of its origin"
        )
    catalog = Catalog(service)
    catalog.add(plan)
    pipeline = Pipeline(service, catalog, Limits(), {})
    around = _StoreOnly(service, store, catalog)
    answer: Any = None
    for tried in range(_CONFLICTS_MAX):
        try:
            answer = await Driver(around).run(pipeline.command(saga_id, step, fact, reason, runs=False, **changes))
            break
        except StoreConflict:
            if tried == _CONFLICTS_MAX - 1:
                raise
            await around.clock.sleep(0.01 * (1 << tried) * (0.5 + around.clock.chance()))
    if isinstance(answer, Refusal):
        raise Refused(f"saga {str(saga_id)!r}: {answer.reason}")
    if not isinstance(answer, Row):
        raise SagaNotFound(f"saga {str(saga_id)!r} is not known to service {service!r} in this store any more")
    return answer


async def request_cancel(store: WholeStore, saga_id: UUID, reason: str) -> None:
    """Ask for a saga to be undone, from any participant's store: at its origin it is decided at once, elsewhere the request
    travels to the origin. Raises SagaNotFound, Refused (the saga has ended)."""
    records = await store.records(saga_id)
    if not records:
        raise SagaNotFound(f"no saga {str(saga_id)!r} in this store; look in the store of the service that started it")
    chosen = next((record for record in records if record.step == ORIGIN), records[0])
    await command(store, chosen.service, saga_id, chosen.step, CancelRequested(), reason)


async def resolve(
    store: WholeStore,
    saga_id: UUID,
    step_name: str,
    verb: str,
    *,
    operator: str,
    reason: str,
    event: Event | Published | list[Event | Published] | None = None,
) -> Row:
    """A person's word on a parked step: 'retry', 'take', 'give_back', 'done', 'fail' or 'waive'; which of them are possible depends
    on where it parked. `done` of a step that publishes takes what it published: an event, or `Published`, or several.

    Who said it, when and why is kept with the step.
    Of a payload is checked only that it is a JSON object. Raises Refused (with what is possible), SagaNotFound, ResultTooLarge.
    """
    record, plan = await find_step(store, saga_id, step_name)
    events = event if isinstance(event, list) else [] if event is None else [event]
    fact, changes = _prepared(record, plan, verb, operator, reason, events)
    try:
        row = await command(store, record.service, saga_id, record.step, fact, reason, **changes)
    except Refused as refused:
        raise Refused(f"step {step_name!r} of {refused}") from None
    ids = {"saga_id": str(saga_id), "step_id": step_name, "event": "step.resolved"}
    _log.warning("step %r: %r said %r: %s", step_name, operator, verb, reason, extra=ids)
    return row


def rehearse(record: Record, plan: Plan, verb: str, operator: str, reason: str, events: Sequence[Event | Published]) -> None:
    """Raise what `resolve` would raise now, before anybody is asked to confirm it. Nothing is changed."""
    fact, _ = _prepared(record, plan, verb, operator, reason, events)
    step = plan.step(record.step)
    answer = transition(record.row, fact, step)
    if isinstance(answer, Refusal):
        raise Refused(f"step {step.name!r} of saga {str(record.saga_id)!r}: {answer.reason}")


def _prepared(
    record: Record, plan: Plan, verb: str, operator: str, reason: str, events: Sequence[Event | Published]
) -> tuple[Resolved, dict[str, Any]]:
    _check_words(verb, operator, reason)
    step = plan.step(record.step)
    choice, changes = 0, _changes(verb)
    if verb == "done" and verb in possible(record.row, step):
        choice, results, undo_result = done_by_hand(record, step, plan, events)
        undoing = record.row.state is State.COMPENSATING
        changes |= {"undo_result": undo_result} if undoing else {"results": dict(results)}
    elif events and verb != "done":
        raise Refused(f"{verb!r} takes no event; only 'done' does")
    return Resolved(verb, operator, choice), changes


def _check_words(verb: str, operator: str, reason: str) -> None:
    if verb not in VERBS:
        raise Refused(f"{verb!r} is no word on a parked step; known are {', '.join(VERBS)}")
    for what, text, most in (("operator", operator, OPERATOR_BYTES_MAX), ("reason", reason, TEXT_BYTES_MAX)):
        size = len(text.encode("utf-8", "replace"))
        if not text.strip() or size > most:
            raise Refused(f"{verb!r} needs the {what} (at most {most} bytes), and has {size}; say who you are, and why")


def _changes(verb: str) -> dict[str, Any]:
    """What changes beside the row and the resolution. The error stays visible until the step succeeds."""
    match verb:
        case "retry":
            return {"lease_ms": None}
        case "done":
            return {"lease_ms": None, "inputs": {}, "error": ""}
        case "waive" | "fail":
            return {"lease_ms": None, "inputs": {}}
        case _:
            return {}
