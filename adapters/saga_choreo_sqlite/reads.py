"""Reads: on a connection of their own that cannot write, so that they see what is committed and wait for nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import apsw

from saga_choreo.errors import StoreConflict, StoreUnavailable
from saga_choreo.ports import Clock
from saga_choreo_sqlite.driver import Connection
from saga_choreo_sqlite.faults import translated
from saga_choreo_sqlite.writer import Patience, Writer

__all__ = ["Reads"]

T = TypeVar("T")


class Reads:
    """A database in memory has one connection only: there a read waits (bounded) until the open transaction has ended."""

    def __init__(self, path: str, clock: Clock, writer: Writer, *, busy_wait_s: float) -> None:
        self._path = path
        self._clock = clock
        self._writer = writer
        self._busy_wait_s = busy_wait_s
        self._connection: Connection | None = None
        self._shares_writer = False

    def start(self, connection: Connection | None) -> None:
        """Read on this connection; None: on the writer's, between its transactions."""
        self._connection, self._shares_writer = connection, connection is None

    async def run(self, work: Callable[[Connection], T]) -> T:
        """All of `work` sees one state of the database. Raises StoreConflict, StoreUnavailable."""
        if self._shares_writer:
            async with self._writer.quiet() as connection:
                return self._once(connection, work)
        patience: Patience | None = None
        while True:
            if self._connection is None:
                raise StoreUnavailable(
                    f"the store on {self._path!r} is not open; await store.open() first, and use it before close()"
                )
            try:
                return self._once(self._connection, work)
            except StoreConflict as busy:
                # Only while another process opens, recovers or closes the file.
                patience = patience or Patience(self._clock, self._busy_wait_s)
                await patience.wait(busy)

    def close(self) -> None:
        connection, self._connection, self._shares_writer = self._connection, None, False
        if connection is not None:
            connection.close()

    def _once(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        try:
            if self._shares_writer:
                return work(connection)
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise translated(error, self._path, "reading") from error
