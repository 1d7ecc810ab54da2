"""Where the servers that tests need come from, in one place for the tests and for `make services`.

In this order: the one that a URL variable names; a container, where the package `testcontainers` is installed and a Docker engine
answers; a local server out of wheels, Debian packages or Maven. What cannot be had is a ConfigurationError that says what to do.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo.testing.broker_harness import ServerControl
from saga_choreo.testing.kafka_jars import KAFKA_VERSION, find_jars, find_java
from saga_choreo.testing.kafka_server import KafkaServer
from saga_choreo.testing.postgres_server import PostgresServer
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo.testing.redis_server import RedisServer
from saga_choreo.testing.servers import NatsServer, free_port

__all__ = ["SERVICES", "Found", "Service", "find", "reason_missing"]

_CONTAINER_READY_S = 120.0


class LocalServer(ServerControl, Protocol):
    """A server of ours, as a child process."""

    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class Found:
    """`server` is None where it is not ours to stop and kill: given by a variable."""

    url: str
    server: LocalServer | None = None


@dataclass(frozen=True)
class Service:
    """`check` raises ConfigurationError where there is nothing to run; `local` makes a server in a folder, of that `version`.
    `image` serves at `inner_port`, and `container_url` is what to write with the port outside."""

    name: str
    check: Callable[[], object]
    local: Callable[[Path], LocalServer]
    image: str
    inner_port: int
    container_url: str
    version: Callable[[], str]
    command: str = ""
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def variable(self) -> str:
        return f"SAGA_TEST_{self.name.upper()}_URL"


def _check_kafka() -> None:
    find_java()
    find_jars()


def _said(program: Path) -> str:
    """The first number with a dot in what a program says of its version."""
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=60, check=False).stdout  # noqa: S603
    found = re.search(r"\d+\.\d+(\.\d+)?", said)
    return found.group() if found else "unknown"


def _nats_version() -> str:
    return _said(NatsServer.binary())


def _rabbitmq_version() -> str:
    """Out of the folder's name: asking `rabbitmqctl` takes a second. On Debian the programs are links into it."""
    found = re.search(r"rabbitmq_server-([\d.]+)", str((RabbitMqServer.programs() / "rabbitmqctl").resolve()))
    return found.group(1) if found else "unknown"


def _kafka_version() -> str:
    (jar,) = find_jars().glob("kafka_2.13-*.jar")
    return jar.stem.removeprefix("kafka_2.13-")


SERVICES: dict[str, Service] = {
    service.name: service
    for service in (
        Service("nats", NatsServer.binary, NatsServer, "nats:2.12", 4222, "nats://127.0.0.1:{port}", _nats_version, command="-js"),
        Service(
            "rabbitmq",
            RabbitMqServer.programs,
            RabbitMqServer,
            "rabbitmq:4.1",
            5672,
            "amqp://guest:guest@127.0.0.1:{port}/",
            _rabbitmq_version,
        ),
        Service(
            "kafka",
            _check_kafka,
            KafkaServer,
            f"apache/kafka:{KAFKA_VERSION}",
            9092,
            "kafka://127.0.0.1:{port}",
            _kafka_version,
            environment={
                "KAFKA_NODE_ID": "1",
                "KAFKA_PROCESS_ROLES": "broker,controller",
                "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
                "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
                "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://127.0.0.1:{port}",
                "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
                "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
                "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
                "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            },
        ),
        Service(
            "postgres",
            PostgresServer.programs,
            PostgresServer,
            "postgres:17",
            5432,
            "postgresql://postgres@127.0.0.1:{port}/postgres",
            lambda: _said(PostgresServer.programs() / "postgres"),
            environment={"POSTGRES_HOST_AUTH_METHOD": "trust"},
        ),
        Service(
            "redis",
            RedisServer.binary,
            RedisServer,
            "redis:8",
            6379,
            "redis://127.0.0.1:{port}/0",
            lambda: _said(RedisServer.binary()),
            command="redis-server --appendonly yes --appendfsync always --maxmemory-policy noeviction",
        ),
    )
}


@contextmanager
def find(name: str, *, own: bool = False) -> Generator[Found]:
    """A server that runs, for as long as the context is entered. `own`: one that may be stopped and killed, so a local one."""
    service = SERVICES[name]
    given = "" if own else os.environ.get(service.variable, "")
    if given:
        yield Found(given)
    elif not own and _docker_answers():
        with _container(service) as url:
            yield Found(url)
    else:
        service.check()
        # Not in a test's own folder: root's is closed to the account that PostgreSQL runs as.
        with TemporaryDirectory(prefix=f"saga-{name}-") as folder:
            server = service.local(Path(folder))
            server.start()
            try:
                yield Found(server.url, server)
            finally:
                server.resume()
                server.stop()


def reason_missing(name: str) -> str:
    """Why this server cannot be had here, or an empty text. Starts nothing."""
    service = SERVICES[name]
    if os.environ.get(service.variable, "") or _docker_answers():
        return ""
    try:
        service.check()
    except ConfigurationError as missing:
        return str(missing)
    return ""


def _docker_answers() -> bool:
    """SAGA_TEST_CONTAINERS=0 says no without asking."""
    if os.environ.get("SAGA_TEST_CONTAINERS", "") == "0" or importlib.util.find_spec("testcontainers") is None:
        return False
    try:
        client: Any = importlib.import_module("docker").from_env(timeout=5)
        return bool(client.ping())
    except Exception:  # noqa: BLE001  (whatever it is: no engine for us)
        return False


@contextmanager
def _container(service: Service) -> Generator[str]:
    port = free_port()
    made: Any = importlib.import_module("testcontainers.core.container").DockerContainer(service.image)
    made = made.with_bind_ports(service.inner_port, port)
    if service.command:
        made = made.with_command(service.command)
    for key, value in service.environment.items():
        made = made.with_env(key, value.replace("{port}", str(port)))
    container: AbstractContextManager[object] = made
    with container:
        _wait_for(service, port)
        yield service.container_url.format(port=port)


def _wait_for(service: Service, port: int) -> None:
    """The engine's own proxy takes connections at once, and drops them until the server listens."""
    deadline = time.monotonic() + _CONTAINER_READY_S
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as probe:
                probe.settimeout(1.0)
                if probe.recv(1):
                    return
        except TimeoutError:
            return  # it listens, and waits for us to speak first
        except OSError:
            pass
        time.sleep(0.2)
    raise BrokerUnavailable(
        f"the container {service.image!r} for {service.name!r} does not answer on port {port}; see `docker logs`"
    )
