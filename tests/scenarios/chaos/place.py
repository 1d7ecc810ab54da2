"""Where a scenario happens: a broker, a database, four services as processes, sagas that are started and then judged."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.order_processing.choreography import OrderCreated
from saga_choreo import Agent, SagaHandle, SagaState
from saga_choreo.errors import SagaError, WaitTimeout
from saga_choreo.runtime.plugins import make_store
from saga_choreo.testing.broker_harness import ServerControl
from saga_choreo.testing.postgres_server import PostgresServer
from tests.scenarios.chaos.judge import MAY_BE_UNDONE, Effect, Verdict, judge
from tests.scenarios.chaos.services import DECLARE, LEDGER, agent_of

__all__ = ["Place", "Process", "until"]

HERE = Path(__file__).parents[3]
_AT_ONCE = 50
# Of a saga that has ended: a busy machine needs that long to look into the database.
_ANSWER_S, _ASKED_AT_ONCE = 5.0, 8
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
        # Its lines are not counted: whoever is killed could not say so, and would be three times as slow.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SAGA_", "COVERAGE_"))} | {
            "SAGA_BROKER_URL": place.broker_url,
            "SAGA_STORE_URL": place.stores[service],
            "CHAOS_PREFIX": place.prefix,
            **environ,
        }
        command = [str(Path(sys.executable).parent / "saga-choreo"), "run", f"tests.scenarios.chaos.services:{service}"]
        self.log = place.folder / f"{service}.log"
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(command, env=env, cwd=HERE, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def is_alive(self) -> bool:
        return self.child.poll() is None

    @property
    def is_stopped(self) -> bool:
        """By SIGSTOP."""
        return Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @property
    def is_up(self) -> bool:
        """It has a handler for SIGTERM."""
        (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{self.child.pid}/status").read_text())
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

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
    # By saga: the step that is to refuse it, or that it may be undone for another reason.
    started: dict[str, str] = field(default_factory=dict[str, str])
    running: list[Process] = field(default_factory=list[Process])
    random: random.Random = field(default_factory=random.Random)
    # Of what a scenario enumerates, the k-th of n parts.
    part: tuple[int, int] = (1, 1)
    # Garbage that was published for each service to put aside.
    garbage: int = 0
    # Undone once the services are gone.
    closing: ExitStack = field(default_factory=ExitStack)
    _suspects: set[str] = field(default_factory=set[str])
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _ended: list[Process] = field(default_factory=list[Process])
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
            for process in (*self.running, *self._ended):
                process.kill()
            self.closing.close()

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

    def end(self, process: Process, how: signal.Signals) -> None:
        """It goes when it likes to, and nobody waits for it."""
        process.child.send_signal(how)
        self.running.remove(process)
        self._ended.append(process)

    def mine(self, number: int) -> bool:
        """Whether this one of what is enumerated is in our part."""
        ours, parts = self.part
        return number % parts == ours - 1

    async def ready(self) -> None:
        assert self._client is not None
        await self._client.ready(60.0)

    @asynccontextmanager
    async def under_load(self, sagas: int) -> AsyncGenerator[asyncio.Task[list[SagaHandle]]]:
        """Sagas are started while the block runs; at its end all are."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.start(sagas))
            await asyncio.sleep(0.3)
            yield task

    async def start(self, sagas: int, *, may_be_undone: bool = False) -> list[SagaHandle]:
        """Every fifth is refused by the last but one step, every seventh by the one before; or none of them."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one() -> SagaHandle:
            number = next(self._numbers)
            step = "book-shipment" if number % 5 == 4 else "charge-payment" if number % 7 == 6 else ""
            async with gate:
                return await self._start_one(number, MAY_BE_UNDONE if may_be_undone else step)

        return await asyncio.gather(*(one() for _ in range(sagas)))

    async def _start_one(self, number: int, step: str) -> SagaHandle:
        """The key makes it safe to try again."""
        event = OrderCreated(order=f"o-{number}", **(_PAYLOAD | _REFUSALS.get(step, {})))
        handle = await self._started(event, f"key-{number}")
        self.started[str(handle.saga_id)] = step
        self._handles.append(handle)
        return handle

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
        states = await self._ends(time.monotonic() + within_s)
        effects = [one for one in await self.ledgers() if one.saga not in self._suspects]
        verdict = judge(self.started, states, effects)
        verdict.violations += [f"an agent of {one.service!r} ended by itself" for one in self.running if not one.is_alive]
        verdict.violations += [f"saga {saga} had not ended after {within_s:g} s" for saga, end in states.items() if end is None]
        verdict.violations += await self.put_aside()
        return verdict

    def leave_to_people(self, sagas: set[str]) -> None:
        """These are judged no more."""
        self._suspects |= sagas
        self.started = {saga: step for saga, step in self.started.items() if saga not in sagas}
        self._handles = [one for one in self._handles if str(one.saga_id) not in sagas]

    async def _ends(self, give_up: float) -> dict[str, SagaState | None]:
        """Of all sagas. One that never ends must not take the time that those behind it need to say that they have."""
        gate = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def one(handle: SagaHandle) -> SagaState | None:
            async with gate:
                return await self._end_of(handle, max(give_up - time.monotonic(), _ANSWER_S))

        ends = await asyncio.gather(*(one(handle) for handle in self._handles))
        return {str(handle.saga_id): end for handle, end in zip(self._handles, ends, strict=True)}

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

    async def put_aside(self) -> list[str]:
        """Whatever the network and the brokers did to messages, none became unreadable."""
        wrong: list[str] = []
        for service, url in self.plain_stores.items():
            store = make_store(url)
            await store.open()
            counted = dict(await store.counters(service)).get("quarantined", 0)
            await store.close()
            if counted != self.garbage:
                wrong.append(f"{service!r} has put {counted} messages aside, and {self.garbage} were not meant for anybody")
        return wrong

    async def ledgers(self) -> list[Effect]:
        effects: list[Effect] = []
        for url in set(self.plain_stores.values()):
            store = make_store(url)
            await store.open()
            async with store.transaction() as transaction:
                rows = await transaction.user.fetch("select saga, step, effect, at_ns from ledger")
            await store.close()
            effects += [Effect(*row) for row in rows]
        return effects
