"""One NATS server for all scenarios that do not hurt it; each world has a prefix of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from saga_choreo.memory.store import MemoryStore
from saga_choreo.testing.servers import NatsServer

_numbers = itertools.count()


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server.url


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A server this test may stop and kill; not started yet."""
    server = NatsServer(tmp_path / "nats")
    yield server
    server.stop()


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/{{service}}.db"


@pytest.fixture(params=["memory", "nats and sqlite"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Broker and store: the test holds of the memory ones and of real ones alike."""
    if request.param == "memory":
        name = f"place-{next(_numbers)}"
        yield f"memory://{name}", f"memory://{name}-{{service}}"
        for service in ("inventory", "payment", "shop"):
            MemoryStore.drop(f"{name}-{service}")
    else:
        yield request.getfixturevalue("nats_url"), request.getfixturevalue("store")
