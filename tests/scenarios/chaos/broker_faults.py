"""What is done to the network and the broker while sagas run. Each fault ends healed: then all sagas have to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from saga_choreo.ports import Channel, ChannelKind, Outgoing, Topology
from saga_choreo.runtime.plugins import make_broker
from saga_choreo.testing.proxy import FaultProxy
from tests.scenarios.chaos.place import Place, until
from tests.scenarios.chaos.tools import tools_of

__all__ = [
    "alarm",
    "broker_killed",
    "broker_restarted",
    "broker_wiped",
    "letters_dropped",
    "messages_purged",
    "one_way_partition",
    "partition",
    "queues_deleted",
    "slow_network",
]


async def broker_killed(place: Place, sagas: int) -> int:
    """kill -9 under load, three times."""
    return await _broker_goes(place, sagas, kill=True)


async def broker_restarted(place: Place, sagas: int) -> int:
    return await _broker_goes(place, sagas, kill=False)


async def _broker_goes(place: Place, sagas: int, *, kill: bool) -> int:
    server = place.broker_server
    assert server is not None
    async with place.under_load(sagas):
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
    async with place.under_load(sagas):
        await asyncio.sleep(place.random.uniform(0.2, 1.0))
        await tools_of(place).drop_channels()
    return 1


async def queues_deleted(place: Place, sagas: int) -> int:
    """What the services read from is gone; what was published before it is there again has nobody to go to."""
    async with place.under_load(sagas):
        await asyncio.sleep(place.random.uniform(0.2, 1.0))
        await tools_of(place).drop_bindings()
    return 1


async def messages_purged(place: Place, sagas: int) -> int:
    async with place.under_load(sagas):
        for _ in range(3):
            await asyncio.sleep(place.random.uniform(0.2, 0.8))
            await tools_of(place).purge()
    return 3


async def alarm(place: Place, sagas: int) -> int:
    """The broker takes no publish for a while: an alarm, a full stream, too few replicas."""
    async with place.under_load(sagas), tools_of(place).blocked():
        await asyncio.sleep(4)
    return 1


async def letters_dropped(place: Place, sagas: int) -> int:
    """The dead-letter channel is deleted again and again while garbage comes that belongs there: consuming goes on, and each
    service has kept what it put aside."""
    async with _stranger(place) as publish, place.under_load(sagas):
        for number in range(4):
            await tools_of(place).drop_letters()
            await publish([_garbage(f"{number}.{one}") for one in range(5)])
            place.garbage += 5
            await asyncio.sleep(0.5)
        await until(partial(_is_put_aside, place), 60, "garbage put aside by everybody")
    return 4


def _garbage(note: str) -> Outgoing:
    channel = Channel(ChannelKind.OUTCOME)  # all services get it
    return Outgoing(channel=channel, key=note, headers={"ce-type": "no.such.thing"}, body=b"{" + note.encode())


async def _is_put_aside(place: Place) -> bool:
    return not await place.put_aside()


@asynccontextmanager
async def _stranger(place: Place) -> AsyncGenerator[Callable[[Sequence[Outgoing]], Awaitable[None]]]:
    """Some other program that publishes here."""
    broker = make_broker(place.broker_url, prefix=place.prefix)
    await broker.open(Topology(service="stranger", agent="1", events=(), receives=False))

    async def publish(messages: Sequence[Outgoing]) -> None:
        left = messages
        while left:
            answers = await broker.publish(left)
            left = [message for message, answer in zip(left, answers, strict=True) if answer is not None]

    try:
        yield publish
    finally:
        await broker.close()


async def partition(place: Place, sagas: int, proxy: FaultProxy) -> int:
    async with place.under_load(sagas):
        await asyncio.sleep(0.5)
        with proxy.black_hole():
            await asyncio.sleep(8)
    return 1


async def one_way_partition(place: Place, sagas: int, proxy: FaultProxy) -> int:
    """What agents say arrives, and they never hear that it did; then the other way round."""
    async with place.under_load(sagas):
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
