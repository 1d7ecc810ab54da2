"""A pipeline driven by hand: its operations are answered by a script, with records in a dictionary. No store, no broker, no loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from uuid import UUID

from saga_choreo import Agent, Choreography, ChoreographyStep, Event, Limits, Retry, StepContext
from saga_choreo.codec.wire import decode, encode
from saga_choreo.errors import StoreConflict, StoreUnavailable
from saga_choreo.model.choreography import Undo
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports import Delivery
from saga_choreo.runtime.arrivals import Arrival
from saga_choreo.runtime.declare.results import Handled
from saga_choreo.runtime.operations import (
    Ack,
    Claim,
    Commit,
    Complete,
    Execute,
    Executed,
    Now,
    Operation,
    Publication,
    Publish,
    Ran,
    Release,
    Rollback,
    Save,
    Tell,
)
from saga_choreo.runtime.pipeline import Pipeline
from saga_choreo.runtime.presuming import Presuming

__all__ = ["Begun", "OneDone", "Rig", "StockReserved", "catalog_of", "envelope", "form", "service"]

T = TypeVar("T")
NOW_MS = 1_800_000_000_000


class Begun(Event, name="rig.begun"): ...


class StockReserved(Event, name="stock.reserved"): ...


class OneDone(Event, name="one.done"): ...


def form(**charge: Any) -> Choreography:
    """shop starts; inventory: reserve -> payment: charge -> payment: book (local edge) -> shop: confirm."""
    undo = charge.pop("undo", True)
    step = ChoreographyStep("charge").on_event(StockReserved).publish_event(OneDone).owned_by("payment").kind(**charge)
    return (
        Choreography("rig")
        .starts_with(Begun)
        .step(
            ChoreographyStep("reserve").on_event(Begun).publish_event(StockReserved).with_compensation().owned_by("inventory"),
            step.with_compensation("one.undone", external=charge.get("external", False)) if undo else step,
            ChoreographyStep("book").on_event(OneDone).publish_event("two.done").with_compensation().owned_by("payment"),
            ChoreographyStep("confirm").on_event("two.done").with_compensation().owned_by("shop"),
        )
    )


def service(
    name: str,
    choreography: Choreography,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    undo: Mapping[str, Any] | None = None,
) -> Agent:
    agent = Agent(name, saga=choreography)
    for one in choreography.steps:
        if one.owner == name:
            declared = agent.step(one.name, **(options or {}).get(one.name, {}))(_never)
            external = {"external": True} if one.undo is Undo.EXTERNAL else {}
            if one.undo is not Undo.NONE:
                declared.compensation(**external, **(undo or {}))(_never)
    return agent


def catalog_of(name: str, choreography: Choreography, **said: Any) -> Any:
    return service(name, choreography, **said).freeze()


async def _never(ctx: StepContext) -> Any:
    raise AssertionError("the rig answers for handlers")


def envelope(choreography: Choreography, number: int = 0, **changes: Any) -> Envelope:
    """The message that makes `charge` of a saga run, unless changed."""
    fields: dict[str, Any] = {
        "kind": MessageKind.DONE,
        "saga_id": saga_id_at(NOW_MS - 1000, number.to_bytes(10, "big")),
        "choreography": choreography.name,
        "definition": choreography.definition,
        "origin": "shop",
        "sender": "inventory",
        "channel": Channel(ChannelKind.EVENT, "stock.reserved"),
        "from_step": "reserve",
        "event": EventRef("stock.reserved"),
        "payload": b"{}",
        "sent_ns": 1,
        **changes,
    }
    return Envelope(**fields)


RAN = Ran(Handled({0: b"{}"}, 1))


@dataclass
class Rig:
    """`answers` are given to Execute in turn (then RAN); `faults[kind]` are raised at operations of that kind, None meaning not now.
    `did_commit`: a commit whose result is not known has happened."""

    choreography: Choreography = field(default_factory=form)
    name: str = "payment"
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    undo: Mapping[str, Any] = field(default_factory=dict)
    tells: bool = True
    did_commit: bool = False

    def __post_init__(self) -> None:
        self.catalog = catalog_of(self.name, self.choreography, options=self.options, undo=self.undo)
        self.announced: dict[RecordKey, int] = {}
        self.is_alone = True
        self.presuming = Presuming(self.name, self.limits.horizon_s, lambda: self.is_alone)
        self.pipeline = Pipeline(self.name, self.catalog, self.limits, self.announced, self.presuming, tells=self.tells)
        self.records: dict[RecordKey, Record] = {}
        self.now_ms = NOW_MS
        self.answers: list[Executed] = []
        self.execute_ms = 0
        self.faults: dict[type, list[Exception | None]] = {}
        self.untold: frozenset[UUID] = frozenset()
        self.meanwhile: Callable[[], None] = lambda: None
        self.seen: list[Operation] = []
        self._saved: Sequence[Record] = ()

    def drive(self, steps: Generator[Operation, Any, T]) -> T:
        """To the end; raises what the generator raises."""
        answer: Any = None
        fault: Exception | None = None
        try:
            while True:
                operation = steps.throw(fault) if fault is not None else steps.send(answer)
                self.seen.append(operation)
                waiting = self.faults.get(type(operation), [])
                fault = waiting.pop(0) if waiting else None
                if self.did_commit and isinstance(operation, Commit) and isinstance(fault, StoreUnavailable):
                    self._answer(operation)
                try:
                    answer = None if fault is not None else self._answer(operation)
                except StoreConflict as conflict:
                    answer, fault = None, conflict
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _answer(self, operation: Operation) -> Any:
        match operation:
            case Now():
                return self.now_ms * 1_000_000, 0.5
            case Claim(sagas=sagas):
                return [record for key, record in sorted(self.records.items()) if key.saga_id in sagas]
            case Execute():
                self.now_ms += self.execute_ms
                self.meanwhile()
                return self.answers.pop(0) if self.answers else RAN
            case Save(records=records):
                there = {record.record_key: record.version for record in self.records.values()}
                if any(there.get(record.record_key, 0) != record.version - 1 for record in records):
                    raise StoreConflict("a record is not at the version it was read at any more")
                self._saved = records
            case Commit():
                self.records.update({record.record_key: record for record in self._saved})
                self._saved = ()
            case Rollback():
                self._saved = ()
            case Tell():
                return self.untold
            case Complete():
                return ()
            case _:
                pass
        return None

    def arrive(self, *envelopes: Envelope, attempt: int = 1) -> list[Arrival]:
        return [Arrival.of(self.delivery(one, attempt)) for one in envelopes]

    def delivery(self, one: Envelope, attempt: int = 1) -> Delivery:
        headers, body = encode(one)
        return Delivery(one.channel, headers, body, attempt > 1, attempt)

    def handle(self, *envelopes: Envelope, attempt: int = 1) -> list[Arrival]:
        arrivals = self.arrive(*envelopes, attempt=attempt)
        self.drive(self.pipeline.handle(arrivals))
        return arrivals

    def work(self, step: str, number: int = 0, *, after_ms: int = 0) -> bool:
        self.now_ms += after_ms
        return bool(self.drive(self.pipeline.work(self.key(step, number))))

    def key(self, step: str, number: int = 0) -> RecordKey:
        index = next(i for i, one in enumerate(self.choreography.steps) if one.name == step)
        return RecordKey(envelope(self.choreography, number).saga_id, self.choreography.definition, index)

    def record(self, step: str, number: int = 0) -> Record:
        return self.records[self.key(step, number)]

    def change(self, step: str, number: int = 0, **row: Any) -> None:
        """Somebody else changes the row in the store."""
        record = self.record(step, number)
        self.records[record.record_key] = replace(record, row=record.row._replace(**row), version=record.version + 1)

    def of(self, kind: type[T]) -> list[T]:
        return [one for one in self.seen if isinstance(one, kind)]

    def publications(self) -> list[Publication]:
        return [one for publish in self.of(Publish) for one in publish.publications]

    def said(self) -> list[Envelope]:
        """What was published for records, decoded, and forgotten here."""
        letters = [letter for publication in self.publications() for letter in publication.messages]
        self.seen.clear()
        return [decode(letter.channel, letter.headers, letter.body) for letter in letters]

    def loose(self) -> list[Any]:
        return [letter for publish in self.of(Publish) for letter in publish.loose]

    def acked(self) -> list[Delivery]:
        return [delivery for ack in self.of(Ack) for delivery in ack.deliveries]

    def released(self) -> list[tuple[Delivery, float]]:
        return [(delivery, one.delay_s) for one in self.of(Release) for delivery in one.deliveries]


ONCE = Retry(attempts=1)
