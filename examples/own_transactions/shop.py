"""What the three programs share: the events, the choreography, and a PostgreSQL to run on."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from saga_choreo import Choreography, ChoreographyStep, Event

__all__ = ["BROKER", "TABLE", "OrderPlaced", "form", "postgres"]

BROKER = "memory://own-transactions"
TABLE = "create table if not exists orders (name text primary key, state text not null)"


class OrderPlaced(Event, name="order.placed"):
    name: str


form = (
    Choreography("orders")
    .starts_with(OrderPlaced)
    .step(ChoreographyStep("confirm").on_event(OrderPlaced).with_compensation().owned_by("shop"))
    .deadline(minutes=5)
)


@contextmanager
def postgres() -> Generator[str]:
    """SAGA_STORE_URL, or a server of our own for as long as the block is open."""
    given = os.environ.get("SAGA_STORE_URL", "")
    if given:
        yield given
        return
    from saga_choreo.testing.postgres_server import PostgresServer

    with TemporaryDirectory(prefix="own-transactions-") as folder, PostgresServer(folder) as server:
        yield server.url
