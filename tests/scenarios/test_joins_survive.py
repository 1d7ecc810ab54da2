"""What a join has been told is in its store once it is acknowledged: neither a kill nor an emptied broker takes it away."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats

from saga_choreo import Agent, SagaState
from saga_choreo.runtime.plugins import make_store
from saga_choreo.testing.servers import NatsServer
from tests.scenarios.joining import Begun, Left, Right, form
from tests.scenarios.test_recovery import stores
from tests.scenarios.world import QUICK, eventually, run

__all__ = ["stores"]
HERE = Path(__file__).parents[2]
_numbers = itertools.count()


@contextmanager
def joiner(broker: str, store: str, prefix: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    env = {
        **os.environ,
        "SAGA_BROKER_URL": broker,
        "SAGA_STORE_URL": store,
        "JOINING_PREFIX": prefix,
        "JOINING_NOTES": str(folder / "notes"),
    }
    with (folder / "joiner.log").open("ab") as log:
        command = [str(Path(sys.executable).parent / "saga-choreo"), "run", "tests.scenarios.joining:joiner"]
        child = subprocess.Popen(command, env=env, cwd=HERE, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def agent(service: str, broker: str, stores: dict[str, str], prefix: str) -> Agent:
    return Agent(service, saga=form, broker=broker, store=stores[service], prefix=prefix, limits=QUICK)


def left(broker: str, stores: dict[str, str], prefix: str) -> Agent:
    made = agent("left", broker, stores, prefix)

    @made.step("go-left")
    async def go(begun: Begun) -> Left:
        return Left(text="from the left")

    @go.compensation
    async def back() -> None: ...

    return made


def right(broker: str, stores: dict[str, str], prefix: str) -> Agent:
    made = agent("right", broker, stores, prefix)

    @made.step("go-right")
    async def go(begun: Begun) -> Right:
        return Right(text="from the right")

    @go.compensation
    async def back() -> None: ...

    return made


async def unacknowledged(url: str) -> int:
    client = await nats.connect(url)
    js = client.jetstream()
    total = 0
    for stream in await js.streams_info():
        infos = await js.consumers_info(str(stream.config.name))
        total += sum((info.num_ack_pending or 0) for info in infos if str(info.name).startswith("joiner"))
    await client.close()
    return total


async def purged(url: str) -> None:
    client = await nats.connect(url)
    js = client.jetstream()
    for stream in await js.streams_info():
        await js.purge_stream(str(stream.config.name))
    await client.close()


def test_a_join_runs_with_both_payloads_though_it_was_killed_after_the_first_and_the_broker_was_emptied(
    own_nats: NatsServer, stores: dict[str, str], tmp_path: Path
) -> None:
    own_nats.start()
    stores["left"], stores["right"], stores["joiner"] = stores["inventory"], stores["shop"], stores["payment"]
    stores["web"] = stores["inventory"]

    async def scenario() -> None:
        url, prefix = own_nats.url, f"join{next(_numbers)}"

        async def first_input() -> Any:
            store = make_store(stores["joiner"])
            await store.open()
            try:
                records = [one for one in await store.records(handle.saga_id, "joiner") if one.inputs]
            finally:
                await store.close()
            return records and await unacknowledged(url) == 0

        async with agent("web", url, stores, prefix).serving() as web:
            with joiner(url, stores["joiner"], prefix, tmp_path) as child:
                async with left(url, stores, prefix).serving():
                    async with right(url, stores, prefix).serving():
                        await web.ready(20)
                    handle = await web.start_saga(Begun())
                    await eventually(first_input, 20)
                # Its sender is away, so that nobody says it again.
                child.kill()
                child.wait()
            await purged(url)
            with joiner(url, stores["joiner"], prefix, tmp_path):
                async with right(url, stores, prefix).serving():
                    assert await handle.wait(30) is SagaState.COMPLETED
        notes = (tmp_path / "notes").read_text().splitlines()
        assert [json.loads(line) for line in notes] == [["from the left", "from the right"]]

    run(scenario(), 90)
