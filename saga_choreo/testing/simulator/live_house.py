"""What real agents in virtual time live in: the loop as a world, the bus between them, and how everything is stopped."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any

from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.memory.bus import bus_of
from saga_choreo.ports.broker import Outgoing, Topology
from saga_choreo.testing.simulator.live_process import AgentProcess
from saga_choreo.testing.simulator.settings import Settings
from saga_choreo.testing.simulator.world import World
from saga_choreo.testing.virtual_loop import Life, NothingLeft, VirtualLoop

__all__ = ["House"]

_STOP_S = 120
# Names of buses and stores in this process; what is in a name changes nothing.
_places = count()


class _LoopWorld(World):
    """The same world, whose events are the loop's timers. They belong to no process."""

    def __init__(self, seed: int, settings: Settings) -> None:
        super().__init__(seed, settings)
        self.loop = VirtualLoop(self.streams.named("schedule"), self._passed)
        self.outside = contextvars.Context()
        self.who = Life.current.get

    def _passed(self, now_s: float) -> None:
        self.now_ns = int(now_s * 1e9)

    def after(self, delay_ns: int, call: Callable[..., object], *arguments: Any) -> None:
        self.loop.call_later(delay_ns / 1e9, call, *arguments, context=self.outside)

    def soon(self, call: Callable[..., object], *arguments: Any) -> None:
        self.after(int(self.latency.random() ** 4 * 60_000_000) + 50_000, call, *arguments)


class House:
    """One memory broker, and agents around it."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.seed = seed
        self.place = f"live{next(_places)}"
        self.world = _LoopWorld(seed, settings)
        self.loop = self.world.loop
        self.bus = bus_of(self.place, "saga")
        self._under_way = 0

    @property
    def is_bus_empty(self) -> bool:
        return not self._under_way and not any(queue.size for queue in self.bus.queues.values())

    async def open_bus(self) -> None:
        self._broker = MemoryBroker(f"memory://{self.place}")
        await self._broker.open(Topology(service="world", agent="world", events=(), receives=False))

    def spread(self, message: Outgoing, delay_ns: int) -> None:
        """Put a message on the bus after a while; nobody's death takes it back."""
        self._under_way += 1
        self.world.after(delay_ns, self._spread, message)

    def _spread(self, message: Outgoing) -> None:
        self.loop.create_task(self._put(message), context=self.world.outside.copy())

    async def _put(self, message: Outgoing) -> None:
        await self._broker.publish([message])
        self._under_way -= 1

    def run_loop(self, main: Coroutine[Any, Any, None]) -> None:
        try:
            self.loop.run(main)
        except NothingLeft as error:
            self.world.broken("L1", f"deadlock: {error}")

    async def hurt_for(self, seconds: float) -> None:
        """Let faults happen for so long, then none any more."""
        await self.wait(seconds, lambda: False)
        self.world.note("WORLD", "is healed")
        self.world.heal()

    async def wait(self, seconds: float, is_over: Callable[[], bool]) -> bool:
        until = self.loop.time() + seconds
        while self.loop.time() < until and not self.world.violations:
            if is_over():
                return True
            await asyncio.sleep(1.0)
        return False

    async def stop(self, processes: Sequence[AgentProcess]) -> None:
        """For good; nothing of them may go on."""
        for process in processes:
            process.close()
        if not await self.wait(_STOP_S, lambda: not any(process.is_up for process in processes)):
            names = ", ".join(process.name for process in processes if process.is_up)
            self.world.broken("STOP", f"did not stop within {_STOP_S} s: {names}")
        await self.wait(_STOP_S, lambda: not self.loop.open_tasks())  # a client's call may still wait for an answer
        leaked = [task.get_coro() for task in self.loop.open_tasks()]
        if leaked:
            self.world.broken("LEAK", f"{len(leaked)} tasks outlived their agent: {leaked[0]}")
