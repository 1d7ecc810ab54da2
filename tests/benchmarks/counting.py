"""What a saga asks of the servers: row writes, round trips and messages, counted from outside, the same way for everybody.

A round trip to PostgreSQL is a request after which the client waits: a simple query or a Sync. They are counted by a relay between
client and server that reads the frontend's messages; rows are what the server's own statistics say, messages what NATS says.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from tests.benchmarks.stage import Stage

__all__ = ["Counts", "counted"]

_WAITS_AFTER = {ord("Q"), ord("S")}
_ROWS = "SELECT sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del) FROM pg_stat_user_tables"
# The server writes its statistics down at the latest this long after a backend has ended.
_STATISTICS_S = 1.5


class Counts:
    """`figures` are there once the block is left, per saga, what a script needs for getting ready included."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.figures: dict[str, float] = {}


class _Relay:
    """Runs in a thread of its own: the script that is counted runs as a child meanwhile, and this process waits for it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.trips = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port, self._loop = server.sockets[0].getsockname()[1], asyncio.get_running_loop()
        self._ready.set()
        await self._over.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        answers = asyncio.create_task(_pump(inner_reader, writer))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                await self._requests(reader, inner_writer)
        finally:
            inner_writer.close()
        await answers

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        has_started = False
        while True:
            head = await reader.readexactly(5 if has_started else 8)
            size = int.from_bytes(head[1:5] if has_started else head[:4], "big")
            if has_started and head[0] in _WAITS_AFTER:
                self.trips += 1
            body = await reader.readexactly(size - 4 if has_started else size - 8)
            # Before the start-up message proper a client may ask for encryption (80877103), which the server declines.
            has_started = has_started or int.from_bytes(head[4:8], "big") == 196608
            writer.write(head + body)
            await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()
    await writer.wait_closed()


@contextmanager
def counted(stage: Stage, url: str, sagas: int) -> Iterator[Counts]:
    relay = _Relay(stage.postgres.port)
    relay.start()
    counts = Counts(url.replace(f":{stage.postgres.port}/", f":{relay.port}/"))
    before = stage.varz()
    try:
        yield counts
    finally:
        relay.stop()
    after = stage.varz()
    inserted, updated, deleted = asyncio.run(_rows(url))
    counts.figures = {
        "round_trips": round(relay.trips / sagas, 2),
        "rows_inserted": round(inserted / sagas, 2),
        "rows_updated": round(updated / sagas, 2),
        "rows_deleted": round(deleted / sagas, 2),
        "messages_to_broker": round((after["in_msgs"] - before["in_msgs"]) / sagas, 2),
        "messages_from_broker": round((after["out_msgs"] - before["out_msgs"]) / sagas, 2),
    }


async def _rows(url: str) -> tuple[int, int, int]:
    await asyncio.sleep(_STATISTICS_S)
    connection = await asyncpg.connect(url)
    row: Any = await connection.fetchrow(_ROWS)
    await connection.close()
    return tuple(int(value or 0) for value in row)  # type: ignore[return-value]  # three columns
