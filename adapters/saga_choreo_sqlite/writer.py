"""The one write connection of a process, and the queue before it.

SQLite has one writer at a time. Inside the process writers queue in order of arrival; against other processes the write
lock is asked for without blocking (busy time-out 0) and again after a short, jittered pause, so the event loop never
stands still. COMMIT waits for the disk and runs in a thread, unless everything is to run in line (simulation, memory).

When the process dies: before COMMIT nothing of the transaction remains; inside COMMIT all or nothing; after it, all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import apsw

from saga_choreo.errors import StoreConflict, StoreUnavailable
from saga_choreo.ports import Clock
from saga_choreo_sqlite.connect import Guard
from saga_choreo_sqlite.driver import Connection
from saga_choreo_sqlite.faults import translated
from saga_choreo_sqlite.statements import BEGIN, COMMIT, ROLLBACK
from saga_choreo_sqlite.turns import Turns

__all__ = ["Patience", "Writer"]

T = TypeVar("T")

# Between two looks at a lock that another process holds: short, because the lock is usually held for one fsync (1-5 ms), and
# because nobody hands it over. Four processes that wrote without pause for 20 s on two cores: p99 45 ms, longest wait 0.2 s.
_FIRST_PAUSE_S = 0.000_5
_PAUSE_MAX_S = 0.003


class Patience:
    """Growing, jittered pauses up to a bound. `wait` raises `gives_up` once the bound is passed."""

    def __init__(self, clock: Clock, limit_s: float) -> None:
        self._clock = clock
        self._until = clock.monotonic() + limit_s
        self._pause_s = _FIRST_PAUSE_S

    async def wait(self, gives_up: Exception) -> None:
        if self._clock.monotonic() >= self._until:
            raise gives_up
        await self._clock.sleep(self._pause_s * (0.5 + self._clock.chance() / 2))
        self._pause_s = min(self._pause_s * 1.5, _PAUSE_MAX_S)


class Writer:
    """Hands out the write connection inside an open transaction; `commit` or `rollback` must follow `begin`."""

    def __init__(self, path: str, clock: Clock, guard: Guard, *, inline: bool, full: bool, busy_wait_s: float) -> None:
        self.path = path
        self._full = full
        self._clock = clock
        self._guard = guard
        self._inline = inline
        self._busy_wait_s = busy_wait_s
        self._connect: Callable[[], Connection] | None = None
        self._connection: Connection | None = None
        self._turns = Turns()
        self._relaxed = False
        self._thread: ThreadPoolExecutor | None = None

    def start(self, connection: Connection, connect: Callable[[], Connection]) -> None:
        """Use this connection; `connect` makes another after a commit that failed."""
        self._connection, self._connect = connection, connect

    async def begin(self, *, durable: bool = True) -> Connection:
        """Wait for the turn and the write lock, bounded. Raises StoreConflict when the bound is passed, StoreUnavailable."""
        await self._take_turn()
        try:
            if not durable:
                self._sync("NORMAL")
            patience: Patience | None = None
            while (connection := self._try_begin()) is None:
                patience = patience or Patience(self._clock, self._busy_wait_s)
                await patience.wait(self._too_busy())
        except BaseException:
            self._give_turn()
            raise
        return connection

    def begin_now(self) -> Connection:
        """`begin` for callers that cannot wait. Raises StoreConflict when the lock is not free at once."""
        if not self._turns.try_take():
            raise self._too_busy()
        try:
            connection = self._try_begin()
            if connection is None:
                raise self._too_busy()
        except BaseException:
            self._turns.give()
            raise
        return connection

    async def commit(self) -> None:
        """Raises StoreConflict: it did not happen. StoreUnavailable: nobody knows."""
        connection = self._open_connection()
        try:
            await self.off_loop(lambda: self._say(connection, COMMIT))
        except (apsw.BusyError, apsw.ConstraintError) as error:
            said = f"{type(error).__name__}: {error}"
            raise StoreConflict(f"the commit to {self.path!r} was refused and did not happen ({said})") from error
        except apsw.Error as error:
            self._discard()
            raise StoreUnavailable(
                f"the commit to {self.path!r} failed ({type(error).__name__}: {error}) and it is unknown whether it happened; "
                "check the disk: the messages come again and decide"
            ) from error
        finally:
            self.rollback()

    def rollback(self) -> None:
        """End the transaction, if there still is one, and let the next writer in."""
        connection = self._connection
        try:
            if connection is not None and connection.in_transaction:
                self._say(connection, ROLLBACK)
        except apsw.Error:
            self._discard()
        finally:
            self._give_turn()

    async def run(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """One short transaction of the store's own. Not `durable`: a power cut may undo it, later commits carry it along."""
        connection = await self.begin(durable=durable)
        try:
            answer = work(connection)
        except apsw.Error as error:
            self.rollback()
            raise translated(error, self.path, "writing") from error
        except BaseException:
            self.rollback()
            raise
        await self.commit()
        return answer

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncGenerator[Connection, None]:
        """The connection between two transactions: how a database in memory, which has only this one, is read."""
        await self._take_turn()
        try:
            yield self._open_connection()
        finally:
            self._turns.give()

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run what waits for the disk, in a thread. A cancellation passes through after the work is over, never before."""
        if self._inline:
            return work()
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="saga-choreo-sqlite")
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({future})
            if not future.cancelled():
                future.exception()  # looked at, so that asyncio does not report it: the cancellation goes first
            raise

    async def close(self) -> None:
        """Wait for the open transaction, bounded, then close. The last one to close a file check-points its WAL."""
        taken = False
        with contextlib.suppress(StoreConflict):
            await self._take_turn()
            taken = True
        connection, self._connection, self._connect = self._connection, None, None
        try:
            if connection is not None:
                await self.off_loop(connection.close)
        finally:
            if taken:
                self._turns.give()
            if self._thread is not None:
                self._thread.shutdown(wait=True)
                self._thread = None

    def crash(self) -> None:
        """Close in the middle of whatever is under way, as the end of the process would."""
        self._connect = None
        self._discard()

    def say(self, connection: Connection, statement: str) -> None:
        """Run a statement that only this adapter may (savepoints)."""
        self._say(connection, statement)

    async def _take_turn(self) -> None:
        try:
            await self._turns.take(self._busy_wait_s)
        except TimeoutError:
            raise self._too_busy() from None

    def _give_turn(self) -> None:
        try:
            if self._relaxed:
                self._sync("FULL")
        except apsw.Error:
            self._discard()
        finally:
            self._relaxed = False
            self._turns.give()

    def _sync(self, level: str) -> None:
        """Only between transactions. A file that is relaxed anyway, or in memory, is left as it is."""
        if self._full:
            self._say(self._open_connection(), f"PRAGMA synchronous = {level}")
            self._relaxed = level != "FULL"

    def _try_begin(self) -> Connection | None:
        connection = self._open_connection()
        try:
            self._say(connection, BEGIN)
        except apsw.BusyError:
            return None
        except apsw.Error as error:
            raise translated(error, self.path, "beginning a transaction") from error
        return connection

    def _open_connection(self) -> Connection:
        if self._connection is None:
            if self._connect is None:
                raise StoreUnavailable(
                    f"the store on {self.path!r} is not open; await store.open() first, and use it before close()"
                )
            try:
                self._connection = self._connect()
            except apsw.Error as error:
                raise translated(error, self.path, "connecting again") from error
        return self._connection

    def _say(self, connection: Connection, statement: str) -> None:
        with self._guard.ours():
            connection.execute(statement)

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.close()

    def _too_busy(self) -> StoreConflict:
        return StoreConflict(
            f"the write lock of the SQLite file {self.path!r} was not free within {self._busy_wait_s} s; the same work "
            "may be tried again. If it stays so, look for a transaction that is left open "
            "(another process, or a step to be declared external=True)"
        )
