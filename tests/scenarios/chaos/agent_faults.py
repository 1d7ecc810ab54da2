"""What is done to agents while sagas run, and what they do to themselves. Each fault ends healed: then all sagas have to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from functools import partial
from pathlib import Path

from saga_choreo import SagaHandle
from saga_choreo.errors import Refused
from tests.scenarios.chaos.place import Place, Process, until
from tests.scenarios.chaos.tools import tools_of

__all__ = [
    "agents_killed",
    "cancelled_everywhere",
    "clocks_differ",
    "copies",
    "deliveries_given_up",
    "killed_everywhere",
    "loop_blocked",
    "out_of_order",
    "overload",
    "rebalance_storm",
    "redelivery_storm",
    "stopped_politely",
]

_SERVICES = ("inventory", "payment", "shipping", "order")
# A calm run takes 60 to 120 calls. On a busy machine an agent looks hundreds of times whether there is something to do.
_BOUNDARIES_MAX = 160
# Most points are inside a step, which is rightly left to people once it has killed its agent at five attempts.
_KILLS_IN_A_ROW = 3


async def killed_everywhere(place: Place, sagas: int) -> int:
    """kill -9 of an agent at each of its calls of broker and store, in turn, for every service. Returns how often."""
    kills = 0
    for service in _SERVICES:
        boundaries = await _counted(place, service, sagas)
        open_: list[SagaHandle] = []
        for number in filter(place.mine, range(1, boundaries + 1)):
            process = place.replace(service, CHAOS_DIES_AT=str(number))
            open_ += await place.start(sagas)
            # A run may need fewer calls than the one that was counted.
            with contextlib.suppress(TimeoutError):
                await until(partial(_is_dead, process), 6, "death of the agent")
                kills += 1
            if len(open_) >= _KILLS_IN_A_ROW * sagas:
                place.replace(service)
                await asyncio.gather(*(handle.wait(60) for handle in open_))
                open_.clear()
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
    return await _read(count_in)


async def _read(count_in: Path) -> int:
    return min(int(await asyncio.to_thread(count_in.read_text)), _BOUNDARIES_MAX)


async def cancelled_everywhere(place: Place, sagas: int) -> int:
    """Somebody asks for a saga to be undone while an agent stands still at one of its calls of broker and store: at each in turn, for
    every service. Returns how often an agent stood."""
    stops = 0
    for service in _SERVICES:
        stops_at, count_in = place.folder / f"{service}.stops-at", place.folder / f"{service}.count"
        process = place.replace(service, CHAOS_STOPS_AT=str(stops_at), CHAOS_COUNT_IN=str(count_in))
        await place.start(sagas)  # until it is up
        await place.verdict(60)
        await _begin_to_count(process, stops_at, 0)
        (handle,) = await place.start(1, may_be_undone=True)
        await handle.wait(60)
        boundaries = await _read(count_in)
        for number in filter(place.mine, range(1, boundaries + 1)):
            await _begin_to_count(process, stops_at, number)
            (handle,) = await place.start(1, may_be_undone=True)
            # A saga may need fewer calls than the one that was counted.
            with contextlib.suppress(TimeoutError):
                await until(partial(_stands, process), 4, "agent that stands still")
                stops += 1
            cancelling = asyncio.ensure_future(_cancel(handle))
            await asyncio.wait((cancelling,), timeout=0.3)  # so that the others hear of it
            process.child.send_signal(signal.SIGCONT)
            await cancelling
        await _begin_to_count(process, stops_at, 0)  # or it would stand still at the last one later, when nobody waits for it
    return stops


async def _begin_to_count(process: Process, stops_at: Path, number: int) -> None:
    def begin() -> None:
        stops_at.write_text(str(number))
        process.child.send_signal(signal.SIGUSR1)
        process.child.send_signal(signal.SIGCONT)  # it may have come to its point after nobody waited for that any more

    async def has_begun() -> bool:
        return not await asyncio.to_thread(stops_at.exists)

    await asyncio.to_thread(begin)
    await until(has_begun, 10, "answer of the agent")


async def _stands(process: Process) -> bool:
    return process.is_stopped


async def _cancel(handle: SagaHandle) -> None:
    with contextlib.suppress(Refused):
        await handle.cancel("chaos")


async def agents_killed(place: Place, sagas: int) -> int:
    """All agents at once, three times, back at different times."""
    async with place.under_load(sagas):
        for _ in range(3):
            await asyncio.sleep(place.random.uniform(0.2, 1.5))
            for process in place.running:
                process.kill()
            place.running.clear()
            for service in place.random.sample(_SERVICES, k=len(_SERVICES)):
                place.run(service)
                await asyncio.sleep(place.random.uniform(0.0, 0.4))
    return 3


async def stopped_politely(place: Place, sagas: int) -> int:
    """SIGTERM to all agents with hundreds of sagas in flight, twice: each ends with 0 by itself."""
    async with place.under_load(sagas):
        for share in (0.4, 0.8):
            goal = int(share * sagas)

            async def are_started(goal: int = goal) -> bool:
                return len(place.started) >= goal

            await until(are_started, 120, f"{goal} sagas in flight")
            await until(partial(_are_up, place), 30, "agents that are up")
            stopping = list(place.running)
            for process in stopping:
                place.end(process, signal.SIGTERM)
            codes = await asyncio.gather(*(asyncio.to_thread(process.child.wait, 30) for process in stopping))
            assert not any(codes), f"agents that were told to stop ended with {codes}"
            for service in _SERVICES:
                place.run(service)
    return 2


async def _are_up(place: Place) -> bool:
    return all(process.is_up for process in place.running)


async def copies(place: Place, sagas: int) -> int:
    """Everything is delivered three times."""
    for service in _SERVICES:
        place.replace(service, CHAOS_COPIES="3")
    await place.ready()
    await place.start(sagas)
    return 1


async def out_of_order(place: Place, sagas: int) -> int:
    """Half of all messages come up to three seconds late, the others last first."""
    for service in _SERVICES:
        place.replace(service, CHAOS_SHUFFLES="1")
    await place.ready()
    await place.start(sagas)
    return 1


async def clocks_differ(place: Place, sagas: int) -> int:
    """By less than the sagas' deadline of half an hour, which nobody notices; then by more, which times sagas out too soon; at the
    origin, too."""
    third = sagas // 3
    for ahead_s in (600, 3600):
        place.replace("payment", CHAOS_CLOCK_S=str(ahead_s))
        place.replace("shipping", CHAOS_CLOCK_S=str(-ahead_s))
        await place.start(third, may_be_undone=ahead_s > 600)
        await place.verdict(60)
    place.replace("payment")
    place.replace("order", CHAOS_CLOCK_S="3600")
    await place.start(sagas - 2 * third, may_be_undone=True)
    return 3


async def loop_blocked(place: Place, sagas: int, *, seconds: float = 30.0) -> int:
    """A step's code holds up its agent's event loop; the broker gives its messages to another agent meanwhile."""
    place.replace("payment", CHAOS_BLOCKS_S=str(seconds))
    await place.ready()
    async with place.under_load(sagas):
        place.run("payment")
        await asyncio.sleep(seconds + 1)
    return 1


async def redelivery_storm(place: Place, sagas: int) -> int:
    """An agent is stopped with all it has fetched until others have it, then goes on beside them."""
    async with place.under_load(sagas):
        for service in _SERVICES[:3]:
            place.run(service)
            stopped = next(one for one in place.running if one.service == service)
            stopped.child.send_signal(signal.SIGSTOP)
            await asyncio.sleep(5)
            stopped.child.send_signal(signal.SIGCONT)
    return 3


async def rebalance_storm(place: Place, sagas: int) -> int:
    """Agents of one service come and go every second."""
    async with place.under_load(sagas):
        for number in range(10):
            more = place.run("payment")
            await asyncio.sleep(1.0)
            place.end(more, signal.SIGTERM if number % 2 else signal.SIGKILL)
    return 10


async def deliveries_given_up(place: Place, sagas: int) -> int:
    """The broker gives a message up when it comes back for the second time, and agents die again and again before they acknowledge
    anything. Announcing again repairs it."""
    async with place.under_load(sagas):
        for _ in range(4):
            for service in ("payment", "shipping"):
                process = place.replace(service, CHAOS_DIES_BEFORE="ack")
                await until(partial(_is_dead, process), 30, "death of the agent")
        for service in ("payment", "shipping"):
            place.replace(service)
    put_aside = tools_of(place).put_aside
    assert put_aside is not None
    assert await put_aside(), "the broker gave nothing up"
    return 8


async def overload(place: Place, sagas: int) -> int:
    """Twice as many sagas as the agents can finish for half a minute, then half as many: the backlog is worked off in the time that
    so many sagas take, and one that comes after it is as quick as if there had been none."""
    began = time.monotonic()
    await place.start(sagas)
    await place.verdict(120)
    per_s = sagas / (time.monotonic() - began)
    await _arrive(place, 2 * per_s, 30)
    await _arrive(place, per_s / 2, 30)
    verdict = await place.verdict(60)
    assert not verdict.lost, f"a minute after the overload {verdict.lost} sagas had not ended"
    before_s = time.monotonic()
    await place.start(1)
    verdict = await place.verdict(30)
    assert not verdict.lost, "a saga that came after the overload had not ended after half a minute"
    assert time.monotonic() - before_s < 10, f"a saga took {time.monotonic() - before_s:.1f} s after the overload"
    return 1


async def _arrive(place: Place, per_s: float, seconds: float) -> None:
    """As many a second, however long each takes to be started."""
    async with asyncio.TaskGroup() as group:
        for _ in range(int(seconds)):
            group.create_task(place.start(max(int(per_s), 1)))
            await asyncio.sleep(1.0)
