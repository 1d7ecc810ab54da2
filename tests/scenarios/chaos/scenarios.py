"""The list: which fault, on which brokers and stores, with how many sagas; and how one is run."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from types import TracebackType
from typing import Any, Literal, Self

import asyncpg

from saga_choreo.testing.postgres_server import PostgresServer
from saga_choreo.testing.proxy import FaultProxy
from saga_choreo.testing.services import SERVICES
from tests.scenarios.chaos import agent_faults, broker_faults, disk, failover, store_faults
from tests.scenarios.chaos.judge import Verdict
from tests.scenarios.chaos.place import Place
from tests.scenarios.chaos.services import DECLARE

__all__ = ["BROKERS", "SCENARIOS", "STORES", "Scenario", "Servers", "run"]

BROKERS = ("nats", "rabbitmq", "kafka")
STORES = ("sqlite", "postgres")
_ALL = frozenset(BROKERS)
_NATS = frozenset({"nats"})
_SQLITE = frozenset({"sqlite"})
_POSTGRES = frozenset({"postgres"})
_BOTH = _SQLITE | _POSTGRES
_numbers = itertools.count()
# How long sagas may take to end once everything is healed, and how many of them a machine that is busy with other things ends a second.
_HEALED_S, _PER_S = 120.0, 20


@dataclass(frozen=True)
class Scenario:
    """`act` hurts and heals, and returns how often. Faults of the broker are tried on SQLite; faults of the database on each broker where
    it matters how messages come back whose transaction failed.
    `through`: the services reach the broker or the database through a proxy. `on_small_disk`: that one's disk can be filled up.
    `options` of the broker's URL."""

    act: Callable[..., Awaitable[int]]
    sagas: int = 60
    brokers: frozenset[str] = _ALL
    stores: frozenset[str] = _SQLITE
    through: Literal["", "broker", "store"] = ""
    on_small_disk: Literal["", "broker", "store"] = ""
    options: str = ""

    @property
    def name(self) -> str:
        return self.act.__name__.replace("_", "-")


SCENARIOS = (
    Scenario(agent_faults.killed_everywhere, 3, stores=_BOTH),
    Scenario(agent_faults.cancelled_everywhere, 3, stores=_BOTH, brokers=_NATS),
    Scenario(agent_faults.agents_killed, 100, stores=_BOTH),
    Scenario(agent_faults.stopped_politely, 500, stores=_BOTH),
    Scenario(agent_faults.copies),
    Scenario(agent_faults.out_of_order, 100),
    Scenario(agent_faults.clocks_differ, brokers=_NATS, stores=_BOTH),
    Scenario(agent_faults.loop_blocked),
    Scenario(agent_faults.redelivery_storm, 100),
    Scenario(agent_faults.rebalance_storm, 100),
    Scenario(agent_faults.deliveries_given_up, 100, brokers=frozenset({"rabbitmq"}), options="delivery_limit=1"),
    Scenario(agent_faults.overload, 300),
    Scenario(broker_faults.broker_killed, 200),
    Scenario(broker_faults.broker_restarted, 200),
    Scenario(broker_faults.broker_wiped),
    Scenario(broker_faults.queues_deleted),
    Scenario(broker_faults.letters_dropped),
    Scenario(broker_faults.messages_purged),
    Scenario(broker_faults.alarm),
    Scenario(broker_faults.partition, through="broker"),
    Scenario(broker_faults.one_way_partition, through="broker"),
    Scenario(broker_faults.slow_network, through="broker"),
    Scenario(disk.broker_disk_full, 200, on_small_disk="broker"),
    Scenario(store_faults.backlog, 500, stores=_BOTH),
    Scenario(store_faults.database_restarted, 5000, stores=_POSTGRES),
    Scenario(store_faults.commits_cut, 200, stores=_POSTGRES),
    Scenario(store_faults.serialization_failures, 100, stores=_POSTGRES),
    Scenario(store_faults.slow_statements, stores=_POSTGRES, through="store"),
    Scenario(store_faults.table_locked, stores=_POSTGRES),
    Scenario(store_faults.foreign_transaction, 200, brokers=_NATS, stores=_POSTGRES),
    Scenario(store_faults.writer_held, brokers=_NATS),
    Scenario(disk.disk_full, 200, brokers=_NATS, stores=_BOTH, on_small_disk="store"),
    Scenario(failover.lagging_failover, brokers=_NATS, stores=_POSTGRES),
)


