"""What is done to agents, the network and the broker while sagas run. Each fault ends healed: then all sagas have to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from saga_choreo.testing.proxy import FaultProxy
from tests.scenarios.chaos.place import Place, Process, until
from tests.scenarios.chaos.tools import tools_of

__all__ = [
    "agents_killed",
    "alarm",
    "broker_killed",
    "broker_restarted",
    "broker_wiped",
    "copies",
    "killed_everywhere",
    "messages_purged",
    "one_way_partition",
    "partition",
    "queues_deleted",
    "rebalance_storm",
    "redelivery_storm",
    "slow_network",
]

_SERVICES = ("inventory", "payment", "shipping", "order")


@asynccontextmanager
async def _load(place: Place, sagas: int) -> AsyncGenerator[None]:
    """Sagas are started while the block runs; at its end all are."""
    async with asyncio.TaskGroup() as group:
        group.create_task(place.start(sagas))
        await asyncio.sleep(0.3)
        yield


async def killed_everywhere(place: Place, sagas: int) -> int:
    """kill -9 of an agent at each of its calls of broker and store, in turn, for every service. Returns how often."""
    kills = 0
    for service in _SERVICES:
        boundaries = await _counted(place, service, sagas)
        for number in range(1, boundaries + 1):
            process = place.replace(service, CHAOS_DIES_AT=str(number))
            await place.start(sagas)
            # A run may need fewer calls than the one that was counted.
            with contextlib.suppress(TimeoutError):
                await until(partial(_is_dead, process), 6, "death of the agent")
                kills += 1
        place.replace(service)
    return kills


async def _is_dead(process: Process) -> bool:
    return not process.is_alive


async def _counted(place: Place, service: str, sagas: int) -> int:
    """How many calls an agent makes from its start to the end of these sagas."""
    count_in = place.folder / f"{service}.count"
    place.replace(service, CHAOS_DIES_AT="0", CHAOS_COUNT_IN=str(count_in))
    await place.start(sagas)
    await place.verdict(60)
    return int(count_in.read_text())


async def agents_killed(place: Place, sagas: int) -> int:
    """All agents at once, three times, back at different times."""
    async with _load(place, sagas):
        for _ in range(3):
            await asyncio.sleep(place.random.uniform(0.2, 1.5))
            for process in place.running:
                process.kill()
            place.running.clear()
            for service in place.random.sample(_SERVICES, k=len(_SERVICES)):
                place.run(service)
                await asyncio.sleep(place.random.uniform(0.0, 0.4))
    return 3


async def broker_killed(place: Place, sagas: int) -> int:
    """kill -9 under load, three times."""
    return await _broker_goes(place, sagas, kill=True)


async def broker_restarted(place: Place, sagas: int) -> int:
    return await _broker_goes(place, sagas, kill=False)


async def _broker_goes(place: Place, sagas: int, *, kill: bool) -> int:
    server = place.broker_server
    assert server is not None
    async with _load(place, sagas):
        for _ in range(3):
            await asyncio.sleep(place.random.uniform(0.2, 1.5))
            if kill:
                server.kill()
            else:
                server.stop()
            await asyncio.sleep(place.random.uniform(0.0, 1.0))
            server.start()
    return 3


async def broker_wiped(place: Place, sagas: int) -> int:
    """The broker comes back with nothing: all it had acknowledged is gone. Repeated announcements bring it again."""
    async with _load(place, sagas):
        await asyncio.sleep(place.random.uniform(0.2, 1.0))
        await tools_of(place).drop_channels()
    return 1


async def queues_deleted(place: Place, sagas: int) -> int:
    """What the services read from is gone; what was published before it is there again has nobody to go to."""
    async with _load(place, sagas):
        await asyncio.sleep(place.random.uniform(0.2, 1.0))
        await tools_of(place).drop_bindings()
    return 1


async def messages_purged(place: Place, sagas: int) -> int:
    async with _load(place, sagas):
        for _ in range(3):
            await asyncio.sleep(place.random.uniform(0.2, 0.8))
            await tools_of(place).purge()
    return 3


async def alarm(place: Place, sagas: int) -> int:
    """The broker takes no publish for a while: an alarm, a full stream, too few replicas."""
    async with _load(place, sagas), tools_of(place).blocked():
        await asyncio.sleep(4)
    return 1


async def copies(place: Place, sagas: int) -> int:
    """Everything is delivered three times."""
    for service in _SERVICES:
        place.replace(service, CHAOS_COPIES="3")
    await place.ready()
    await place.start(sagas)
    return 1


async def redelivery_storm(place: Place, sagas: int) -> int:
    """An agent is stopped with all it has fetched until others have it, then goes on beside them."""
    async with _load(place, sagas):
        for service in _SERVICES[:3]:
            place.run(service)
            stopped = next(one for one in place.running if one.service == service)
            stopped.child.send_signal(signal.SIGSTOP)
            await asyncio.sleep(5)
            stopped.child.send_signal(signal.SIGCONT)
    return 3


async def rebalance_storm(place: Place, sagas: int) -> int:
    """Agents of one service come and go every second."""
    async with _load(place, sagas):
        for number in range(10):
            more = place.run("payment")
            await asyncio.sleep(1.0)
            more.child.send_signal(signal.SIGTERM if number % 2 else signal.SIGKILL)
    return 10


async def partition(place: Place, sagas: int, proxy: FaultProxy) -> int:
    async with _load(place, sagas):
        await asyncio.sleep(0.5)
        with proxy.black_hole():
            await asyncio.sleep(8)
    return 1


async def one_way_partition(place: Place, sagas: int, proxy: FaultProxy) -> int:
    """What agents say arrives, and they never hear that it did; then the other way round."""
    async with _load(place, sagas):
        with proxy.black_hole("down"):
            await asyncio.sleep(6)
        await asyncio.sleep(1)
        with proxy.black_hole("up"):
            await asyncio.sleep(6)
        proxy.cut()
    return 2


async def slow_network(place: Place, sagas: int, proxy: FaultProxy) -> int:
    proxy.delay(0.1, jitter_s=0.1)
    await place.start(sagas)
    await place.verdict(90)
    proxy.delay(0.0)
    return 1
