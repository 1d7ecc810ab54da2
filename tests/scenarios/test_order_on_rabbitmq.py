"""The order example on RabbitMQ, by nothing but another broker URL: four processes, one of them killed, judged by their ledgers."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from examples.order_processing.choreography import OrderCreated
from examples.order_processing.order import agent as order_agent
from examples.order_processing.simulation import STEPS
from saga_choreo import SagaState
from tests.scenarios.world import eventually, run

HERE = Path(__file__).parents[2]
ORDERS = 24


@contextmanager
def _service(name: str, url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(Path(sys.executable).parent / "saga-choreo"), "run", f"examples.order_processing.{name}:agent"]
    environment = {**os.environ, "SAGA_BROKER_URL": url, "SAGA_STORE_URL": f"sqlite:///{folder}/{name}.db"}
    with (folder / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(command, env=environment, cwd=HERE, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        finally:
            child.kill()
            child.wait()


def _order(number: int) -> OrderCreated:
    return OrderCreated(
        order=f"o-{number}",
        item="book",
        quantity=1,
        amount_cents=1000,
        card="declined" if number % 4 == 1 else "4242",
        address="unreachable" if number % 4 == 2 else "Elm Street 1",
    )


def _effects(folder: Path) -> dict[str, Counter[tuple[str, str]]]:
    """Saga -> how often each step was done and undone, of all services."""
    found: dict[str, Counter[tuple[str, str]]] = {}
    for service, step in STEPS:
        with sqlite3.connect(folder / f"{service}.db") as database:
            has = database.execute("select count(*) from sqlite_master where name = 'ledger'").fetchone()[0]
            rows = database.execute("select saga_id, effect from ledger where step = ?", (step,)).fetchall() if has else []
        for saga, effect in rows:
            found.setdefault(saga, Counter())[step, effect] += 1
    return found


def test_the_order_example_runs_across_processes_and_a_killed_one_loses_and_repeats_nothing(
    rabbitmq_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_BROKER_URL", rabbitmq_url)
    monkeypatch.setenv("SAGA_STORE_URL", f"sqlite:///{tmp_path}/order.db")

    async def scenario() -> None:
        with ExitStack() as processes:
            running = {name: processes.enter_context(_service(name, rabbitmq_url, tmp_path)) for name, _ in STEPS}
            async with order_agent.client() as client:
                handles = [await client.start_saga(_order(0), key="o-0")]
                assert await handles[0].wait(40) is SagaState.COMPLETED
                handles += [await client.start_saga(_order(number), key=f"o-{number}") for number in range(1, ORDERS)]
                await eventually(lambda: _has_charged(tmp_path, 3), 20)
                running["payment"].kill()
                processes.enter_context(_service("payment", rabbitmq_url, tmp_path))
                states = [await handle.wait(60) for handle in handles]
        for number, (handle, state) in enumerate(zip(handles, states, strict=True)):
            effects = _effects(tmp_path)[str(handle.saga_id)]
            done = {step for step, effect in effects if effect == "do"}
            assert set(effects.values()) == {1}, effects
            if number % 4 in (1, 2):
                assert state is SagaState.COMPENSATED
                assert done == {step for step, effect in effects if effect == "undo"}
            else:
                assert state is SagaState.COMPLETED
                assert effects.keys() == {(step, "do") for _, step in STEPS}

    run(scenario(), 120)


async def _has_charged(folder: Path, times: int) -> bool:
    await asyncio.sleep(0)
    return sum(effects["charge-payment", "do"] for effects in _effects(folder).values()) >= times
