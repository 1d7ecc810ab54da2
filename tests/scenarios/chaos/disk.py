"""A disk that is full: a small file system of its own, which takes root to make. Where that is not given, the scenario says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from saga_choreo.errors import ConfigurationError
from saga_choreo.testing.postgres_server import PostgresServer
from tests.scenarios.chaos.place import Place

__all__ = ["SIZES", "broker_disk_full", "disk_full", "postgres", "small"]

# Enough for the files of a calm run; PostgreSQL's log of changes alone starts at 16 MiB, RabbitMQ stops at 50 MB free.
SIZES = {"sqlite": "32m", "postgres": "160m", "nats": "64m", "rabbitmq": "250m", "kafka": "250m"}
_FULL_S = 5.0


@contextmanager
def small(folder: Path, size: str) -> Generator[None]:
    """Raises ConfigurationError where nothing can be mounted."""
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        raise ConfigurationError("a small file system can only be mounted by root; run this scenario as root")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise ConfigurationError(f"a small file system could not be mounted: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@contextmanager
def postgres(folder: Path) -> Generator[PostgresServer]:
    folder.chmod(0o755)
    server = PostgresServer(folder / "disk" / "postgres", settings={"min_wal_size": "32MB", "max_wal_size": "64MB"})
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def disk_full(place: Place, sagas: int) -> int:
    """Not a byte is free for a while, under load. A database that ended itself over it is started again."""
    async with place.under_load(sagas):
        with _filled(place):
            await asyncio.sleep(_FULL_S)
        if place.database is not None:
            place.database.kill()
            place.database.start()
    return 1


async def broker_disk_full(place: Place, sagas: int) -> int:
    """The same on the broker's disk: it blocks publishers, refuses, or ends itself over it."""
    server = place.broker_server
    assert server is not None
    async with place.under_load(sagas):
        with _filled(place):
            await asyncio.sleep(_FULL_S)
        server.kill()
        server.start()
    return 1


@contextlib.contextmanager
def _filled(place: Place) -> Generator[None]:
    filler = place.folder / "disk" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()
