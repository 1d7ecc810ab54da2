"""What the store suite needs to know of a store: how to make one, and in what it differs from the others."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from saga_choreo.model.record import Record, Row
from saga_choreo.ports import Reader, Scans, Store, Transaction, Upkeep

__all__ = ["NOTES", "SERVICE", "AnyStore", "Behaviour", "OwnConnection", "StoreHarness", "StoreTest", "make_record", "saga_id_of"]

SERVICE = "payment"
NOTES = "conformance_note"
_FIRST_MS = 1_700_000_000_000


class AnyStore(Store, Scans, Reader, Protocol):
    """One object that is all three, as the suite expects it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHarness:
    """`make` gives a new store object on the same, initially empty, database each time it is called.

    `url` and `cls` ("module:Class") let subprocesses open it too; `own_connection` opens a transaction of the driver's own
    for `join`, and commits or rolls it back on request. What is left out is skipped by name.
    """

    name: str
    make: Callable[[], AnyStore]
    url: str = ""
    cls: str = ""
    two_clients: bool = True
    own_connection: Callable[[], contextlib.AbstractAsyncContextManager[OwnConnection]] | None = None
    make_newer: Callable[[], Awaitable[None]] | None = None

    def lacks(self, needs: tuple[str, ...]) -> tuple[str, ...]:
        """The needs that this store does not meet."""
        features = self.make().features
        has = {
            "user_transaction": features.user_transaction,
            "sql": features.sql and features.user_transaction,
            "one_writer": features.writers == 1,
            "two_clients": self.two_clients,
            "processes": features.shared and bool(self.url and self.cls),
            "durable": features.durable,
            "join": self.own_connection is not None,
            "upkeep": isinstance(self.make(), Upkeep),
            "letters": features.letters,
            "versions": self.make_newer is not None,
        }
        return tuple(need for need in needs if not has[need])

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncGenerator[AnyStore, None]:
        """A store, opened and closed again."""
        store = self.make()
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    async def note(self, store: AnyStore, transaction: Transaction, text: str) -> None:
        """Write a line as a step's handler would."""
        if store.features.sql:
            await transaction.user.execute(f"INSERT INTO {NOTES} VALUES ({store.features.placeholder})", text)  # noqa: S608  (a constant)
        else:
            await transaction.user.execute("append", NOTES, text)

    async def notes(self, store: AnyStore) -> list[str]:
        """The committed lines."""
        async with store.transaction() as transaction:
            read = ("SELECT text FROM conformance_note",) if store.features.sql else ("read", NOTES)
            return [row[0] for row in await transaction.user.fetch(*read)]

    async def prepare(self, store: AnyStore) -> None:
        """Make the table of the notes."""
        if store.features.sql and store.features.user_transaction:
            async with store.transaction() as transaction:
                await transaction.user.execute(f"CREATE TABLE IF NOT EXISTS {NOTES} (text TEXT)")
                await transaction.commit()


class OwnConnection(Protocol):
    """A driver's own connection with an open transaction."""

    @property
    def raw(self) -> Any: ...
    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...


StoreTest = Callable[[StoreHarness], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One sentence that must hold of every store, the test of it, and what a store needs for it to apply."""

    name: str
    test: StoreTest
    needs: tuple[str, ...] = ()


def saga_id_of(number: int) -> UUID:
    """The n-th saga: ids grow with the number, one millisecond apart."""
    return UUID(int=((_FIRST_MS + number) << 80) | (7 << 76) | (2 << 62) | number)


def make_record(number: int = 0, **changes: Any) -> Record:
    """A new record of the n-th saga. Keyword arguments are fields of Record, or of its Row."""
    row: dict[str, Any] = {name: changes.pop(name) for name in tuple(changes) if name in Row._fields}
    values: dict[str, Any] = {
        "service": SERVICE,
        "saga_id": saga_id_of(number),
        "definition": "d" * 64,
        "step": 1,
        "choreography": "order-processing",
        "origin": "order",
        "version": 1,
        "changed_ms": 1_000,
    }
    return Record(row=Row(**row), **{**values, **changes})
