"""Where a scenario happens: a broker, a database, four services as processes, sagas that are started and then judged."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.order_processing.choreography import OrderCreated
from saga_choreo import Agent, SagaHandle, SagaState
from saga_choreo.errors import SagaError, WaitTimeout
from saga_choreo.runtime.plugins import make_store
from saga_choreo.testing.broker_harness import ServerControl
from saga_choreo.testing.postgres_server import PostgresServer
from tests.scenarios.chaos.judge import Effect, Verdict, judge
from tests.scenarios.chaos.services import DECLARE, LEDGER, agent_of

__all__ = ["Place", "Process", "until"]

HERE = Path(__file__).parents[3]
_AT_ONCE = 50
_PAYLOAD: dict[str, Any] = {"item": "book", "quantity": 1, "amount_cents": 1250, "card": "good", "address": "here"}
_REFUSALS = {"charge-payment": {"card": "declined"}, "book-shipment": {"address": "unreachable"}, "": {}}


async def until(condition: Callable[[], Awaitable[bool]], within_s: float, what: str) -> None:
    give_up = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"after {within_s:g} s there was still no {what}")
        await asyncio.sleep(0.05)


class Process:
    """One agent of a service. Killed at the latest when the scenario ends; a log for each service."""

    def __init__(self, place: Place, service: str, environ: dict[str, str]) -> None:
        self.service = service
        env = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")} | {
            "SAGA_BROKER_URL": place.broker_url,
            "SAGA_STORE_URL": place.stores[service],
            "CHAOS_PREFIX": place.prefix,
            **environ,
        }
        command = [str(Path(sys.executable).parent / "saga-choreo"), "run", f"tests.scenarios.chaos.services:{service}"]
        with (place.folder / f"{service}.log").open("ab") as log:
            self.child = subprocess.Popen(command, env=env, cwd=HERE, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def is_alive(self) -> bool:
        return self.child.poll() is None

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()


@dataclass
class Place:
    """`broker_url` and `stores` are what the services are given; `plain_stores` leads past any proxy, for the judge."""

    broker: str
    broker_url: str
    prefix: str
    folder: Path
    stores: dict[str, str]
    plain_stores: dict[str, str]
    broker_server: ServerControl | None = None
    database: PostgresServer | None = None
    # By saga: the step that is to refuse it.
    started: dict[str, str] = field(default_factory=dict[str, str])
    running: list[Process] = field(default_factory=list[Process])
    random: random.Random = field(default_factory=random.Random)
    _handles: list[SagaHandle] = field(default_factory=list[SagaHandle])
    _client: Agent | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """The services are up and know each other, and sagas can be started."""
        for url in self.plain_stores.values():
            await self._make_ledger(url)
        try:
            for service in DECLARE:
                self.run(service)
            client = agent_of("order", self.broker_url, self.stores["order"], self.prefix)
            DECLARE["order"](client)
            async with client.client():
                await client.ready(60.0)
                self._client = client
                yield
        finally:
            self._client = None
            for process in self.running:
                process.kill()

    @staticmethod
    async def _make_ledger(url: str) -> None:
        store = make_store(url)
        await store.open()
        async with store.transaction() as transaction:
            await transaction.user.execute(LEDGER)
            await transaction.commit()
        await store.close()

    def run(self, service: str, **environ: str) -> Process:
        process = Process(self, service, environ)
        self.running.append(process)
        return process

    def replace(self, service: str, **environ: str) -> Process:
        """kill -9 all agents of this service, then start one."""
        for process in [one for one in self.running if one.service == service]:
            process.kill()
            self.running.remove(process)
        return self.run(service, **environ)

    async def ready(self) -> None:
        assert self._client is not None
        await self._client.ready(60.0)

    async def start(self, sagas: int) -> None:
        """Every fifth is refused by the last but one step, every seventh by the one before. The key makes it safe to try again."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            step = "book-shipment" if number % 5 == 4 else "charge-payment" if number % 7 == 6 else ""
            event = OrderCreated(order=f"o-{number}", **(_PAYLOAD | _REFUSALS[step]))
            async with gate:
                handle = await self._started(event, f"key-{number}")
            self.started[str(handle.saga_id)] = step
            self._handles.append(handle)

        first = len(self.started)
        await asyncio.gather(*(one(number) for number in range(first, first + sagas)))

    async def _started(self, event: OrderCreated, key: str) -> SagaHandle:
        assert self._client is not None
        give_up = time.monotonic() + 180
        while True:
            try:
                return await self._client.start_saga(event, key=key)
            except SagaError as error:
                if not error.retryable or time.monotonic() > give_up:
                    raise
            await asyncio.sleep(0.25)

    async def verdict(self, within_s: float) -> Verdict:
        """Wait for the sagas' ends, then for the last undone effects to be there, and judge."""
        give_up = time.monotonic() + within_s
        states: dict[str, SagaState | None] = {}
        for handle in self._handles:
            states[str(handle.saga_id)] = await self._end_of(handle, max(give_up - time.monotonic(), 0.01))
        return judge(self.started, states, await self._ledgers())

    @staticmethod
    async def _end_of(handle: SagaHandle, within_s: float) -> SagaState | None:
        give_up = time.monotonic() + within_s
        while True:
            try:
                return await handle.wait(max(give_up - time.monotonic(), 0.01))
            except WaitTimeout:
                return None
            except SagaError as error:
                if not error.retryable or time.monotonic() > give_up:
                    raise
            await asyncio.sleep(0.25)

    async def _ledgers(self) -> list[Effect]:
        effects: list[Effect] = []
        for url in set(self.plain_stores.values()):
            store = make_store(url)
            await store.open()
            async with store.transaction() as transaction:
                rows = await transaction.user.fetch("select saga, step, effect, at_ns from ledger")
            await store.close()
            effects += [Effect(*row) for row in rows]
        return effects

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in sorted(self.folder.glob("*.log"))
        )
