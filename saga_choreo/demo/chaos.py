"""Chaos: kill -9 for three services, each while it has work in its hands.

A service is stopped first (SIGSTOP), so that what it holds can be counted while it cannot finish it: messages that the broker
gave it and that it has not acknowledged, and records whose announcement it has not noted. With enough it is killed and
started again at once; with too few it goes on, and is looked at again a little later.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from saga_choreo.demo.load import Load
from saga_choreo.demo.processes import Service
from saga_choreo.demo.stage import Connections
from saga_choreo.demo.wire import Backlog, Wire
from saga_choreo.ports import Scans

__all__ = ["IN_FLIGHT_MIN", "KILLS", "Kill", "strike_all"]

KILLS = 3
IN_FLIGHT_MIN = 5
_LOOK_S = 0.05
# Acknowledgements that were on their way when the service was stopped reach the server within this.
_SETTLE_S = 0.02
_SETTLE_LOOKS = 5
_COUNTED_MAX = 10_000
_MORE = 10


@dataclass(frozen=True, slots=True)
class Kill:
    service: str
    unacked: int
    unannounced: int

    @property
    def in_flight(self) -> int:
        return self.unacked + self.unannounced


async def strike_all(
    load: Load, services: Mapping[str, Service], around: Connections, kills: list[Kill], tell: Callable[[str], None]
) -> None:
    """Kill three of the services, in a random order, one in each of the first quarters of the load, and put them on `kills`.
    Fewer when the load is over before a service ever had enough in its hands."""
    for name in random.sample(sorted(services), KILLS):  # not a secret; any three will do
        load.allow((load.total * (len(kills) + 1) + KILLS) // (KILLS + 1))
        # Half of what the blow before left behind has ended: the services are in motion again.
        ended_min = load.total * len(kills) // (2 * (KILLS + 1))
        kill = await _until_struck(load, services[name], around.stores[name], around.wire, ended_min)
        if kill is None:
            return
        kills.append(kill)
        held = f"{kill.unacked} unacknowledged messages and {kill.unannounced} unannounced records"
        tell(f"killed {name} with {held} in flight; started it again as process {services[name].pid}")


async def _until_struck(load: Load, service: Service, store: Scans, wire: Wire, ended_min: int) -> Kill | None:
    while True:
        if load.is_fed and load.under_way and len(load.states) >= ended_min:
            kill = await _strike(service, store, wire)
            if kill is not None:
                return kill
        if load.is_idle and not load.allow_more(_MORE):
            return None
        await asyncio.sleep(_LOOK_S)


async def _strike(service: Service, store: Scans, wire: Wire) -> Kill | None:
    service.signal(signal.SIGSTOP)
    try:
        backlog = await _settled(service.name, wire)
        far_ms = time.time_ns() // 1_000_000 + 60_000
        unannounced = len(await store.unannounced(service.name, far_ms, far_ms, _COUNTED_MAX))
        # Without an unacknowledged message the broker would have nothing to deliver again, and the blow would show little.
        if not backlog.unacked or backlog.unacked + unannounced < IN_FLIGHT_MIN:
            return None
        service.kill()
    finally:
        service.signal(signal.SIGCONT)
    service.start()
    return Kill(service.name, backlog.unacked, unannounced)


async def _settled(name: str, wire: Wire) -> Backlog:
    """The backlog once its unacknowledged part no longer shrinks."""
    found = await wire.backlog(name)
    for _ in range(_SETTLE_LOOKS):
        await asyncio.sleep(_SETTLE_S)
        before, found = found, await wire.backlog(name)
        if found.unacked >= before.unacked:
            break
    return found
