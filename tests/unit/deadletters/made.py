"""Records, letters and jobs for the pure parts of replays."""

from __future__ import annotations

from typing import Any

from saga_choreo import Choreography, ChoreographyStep
from saga_choreo.core.graph import plan_of
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record, Resolution, Row
from saga_choreo.ports import Job
from saga_choreo.runtime.deadletters.letter import DeadLetter, LetterKind

__all__ = ["NOW_MS", "ORDERS", "PLAN", "SAGA", "envelope", "job", "letter", "record", "word"]

NOW_MS = 1_800_000_000_000
ORDERS = (
    Choreography("orders")
    .starts_with("order.created")
    .step(
        ChoreographyStep("charge").on_event("order.created").publish_event("payment.charged").with_compensation().owned_by("shop")
    )
)
PLAN = plan_of(ORDERS)
SAGA = saga_id_at(NOW_MS - 60_000, bytes(10))


def record(row: Row | None = None, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "service": "shop",
        "saga_id": SAGA,
        "definition": ORDERS.definition,
        "step": 0,
        "row": row or Row(done_in=1),
        "choreography": "orders",
        "origin": "web",
        "version": 1,
        "changed_ms": NOW_MS,
    }
    return Record(**values | changes)


def word(number: int) -> Resolution:
    return Resolution("retry", "ana", "because", NOW_MS, 2, number)


def envelope(**changes: Any) -> Envelope:
    values: dict[str, Any] = {
        "kind": MessageKind.DONE,
        "saga_id": SAGA,
        "choreography": "orders",
        "definition": ORDERS.definition,
        "origin": "web",
        "sender": "web",
        "channel": Channel(ChannelKind.EVENT, "order.created"),
        "from_step": "origin",
        "event": EventRef("order.created"),
        "payload": b"{}",
    }
    return Envelope(**values | changes)


def letter(**changes: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "id": "m1",
        "kind": LetterKind.MESSAGE,
        "service": "shop",
        "state": "open",
        "code": "stale",
        "detail": "too old",
        "group": "g",
        "saga_id": str(SAGA),
        "definition": ORDERS.definition,
    }
    return DeadLetter(**values | changes)


def job(**changes: Any) -> Job:
    return Job(**{"id": "j", "service": "shop", "operator": "ana", "reason": "because", "total": 10} | changes)
