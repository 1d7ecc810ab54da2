"""A participant's store with a few sagas in it, written through the store port: in SQLite unless a test says where."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

from saga_choreo import Choreography, ChoreographyStep
from saga_choreo.model.ids import saga_id_at
from saga_choreo.ports import ORIGIN, BusinessKey, Cause, Outcome, Parked, Record, Row, State
from saga_choreo.runtime.plugins import make_store

__all__ = ["CANCELLED", "DONE", "ORDERS", "RUNNING", "START_MS", "fill", "fill_at"]

START_MS = 1_700_000_000_000
ORDERS = (
    Choreography("orders")
    .starts_with("order.created")
    .step(
        ChoreographyStep("charge").on_event("order.created").publish_event("payment.charged").with_compensation().owned_by("shop"),
        ChoreographyStep("ship").on_event("payment.charged").publish_event("order.shipped").owned_by("shop"),
    )
)


def _saga_id(number: int) -> UUID:
    return saga_id_at(START_MS + number * 1000, bytes([number]) * 10)


DONE, RUNNING, CANCELLED = _saga_id(1), _saga_id(2), _saga_id(3)


def _record(saga_id: UUID, step: int, row: Row, key: str, **more: str) -> Record:
    return Record(
        service="shop",
        saga_id=saga_id,
        definition=ORDERS.definition,
        step=step,
        row=row,
        choreography="orders",
        origin="shop",
        key=key,
        version=1,
        changed_ms=START_MS + 5000,
        **more,
    )


def _records() -> list[Record]:
    done = Row(State.DONE, outcome=Outcome.COMPLETED, done_in=1)
    return [
        _record(DONE, ORIGIN, Row(State.COMPLETED, outcome=Outcome.COMPLETED), "ORDER-1"),
        _record(DONE, 0, done, "ORDER-1"),
        _record(DONE, 1, done, "ORDER-1"),
        _record(RUNNING, ORIGIN, Row(State.OPEN), "ORDER-2"),
        _record(RUNNING, 0, Row(State.WAITING, Parked.PARKED, done_in=1, attempt=5), "ORDER-2", error="card service is down"),
        _record(RUNNING, 1, Row(State.WAITING), "ORDER-2"),
        _record(
            CANCELLED, ORIGIN, Row(State.ABORTED, outcome=Outcome.ABORTED, cause=Cause.CANCELLED), "ORDER-3", reason="ordered twice"
        ),
        _record(CANCELLED, 0, Row(State.COMPENSATED, outcome=Outcome.ABORTED, done_in=1), "ORDER-3"),
    ]


async def fill_at(url: str) -> None:
    store = make_store(url)
    await store.open()
    try:
        async with store.transaction() as tx:
            await tx.save(_records())
            for number, saga_id in enumerate((DONE, RUNNING, CANCELLED), start=1):
                key = BusinessKey(service="shop", choreography="orders", key=f"ORDER-{number}", saga_id=saga_id, digest="d")
                await tx.register(key)
            await tx.commit()
        await store.remember(ORDERS.definition, ORDERS.canonical_bytes, ["shop"])
    finally:
        await store.close()


def fill(folder: Path) -> str:
    """The store's URL."""
    url = f"sqlite:///{folder}/shop.db"
    asyncio.run(fill_at(url))
    return url
