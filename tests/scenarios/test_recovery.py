"""How long the sagas of a killed agent stand still: until another agent of its service goes on, or it itself after a restart.

Real processes, killed with SIGKILL in the middle of six sagas; real NATS, SQLite and PostgreSQL; default limits. Every test prints
its times.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from saga_choreo import Agent, SagaHandle, SagaState, StepContext
from saga_choreo.testing.harness import Cluster
from saga_choreo.testing.kafka_server import KafkaServer
from tests.conftest import require_local
from tests.scenarios.mortal import Ordered, form, notes
from tests.scenarios.world import event_of, eventually, run

HERE = Path(__file__).parents[2]
_SAGAS = 6
_numbers = itertools.count()
# From the kill (or from when it was up again) to the next step of the last of them.
_BOUND_S = 5.0


@dataclass
class Place:
    """`stores` gives a service's store. What the killed agent leaves behind is measured by what `confirm` sees."""

    broker: str
    stores: dict[str, str]
    folder: Path
    external: bool
    prefix: str
    confirmed: dict[str, float] = field(default_factory=dict)

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    def agent(self, service: str, name: str, publishes: str = "") -> Agent:
        agent = Agent(
            service, saga=form(external=self.external), broker=self.broker, store=self.stores[service], prefix=self.prefix
        )

        async def forward(ctx: StepContext) -> Any:
            if name == "confirm":
                self.confirmed.setdefault(str(ctx.saga_id), time.time())
            return event_of(publishes)() if publishes else None

        async def back(ctx: StepContext) -> None:
            raise AssertionError("nothing is to be undone here")

        agent.step(name)(forward).compensation(back)
        return agent

    @contextmanager
    def payment(self, *, dies_at: str = "") -> Iterator[subprocess.Popen[bytes]]:
        env = {
            # Times are measured here: lines are not counted.
            **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
            "SAGA_BROKER_URL": self.broker,
            "SAGA_STORE_URL": self.stores["payment"],
            "MORTAL_PREFIX": self.prefix,
            "MORTAL_NOTES": str(self.notes),
            "MORTAL_CALL": "1" if self.external else "0",
            "MORTAL_AT": dies_at,
        }
        with (self.folder / "payment.log").open("ab") as log:
            command = [str(Path(sys.executable).parent / "saga-choreo"), "run", "tests.scenarios.mortal:payment"]
            child = subprocess.Popen(command, env=env, cwd=HERE, stdout=log, stderr=log)
        try:
            yield child
        finally:
            child.kill()
            child.wait()

    async def died(self, child: subprocess.Popen[bytes]) -> float:
        async def gone() -> bool:
            return child.poll() is not None

        await eventually(gone, 60)
        assert child.returncode == -9, (self.folder / "payment.log").read_text()[-3000:]
        return float(next(one["at"] for one in notes(self.notes) if one["what"] == "dies"))

    async def up(self, child: subprocess.Popen[bytes]) -> None:
        async def serves() -> bool:
            assert child.poll() is None, (self.folder / "payment.log").read_text()[-3000:]
            return any(one["what"] == "up" and one["pid"] == child.pid for one in notes(self.notes))

        await eventually(serves, 60)


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    services = ("inventory", "payment", "shop")
    if request.param == "sqlite":
        return {service: f"sqlite:///{tmp_path}/{service}.db" for service in services}
    make: Callable[[], str] = request.getfixturevalue("postgres_schema")
    return {service: make() for service in services}


async def overslept() -> float:
    """Until cancelled: the most that this machine has kept anybody waiting, who wanted to wait for 20 ms."""
    most = 0.0
    with suppress(asyncio.CancelledError):
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.02)
            most = max(most, time.monotonic() - began - 0.02)
    return most


async def judged(place: Place, handles: list[SagaHandle], since: float, what: str) -> None:
    sleeper = asyncio.create_task(overslept())
    await asyncio.sleep(0)
    for handle in handles:
        assert await handle.wait(40) is SagaState.COMPLETED
    sleeper.cancel()
    lag = await sleeper
    late = max(place.confirmed.values()) - since
    print(f"{what}: the last saga went on after {late:.2f} s (the machine kept everybody waiting for up to {lag:.2f} s)")
    ids = {str(handle.saga_id) for handle in handles}
    keys = [(one["saga"], one["key"]) for one in notes(place.notes) if one["what"] == "charge" and one["saga"] in ids]
    assert len(set(keys)) == len(handles), "a repeated attempt has another key"
    assert late < _BOUND_S + 10 * lag  # a step is a dozen waits for others: store, broker, the other agents


