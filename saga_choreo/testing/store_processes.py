"""Several processes on one store, and what is left when one of them is killed. The processes are real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator

from saga_choreo.model.record import ORIGIN
from saga_choreo.testing.store_harness import Behaviour, StoreHarness, make_record, saga_id_of
from saga_choreo.testing.store_records import save, stored

__all__ = ["PROCESS_BEHAVIOURS"]

_PROCESSES = 3
_ROUNDS = 60
_LIMIT_S = 90.0


@contextlib.asynccontextmanager
async def _child(harness: StoreHarness, mode: str, number: int) -> AsyncGenerator[Process, None]:
    """A process of `store_child`, killed at the end if it still runs."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = (sys.executable, "-m", "saga_choreo.testing.store_child", mode, harness.cls, harness.url, str(number))
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=env)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(_LIMIT_S):
        line = (await process.stdout.readline()).decode().strip()
    if not line:
        assert process.stderr is not None
        raise AssertionError(f"the process ended: {(await process.stderr.read()).decode()[-2000:]}")
    return line


async def _hammer(harness: StoreHarness) -> None:
    async with harness.store() as store, contextlib.AsyncExitStack() as stack:
        await save(store, make_record(0, version=1))
        children = [await stack.enter_async_context(_child(harness, "hammer", _ROUNDS)) for _ in range(_PROCESSES)]
        for number in range(1, 40):
            await save(store, make_record(number, step=ORIGIN))
            await stored(store, 0)
        assert await asyncio.gather(*(_line(child) for child in children)) == ["done"] * _PROCESSES
        record = (await stored(store, 0))[0]
        assert record.row.attempt == _PROCESSES * _ROUNDS, "a confirmed update was lost"
        assert record.version == 1 + _PROCESSES * _ROUNDS


async def _killed_inside(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, make_record(1))
        async with _child(harness, "stop_inside", 10) as child:
            assert await _line(child) == "inside"
            assert len(await stored(store, 10)) == 0
            child.kill()
            await child.wait()
        await save(store, make_record(2))
        kept = [number for number in (1, 2, *range(10, 510)) if await stored(store, number)]
        assert kept == [1, 2]


async def _killed_while_committing(harness: StoreHarness) -> None:
    async with harness.store() as store:
        first = 1
        for _ in range(3):
            async with _child(harness, "commit_forever", first) as child:
                confirmed = [int(await _line(child)) for _ in range(40)]
                child.kill()
                await child.wait()
            number = first
            while records := await stored(store, number):
                assert len(records) == 2, "half of a transaction was kept"
                number += 1
            assert number > confirmed[-1], "a confirmed commit is gone"
            assert (await store.counters())["committed"] == number - 1
            assert not await store.records(saga_id_of(number))
            first = number


_NEEDS = ("processes",)
PROCESS_BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("processes that hammer one record lose no update and see no lock", _hammer, _NEEDS),
    Behaviour("a process killed inside a transaction leaves nothing of it and no lock", _killed_inside, _NEEDS),
    Behaviour("what was confirmed before a kill is kept, whole", _killed_while_committing, (*_NEEDS, "durable")),
)
