"""The order example on Kafka: the same services, each in a process of its own, switched by the broker's URL alone. Real Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.order_processing.choreography import OrderCreated
from examples.order_processing.order import agent, place_order
from saga_choreo import SagaHandle, SagaState
from saga_choreo.errors import NotReady
from saga_choreo.testing.kafka_server import KafkaServer
from tests.conftest import require_local
from tests.scenarios.world import run

HERE = Path(__file__).parents[2]
SERVICES = ("order", "inventory", "payment", "shipping")
_OPTIONS = "?partitions=3&session=3&heartbeat=0.3&ack_wait=2&publish_timeout=3"


class Services:
    """Four processes, started and killed by name; their stores are files beside each other."""

    def __init__(self, folder: Path, broker: str) -> None:
        self._folder = folder
        self.broker = broker
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def store(self, service: str) -> str:
        return f"sqlite:///{self._folder}/{service}.db"

    def start(self, service: str) -> None:
        environ = {**os.environ, "SAGA_BROKER_URL": self.broker, "SAGA_STORE_URL": self.store(service)}
        with (self._folder / f"{service}.log").open("ab") as log:
            command = [str(Path(sys.executable).parent / "saga-choreo"), "run", f"examples.order_processing.{service}:agent"]
            self._running[service] = subprocess.Popen(command, env=environ, cwd=HERE, stdout=log, stderr=log)

    def end(self, service: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self._running.pop(service)
        process.send_signal(how)
        process.wait(20)

    def effects(self) -> dict[str, list[tuple[str, str]]]:
        """What each saga has done in each service's own database."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for service in SERVICES:
            with contextlib.closing(sqlite3.connect(self._folder / f"{service}.db")) as database:
                for saga, step, side in database.execute("select saga_id, step, effect from ledger"):
                    found[saga].append((step, side))
        return found

    @contextmanager
    def running(self) -> Iterator[None]:
        for service in SERVICES:
            self.start(service)
        try:
            yield
        finally:
            for service in list(self._running):
                self.end(service)


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    """The example has the default prefix: it needs a server of its own."""
    require_local("kafka")
    with KafkaServer(tmp_path / "kafka") as server:
        yield server


def order(number: int) -> OrderCreated:
    return OrderCreated(
        order=f"o-{number}",
        item="book",
        quantity=1,
        amount_cents=100,
        card="declined" if number % 5 == 0 else "good",
        address="home",
    )


async def placed(number: int) -> SagaHandle:
    """The services may still be starting: four interpreters on a busy machine take their time."""
    async with asyncio.timeout(90):
        while True:
            try:
                return await place_order(order(number))
            except NotReady:
                await asyncio.sleep(0.2)


@pytest.fixture
def services(own_kafka: KafkaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    """The web process is this one: the example's agent takes its addresses from the environment, as the others do."""
    found = Services(tmp_path, f"{own_kafka.url}{_OPTIONS}")
    monkeypatch.setenv("SAGA_BROKER_URL", found.broker)
    monkeypatch.setenv("SAGA_STORE_URL", found.store("order"))
    return found


def test_the_order_example_runs_on_kafka_over_killed_services(services: Services) -> None:

    async def scenario() -> None:
        async with agent.client():
            handles = [await placed(number) for number in range(10)]
            services.end("payment")
            services.start("payment")
            handles += [await placed(number) for number in range(10, 20)]
            services.end("inventory", signal.SIGTERM)
            services.start("inventory")
            await _judge(services, [(handle, await handle.wait(90)) for handle in handles])

    with services.running():
        run(scenario(), 240)


async def _judge(services: Services, ended: list[tuple[object, SagaState]]) -> None:
    for number, (_, state) in enumerate(ended):
        assert state is (SagaState.COMPENSATED if number % 5 == 0 else SagaState.COMPLETED)
    effects = services.effects()
    assert len(effects) == len(ended)
    for steps in effects.values():
        assert len(set(steps)) == len(steps), f"done twice: {steps}"


def test_a_kafka_that_is_killed_while_orders_run_loses_none_of_them(services: Services, own_kafka: KafkaServer) -> None:

    async def scenario() -> None:
        async with agent.client():
            handles = [await placed(number) for number in range(10)]
            own_kafka.kill()
            own_kafka.start()
            handles += [await placed(number) for number in range(10, 15)]
            await _judge(services, [(handle, await handle.wait(90)) for handle in handles])

    with services.running():
        run(scenario(), 240)
