"""What breaks a RabbitMQ server for the conformance suite, behind the adapter's back."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aio_pika
from aio_pika.abc import AbstractChannel

from saga_choreo.ports import Broker
from saga_choreo.testing.brokers import Certificate
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo.testing.servers import free_port
from saga_choreo_rabbitmq.broker import RabbitMqBroker
from tests.conformance.certificates import Certificates

__all__ = ["Guarded", "Place", "blocked", "channel_of", "clean", "disconnect", "drop", "drop_queue", "purge", "put_aside"]


@asynccontextmanager
async def channel_of(server: RabbitMqServer) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(server.url) as connection:
        yield await connection.channel()


def _queues(server: RabbitMqServer) -> list[str]:
    return server.ctl("--silent", "list_queues", "name").splitlines()


async def drop(server: RabbitMqServer, prefix: str, *, channels: bool) -> None:
    """The queues of the services; with `channels` all queues and the exchange."""
    wanted = f"{prefix}." if channels else f"{prefix}.service."
    async with channel_of(server) as channel:
        for queue in _queues(server):
            if queue.startswith(wanted):
                await channel.queue_delete(queue)
        if channels:
            await channel.exchange_delete(prefix)


async def drop_queue(server: RabbitMqServer, queue: str) -> None:
    async with channel_of(server) as channel:
        await channel.queue_delete(queue)


async def clean(server: RabbitMqServer) -> None:
    """What earlier behaviours left: hundreds of queues would make each restart slow."""
    async with channel_of(server) as channel:
        for queue in _queues(server):
            await channel.queue_delete(queue)


async def purge(server: RabbitMqServer, prefix: str) -> None:
    async with channel_of(server) as channel:
        for queue in _queues(server):
            if queue.startswith(f"{prefix}.") and not queue.endswith(".defs"):  # a stream cannot be purged
                await (await channel.get_queue(queue, ensure=False)).purge()


@asynccontextmanager
async def blocked(server: RabbitMqServer) -> AsyncIterator[None]:
    """A memory alarm: the server reads nothing more from connections that publish."""
    server.ctl("set_vm_memory_high_watermark", "0")
    try:
        yield
    finally:
        server.ctl("set_vm_memory_high_watermark", "absolute", "1GB")


async def disconnect(server: RabbitMqServer) -> None:
    await asyncio.to_thread(server.ctl, "close_all_connections", "a test says so")


async def put_aside(server: RabbitMqServer, prefix: str) -> list[bytes]:
    """What is in the queue of the undeliverable; it stays there."""
    async with channel_of(server) as channel:
        queue = await channel.get_queue(f"{prefix}.undeliverable", ensure=False)
        bodies: list[bytes] = []
        while (message := await queue.get(fail=False)) is not None:
            bodies.append(message.body)
        return bodies


class Guarded:
    """One server for all behaviours: certificates are read again when Erlang's cache of them is emptied. It is set back only where the
    behaviour before has changed it: each setting costs the start of an Erlang."""

    def __init__(self, folder: Path, server: Callable[[str, int], RabbitMqServer]) -> None:
        self._certificates = Certificates(folder)
        self._shown = folder / "shown"
        self._shown.mkdir()
        self._put("good")
        self._password: Literal["first", "second"] = "first"
        self._certificate: Certificate = "good"
        self.prefix = ""
        settings = (
            "default_user = agent\n"
            "default_pass = first-s3cret\n"
            f"ssl_options.cacertfile = {self._certificates.issuer}\n"
            f"ssl_options.certfile = {self._shown / 'cert.pem'}\n"
            f"ssl_options.keyfile = {self._shown / 'key.pem'}\n"
        )
        self.server = server(settings, free_port())

    def _put(self, certificate: Certificate) -> None:
        key, cert = self._certificates.of(certificate)
        shutil.copy(key, self._shown / "key.pem")
        shutil.copy(cert, self._shown / "cert.pem")

    @asynccontextmanager
    async def entered(self, prefix: str) -> AsyncIterator[Guarded]:
        self.prefix = prefix
        if self._password != "first":
            await self.accept("first")
        if self._certificate != "good":
            await self.present("good")
        yield self

    def url(self, user: str) -> str:
        return f"amqps://{user}@localhost:{self.server.tls_port}?ca_file={self._certificates.issuer}"

    def broker(self, which: Literal["first", "second"] = "first") -> Broker:
        return RabbitMqBroker(f"{self.url(f'agent:{which}-s3cret')}&publish_timeout=3&open_timeout=5&settle=0", prefix=self.prefix)

    async def accept(self, which: Literal["first", "second"]) -> None:
        self._password = which
        await asyncio.to_thread(self.server.ctl, "change_password", "agent", f"{which}-s3cret")
        await disconnect(self.server)

    async def present(self, certificate: Certificate) -> None:
        self._certificate = certificate
        self._put(certificate)
        await asyncio.to_thread(self.server.ctl, "eval", "ssl:clear_pem_cache().")

    async def put_out(self) -> None:
        await disconnect(self.server)


@dataclass
class Place:
    """A server, and a prefix on it that nobody else uses."""

    server: RabbitMqServer
    prefix: str

    def broker(self, options: str = "") -> RabbitMqBroker:
        url = f"amqp://127.0.0.1:{self.server.port}?settle=0&publish_timeout=3{options}"
        return RabbitMqBroker(url, prefix=self.prefix)

    @property
    def queue(self) -> str:
        return f"{self.prefix}.service.payment"