class Servers:
    """Servers of ours, started when they are first needed, for all scenarios. NATS is started anew for each: it takes no time."""

    def __init__(self) -> None:
        self._all = ExitStack()
        self._running: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._all.close()

    def get(self, name: str, folder: Path | None = None) -> Any:
        """`folder`: one of the scenario's own, that lives there. Raises ConfigurationError where there is no such server."""
        server = self._running.get(name) if folder is None else None
        if server is None:
            SERVICES[name].check()
            home = folder or Path(self._all.enter_context(TemporaryDirectory(prefix=f"saga-{name}-")))
            server = SERVICES[name].local(home)
            if folder is None:
                self._all.callback(server.stop)
        if name != "nats" and folder is None:
            self._running[name] = server
        server.start()
        return server


async def run(
    scenario: Scenario,
    broker: str,
    store: str,
    servers: Servers,
    *,
    sagas: int = 0,
    seed: int = 0,
    part: tuple[int, int] = (1, 1),
) -> tuple[int, Verdict]:
    """How often it was hurt, and what the ledgers say. Keeps the folder with the services' logs when something is wrong."""
    folder = Path(mkdtemp(prefix="saga-chaos-"))
    async with AsyncExitStack() as around:
        if scenario.on_small_disk:
            around.enter_context(disk.small(folder / "disk", disk.SIZES[broker if scenario.on_small_disk == "broker" else store]))
        place, proxies = await _place(scenario, broker, store, servers, folder, around)
        place.random.seed(seed)
        place.part = part
        async with place.open():
            times = await scenario.act(place, sagas or scenario.sagas, *proxies)
            verdict = await place.verdict(_HEALED_S + len(place.started) / _PER_S)
    if verdict.lost or verdict.repeated or verdict.violations:
        verdict.violations.insert(0, f"the services' logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return times, verdict


async def _place(
    scenario: Scenario, broker: str, store: str, servers: Servers, folder: Path, around: AsyncExitStack
) -> tuple[Place, list[FaultProxy]]:
    server = _broker(scenario, broker, servers, folder, around)
    database: PostgresServer | None = None
    if store == "sqlite":
        files = folder / "disk" if scenario.on_small_disk == "store" else folder
        stores = {service: f"sqlite:///{files}/{service}.db" for service in DECLARE}
    else:
        database = around.enter_context(disk.postgres(folder)) if scenario.on_small_disk == "store" else servers.get("postgres")
        stores = {service: await _schema(database.url) for service in DECLARE}
    place = Place(
        broker=broker,
        broker_url=f"{server.url}?{scenario.options}" if scenario.options else server.url,
        # NATS is this scenario's own; the others are shared.
        prefix="saga" if broker == "nats" else f"chaos{os.getpid()}-{next(_numbers)}",
        folder=folder,
        stores=stores,
        plain_stores=stores,
        broker_server=server,
        database=database,
    )
    proxies: list[FaultProxy] = []
    if scenario.through:
        port = server.port if scenario.through == "broker" else database.port if database else 0
        proxy = await around.enter_async_context(FaultProxy(port))
        proxies.append(proxy)
        if scenario.through == "broker":
            place.broker_url = place.broker_url.replace(f":{port}", f":{proxy.port}")
        else:
            place.stores = {service: url.replace(f":{port}", f":{proxy.port}") for service, url in stores.items()}
    return place, proxies


def _broker(scenario: Scenario, broker: str, servers: Servers, folder: Path, around: ExitStack | AsyncExitStack) -> Any:
    if scenario.on_small_disk != "broker":
        return servers.get(broker)
    server = servers.get(broker, folder / "disk" / broker)
    around.callback(server.kill)
    return server


async def _schema(url: str) -> str:
    name = f"chaos_{os.getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"create schema {name}")
    await connection.close()
    return f"{url}?search_path={name}"
