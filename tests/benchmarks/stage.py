"""The servers of a benchmark run: our own PostgreSQL and NATS, whose durability is read back before anything is measured."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import asyncpg

from saga_choreo.testing.postgres_server import PostgresServer
from saga_choreo.testing.servers import NatsServer, free_port

__all__ = ["NotDurable", "Stage", "machine", "staged"]

# What the server must say about itself; anything else would compare speed that nobody may have in production.
_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


class NotDurable(Exception):
    """A server runs with settings that make speed figures worthless."""


@dataclass(frozen=True, slots=True)
class Stage:
    postgres: PostgresServer
    nats: NatsServer
    monitor: int

    def varz(self) -> dict[str, Any]:
        """What the NATS server says about itself."""
        with urlopen(f"http://127.0.0.1:{self.monitor}/varz", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def published(self) -> int:
        """Messages that the streams of the NATS server have taken so far."""
        with urlopen(f"http://127.0.0.1:{self.monitor}/jsz?streams=true", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        streams = (stream for account in found["account_details"] for stream in account["stream_detail"])
        return sum(int(stream["state"]["last_seq"]) for stream in streams)

    def fresh_database(self, name: str) -> str:
        """The URL of a new, empty database: each measurement has its own."""

        async def make() -> None:
            connection = await asyncpg.connect(self.postgres.url)
            await connection.execute(f"CREATE DATABASE {name}")
            await connection.close()

        asyncio.run(make())
        return self.postgres.url.rpartition("/")[0] + "/" + name

    def drop_database(self, name: str) -> None:
        async def drop() -> None:
            connection = await asyncpg.connect(self.postgres.url)
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await connection.execute("CHECKPOINT")
            await connection.close()

        asyncio.run(drop())

    def settings(self) -> dict[str, str]:
        """The durability that is really in force. Raises NotDurable."""

        async def ask() -> dict[str, str]:
            connection = await asyncpg.connect(self.postgres.url)
            said = {name: str(await connection.fetchval(f"SHOW {name}")) for name in (*_DURABLE, "server_version")}
            await connection.close()
            return said

        said = asyncio.run(ask())
        wrong = {name: said[name] for name, wanted in _DURABLE.items() if said[name] != wanted}
        varz = self.varz()
        stream = varz.get("jetstream", {}).get("config", {})
        if wrong or not stream.get("sync_always"):
            raise NotDurable(
                f"PostgreSQL says {wrong or 'nothing wrong'}, NATS says {stream}; run both with every commit synced to disk"
            )
        return said | {"nats_version": str(varz["version"]), "nats_sync_interval": "always"}

    @property
    def servers(self) -> tuple[int, ...]:
        """The processes of both."""
        return tuple(pid for pid in (self.postgres.pid, self.nats.pid) if pid)


@contextmanager
def staged(postgres: dict[str, str] | None = None) -> Iterator[Stage]:
    """`postgres`: settings of the server beside those of every test server."""
    folder = Path(tempfile.mkdtemp(prefix="saga-bench-"))
    folder.chmod(0o755)
    monitor = free_port()
    try:
        with (
            PostgresServer(folder / "pg", settings=postgres) as database,
            NatsServer(folder / "nats", settings=f"http: 127.0.0.1:{monitor}") as nats,
        ):
            yield Stage(database, nats, monitor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_at_start": os.getloadavg(),
    }
