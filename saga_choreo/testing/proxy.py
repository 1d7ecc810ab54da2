"""A TCP proxy that misbehaves on demand: cuts, swallows one direction or both, delays. Seeded, in this process, no root needed."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from saga_choreo.testing.servers import free_port

__all__ = ["FaultProxy"]

Direction = Literal["up", "down"]

_CHUNK_BYTES = 64 * 1024
_HOST, _NET = b"127.0.0.1", b"127."


@dataclass
class _Way:
    """One direction. Bytes held back while `open` is not set are delivered afterwards, in order, as a healed network would."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0
    jitter_s: float = 0.0


class _Address:
    """A server's address in Kafka's binary form: the host's name, then the port in four bytes. It may fall between two chunks."""

    def __init__(self, target: int, port: int) -> None:
        self._theirs, self._ours = (_HOST + number.to_bytes(4, "big") for number in (target, port))
        self._held = b""

    def replace_in(self, chunk: bytes) -> bytes:
        chunk = (self._held + chunk).replace(self._theirs, self._ours)
        # No server ends what it says in the middle of its address, so holding this back never keeps a client waiting.
        cut = next((n for n in range(len(self._theirs) - 1, len(_NET) - 1, -1) if chunk.endswith(self._theirs[:n])), 0)
        self._held = chunk[len(chunk) - cut :]
        return chunk[: len(chunk) - cut]


class FaultProxy:
    """`async with FaultProxy(port) as proxy:` listens on `proxy.port`, which is known before, and forwards to 127.0.0.1:`port`.

    `connections` counts what was accepted, so that a test can see how often a client tried; `connected_at` says when. A server
    that tells its clients where it is, as Kafka does, would lead them past the proxy: its address is replaced by the proxy's in
    what it says.
    """

    def __init__(self, port: int, *, listen: int = 0, seed: int = 0) -> None:
        self.target = port
        self.port = listen or free_port()
        self.connections = 0
        self.connected_at: list[float] = []
        self._refuses = False
        self._random = random.Random(seed)  # noqa: S311  (faults that can be played again)
        self._ways: dict[Direction, _Way] = {"up": _Way(), "down": _Way()}
        for way in self._ways.values():
            way.open.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        handlers = list(self._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    def cut(self) -> None:
        """Reset every open connection (RST, as a firewall or a dying host does)."""
        for writer in list(self._writers):
            _reset(writer)

    @contextmanager
    def refusing(self) -> Generator[None]:
        """As if the server were down: what is open is reset, and whoever connects is, too."""
        self._refuses = True
        self.cut()
        try:
            yield
        finally:
            self._refuses = False

    @contextmanager
    def black_hole(self, *directions: Direction) -> Generator[None]:
        """Nothing passes in these directions (both, if none is named) and nobody is told. Then all of it passes."""
        ways = [self._ways[direction] for direction in directions or ("up", "down")]
        for way in ways:
            way.open.clear()
        try:
            yield
        finally:
            for way in ways:
                way.open.set()

    def delay(self, seconds: float, *, jitter_s: float = 0.0, directions: tuple[Direction, ...] = ("up", "down")) -> None:
        """Every chunk waits this long, plus a random part of the jitter."""
        for direction in directions:
            self._ways[direction].delay_s, self._ways[direction].jitter_s = seconds, jitter_s

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connected_at.append(asyncio.get_running_loop().time())
        if self._refuses:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        writers = {writer}
        self._writers.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            writers.add(up_writer)
            self._writers.add(up_writer)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, up_writer, self._ways["up"]))
                pumps.create_task(self._pump(up_reader, writer, self._ways["down"], _Address(self.target, self.port)))
        except (OSError, ExceptionGroup):
            pass  # one side is gone: so is the other, below
        except asyncio.CancelledError:
            pass  # only `__aexit__` cancels; asyncio's streams of 3.11 report a cancelled handler as an error
        finally:
            for each in writers:
                _reset(each)
            self._writers -= writers
            self._handlers.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way, address: _Address | None = None
    ) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            if address is not None:
                chunk = address.replace_in(chunk)
            if way.delay_s or way.jitter_s:
                await asyncio.sleep(way.delay_s + way.jitter_s * self._random.random())
            await way.open.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError("end of stream")


def _reset(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    if peer is not None and peer.fileno() != -1:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
