"""The stage: a directory, a broker, four services, and the demo's own connections to them. All of it goes when the block is left.

Doors are left in the order opposite to how they were opened: connections, services, server, directory.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from saga_choreo.demo.processes import Service, command, environment, stop_all
from saga_choreo.demo.story import PACKAGE, SERVICES, Example
from saga_choreo.demo.wire import Wire, listening
from saga_choreo.runtime.plugins import WholeStore, make_store
from saga_choreo.testing.servers import NatsServer

__all__ = ["Audience", "Connections", "connections", "running_services", "workplace"]


class Audience(Protocol):
    """Who watches: remarks that stay, and one line of progress that is replaced."""

    def say(self, text: str) -> None: ...
    def progress(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Connections:
    """The demo's own: the broker as a stranger hears it, and the services' stores, to read in."""

    wire: Wire
    stores: Mapping[str, WholeStore]


@contextmanager
def workplace(root: Path, audience: Audience) -> Generator[tuple[Path, Callable[[], None]]]:
    """A directory for this run; call what comes with it to keep the directory. An error keeps it too, for its logs."""
    (root / ".demo").mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=root / ".demo"))
    kept: list[bool] = []
    audience.say(f"databases and logs are in {directory}")
    try:
        yield directory, lambda: kept.append(True)
    except Exception:
        kept.append(True)
        raise
    finally:
        if kept:
            audience.say(f"databases and logs are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def running_services(
    directory: Path, root: Path, audience: Audience
) -> AsyncGenerator[tuple[str, Mapping[str, Service], list[str]]]:
    """Server and services. Gives the broker's URL, the services, and a list that the services' unclean ends are put on."""
    troubles: list[str] = []
    program = command()
    with NatsServer(directory / "nats") as server:
        audience.say(f"NATS with JetStream (sync_interval: always) is process {server.pid} on {server.url}")
        services = {
            name: Service(name, (*program, "run", f"{PACKAGE}.{name}:agent"), directory, root, server.url) for name in SERVICES
        }
        try:
            for service in services.values():
                service.start()
                audience.say(f"service {service.name} is process {service.pid}, its database {service.database.name}")
            yield server.url, services, troubles
        finally:
            troubles += [
                f"service {one.name!r} did not stop cleanly (exit code {one.exit_code}); its log ends:\n{one.log_end()}"
                for one in await stop_all(services.values())
            ]


@asynccontextmanager
async def connections(example: Example, services: Mapping[str, Service], broker_url: str) -> AsyncGenerator[Connections]:
    """Listen to the broker, open the stores to read in, and make the order service's agent a client in this process."""
    async with AsyncExitStack() as stack:
        stack.enter_context(_settings(broker_url, services["order"]))
        wire = await stack.enter_async_context(listening(broker_url))
        stores: dict[str, WholeStore] = {}
        for service in services.values():
            stores[service.name] = store = make_store(service.store_url)
            stack.push_async_callback(store.close)
            await store.open()
        await stack.enter_async_context(example.agent.client())
        yield Connections(wire, stores)


@contextmanager
def _settings(broker_url: str, service: Service) -> Generator[None]:
    """What the agent reads from the environment, and a file for what the toolkit logs in this process."""
    before = dict(os.environ)
    log = logging.getLogger("saga_choreo")
    handler = logging.FileHandler(service.log.with_name("demo.log"))
    propagated, log.propagate = log.propagate, False
    log.addHandler(handler)
    os.environ.clear()
    os.environ.update(environment(before, broker_url, service.store_url))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        log.removeHandler(handler)
        log.propagate = propagated
        handler.close()
