"""What breaks a NATS server for the conformance suite, behind the adapter's back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import nats
from nats.js.errors import NotFoundError

from saga_choreo.ports import Broker
from saga_choreo.testing.brokers import Certificate, GuardedServer
from saga_choreo.testing.servers import NatsServer
from saga_choreo_nats.broker import NatsBroker
from tests.conformance.certificates import Certificates

__all__ = ["blocked", "cramped", "disconnect", "drop_bindings", "drop_channels", "drop_letters", "guarded", "purge"]


@asynccontextmanager
async def _jetstream(url: str) -> AsyncIterator[Any]:
    client = await nats.connect(url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def drop_bindings(url: str) -> None:
    async with _jetstream(url) as js:
        for stream in await js.streams_info():
            for consumer in await js.consumers_info(stream.config.name):
                await js.delete_consumer(stream.config.name, consumer.name)


async def drop_channels(url: str) -> None:
    async with _jetstream(url) as js:
        for stream in await js.streams_info():
            await js.delete_stream(stream.config.name)


async def drop_letters(url: str) -> None:
    async with _jetstream(url) as js:
        with contextlib.suppress(NotFoundError):
            await js.delete_stream("saga_dlq")


async def purge(url: str) -> None:
    async with _jetstream(url) as js:
        for stream in await js.streams_info():
            await js.purge_stream(stream.config.name)


@asynccontextmanager
async def blocked(url: str) -> AsyncIterator[None]:
    """The event stream may hold one message, and has more."""
    async with _jetstream(url) as js:
        config = (await js.stream_info("saga_events")).config
        await js.update_stream(config, max_msgs=1)
        yield
        await js.update_stream(config, max_msgs=-1)


def cramped(url: str) -> Broker:
    return NatsBroker(f"{url}?events_max_bytes=100000")


async def disconnect(server: NatsServer) -> None:
    server.restart()


class _Guarded:
    """Settings are read again on SIGHUP; whoever came with a password that is no longer right is put out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._certificates = Certificates(folder)
        self._password: Literal["first", "second"] = "first"
        self._certificate: Certificate = "good"
        self.server = NatsServer(folder / "server", settings=self._settings())

    def _settings(self) -> str:
        key, certificate = self._certificates.of(self._certificate)
        return (
            f'authorization {{ user: agent, password: "{self._password}-s3cret" }}\n'
            f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
        )

    def broker(self, which: Literal["first", "second"] = "first") -> Broker:
        options = f"ca_file={self._certificates.issuer}&publish_timeout=3&open_timeout=4"
        return NatsBroker(f"tls://agent:{which}-s3cret@localhost:{self.server.port}?{options}")

    async def accept(self, which: Literal["first", "second"]) -> None:
        self._password = which
        await self._read_again()

    async def present(self, certificate: Certificate) -> None:
        self._certificate = certificate
        await self._read_again()

    async def put_out(self) -> None:
        self.server.restart()

    async def _read_again(self) -> None:
        log = self.server.log
        before = log.read_text(errors="replace").count("Reloaded server configuration")
        self.server.write_settings(self._settings())
        assert self.server.pid is not None
        self.server.send(signal.SIGHUP)
        async with asyncio.timeout(10):
            while log.read_text(errors="replace").count("Reloaded server configuration") <= before:  # noqa: ASYNC110  (a poll with a deadline)
                await asyncio.sleep(0.02)


@asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[GuardedServer]:
    guard = _Guarded(folder)
    with guard.server:
        yield guard