async def recovers(place: Place, dies_at: str, by: str) -> None:
    cluster = Cluster(place.agent("inventory", "reserve", "stock.reserved"), place.agent("shop", "confirm"))
    with ExitStack() as processes:
        await cluster.start()
        first = processes.enter_context(place.payment(dies_at=dies_at))
        await place.up(first)
        if by == "a second agent":
            await place.up(processes.enter_context(place.payment()))
        await cluster.ready()
        handles: list[SagaHandle] = []
        while first.poll() is None:
            handles += await asyncio.gather(*(cluster["shop"].start_saga(Ordered()) for _ in range(_SAGAS)))
            await asyncio.sleep(0.5)
        since = await place.died(first)
        if by == "itself after a restart":
            began = time.time()
            await place.up(processes.enter_context(place.payment()))
            since = time.time()
            print(f"started again within {since - began:.2f} s")
        await judged(place, handles, since, f"{by}, died at {dies_at}")
        await cluster.stop()


@pytest.mark.parametrize("external", [False, True], ids=["in the transaction", "a call to the outside"])
@pytest.mark.parametrize("dies_at", ["handler", "publish", "ack"])
@pytest.mark.parametrize("by", ["a second agent", "itself after a restart"])
def test_the_sagas_of_a_killed_agent_go_on_within_seconds(
    nats_url: str, stores: dict[str, str], tmp_path: Path, dies_at: str, by: str, external: bool
) -> None:
    place = Place(nats_url, stores, tmp_path, external, f"mortal{next(_numbers)}")
    run(recovers(place, dies_at, by), 120)


async def all_complete(place: Place, shop: Agent, what: str) -> None:
    place.confirmed.clear()
    since = time.time()
    handles = await asyncio.gather(*(shop.start_saga(Ordered()) for _ in range(4 * _SAGAS)))
    await judged(place, list(handles), since, what)


def test_an_agent_that_is_frozen_keeps_no_saga_from_the_others_whichever_is_served_first(
    nats_url: str, postgres_schema: Callable[[], str], tmp_path: Path
) -> None:
    async def scenario() -> None:
        stores = {service: postgres_schema() for service in ("inventory", "payment", "shop")}
        place = Place(nats_url, stores, tmp_path, False, f"mortal{next(_numbers)}")
        cluster = Cluster(place.agent("inventory", "reserve", "stock.reserved"), place.agent("shop", "confirm"))
        with ExitStack() as processes:
            await cluster.start()
            two = [processes.enter_context(place.payment()) for _ in range(2)]
            for one in two:
                await place.up(one)
            await cluster.ready()
            for _ in range(5):  # until they know of each other, and what they had asked for before has come
                await all_complete(place, cluster["shop"], "both there")
            for number, one in enumerate(two):
                one.send_signal(signal.SIGSTOP)
                await all_complete(place, cluster["shop"], f"agent {number} frozen")
                one.send_signal(signal.SIGCONT)
            await cluster.stop()

    run(scenario(), 120)


@pytest.mark.parametrize("broker", ["rabbitmq", "kafka"])
@pytest.mark.parametrize("dies_at", ["handler", "ack"])
@pytest.mark.parametrize("by", ["a second agent", "itself after a restart"])
def test_they_do_on_other_brokers_too(
    broker: str, by: str, dies_at: str, postgres_schema: Callable[[], str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(f"{broker}_url")
    stores = {service: postgres_schema() for service in ("inventory", "payment", "shop")}
    place = Place(url, stores, tmp_path, False, f"mortal{os.getpid()}-{next(_numbers)}")
    run(recovers(place, dies_at, by), 180)


@pytest.mark.parametrize("by", ["a second agent", "itself after a restart"])
def test_they_do_where_kafka_allows_no_session_so_short(by: str, postgres_schema: Callable[[], str], tmp_path: Path) -> None:
    require_local("kafka")
    stores = {service: postgres_schema() for service in ("inventory", "payment", "shop")}
    with KafkaServer(tmp_path / "kafka", settings={"group.min.session.timeout.ms": "6000"}) as server:
        run(recovers(Place(server.url, stores, tmp_path, False, "mortal"), "handler", by), 180)
