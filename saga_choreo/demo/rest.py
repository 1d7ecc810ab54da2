"""Waiting: until all services are ready, and until nothing is left to do for any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from uuid import UUID

from saga_choreo.core.graph import plan_of
from saga_choreo.demo.load import Load
from saga_choreo.demo.processes import DemoFailed, Service
from saga_choreo.demo.stage import Connections
from saga_choreo.demo.story import Example
from saga_choreo.demo.wire import Backlog
from saga_choreo.ports import Reader
from saga_choreo.runtime.views import view_of

__all__ = ["come_to_rest", "open_sagas", "redelivered", "until_ready"]

_READY_S = 60.0
# Several times what the broker waits before it delivers again what a killed service had not acknowledged.
_REST_S = 30.0
_LOOK_S = 0.05
_SHOWN = 10


async def until_ready(example: Example, services: Mapping[str, Service], stores: Mapping[str, Reader]) -> None:
    """Until every owner has announced the choreography, as the order service's store knows. Raises DemoFailed."""
    (choreography,) = example.agent.choreographies
    owners = set(plan_of(choreography).owners)
    try:
        async with asyncio.timeout(_READY_S):
            while owners - set(await stores["order"].holders(choreography.definition)):  # noqa: ASYNC110  another process sets it
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as exc:
        missing = sorted(owners - set(await stores["order"].holders(choreography.definition)))
        logs = "\n".join(f"-- {name}:\n{services[name].log_end()}" for name in missing)
        raise DemoFailed(f"services {missing!r} were not ready within {_READY_S:.0f} s; their logs end:\n{logs}") from exc


async def come_to_rest(around: Connections, services: Iterable[str]) -> list[str]:
    """Until every message is acknowledged, so that late repeated deliveries are judged too. Returns what is left over."""
    left: dict[str, Backlog] = {}
    try:
        async with asyncio.timeout(_REST_S):
            while True:
                left = {name: await around.wire.backlog(name) for name in services}
                if all(backlog == Backlog() for backlog in left.values()):
                    return []
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        return [
            f"service {name!r} still has {backlog.unacked} unacknowledged and {backlog.waiting} waiting messages {_REST_S:.0f} s after the last end"
            for name, backlog in left.items()
            if backlog != Backlog()
        ]


async def redelivered(stores: Mapping[str, Reader]) -> dict[str, int]:
    """Deliveries that the broker marked as repeated, by service; counted in the commit that worked on them."""
    return {name: (await store.counters(name)).get("redelivered", 0) for name, store in stores.items()}


async def open_sagas(load: Load, stores: Mapping[str, Reader]) -> list[str]:
    """Sagas that have not ended, each with what every service knows of it."""
    (choreography,) = load.example.agent.choreographies
    plan = plan_of(choreography)
    lines: list[str] = []
    left = [saga_id for saga_id in load.order_of if saga_id not in load.states]
    for saga_id in left[:_SHOWN]:
        known: list[str] = []
        for name, store in stores.items():
            records = await store.records(UUID(saga_id), name)
            if records:
                view = view_of(records, plan)
                steps = [f"{step.step} {step.state}{f' ({step.error})' if step.error else ''}" for step in view.steps]
                known.append(f"{name}: saga {view.state}{', ' if steps else ''}{', '.join(steps)}")
        lines.append(f"{load.order_of[saga_id].key} ({saga_id}) has not ended; {'; '.join(known) or 'no service knows it'}")
    if len(left) > _SHOWN:
        lines.append(f"{len(left) - _SHOWN} more have not ended")
    if unplaced := load.total - len(load.order_of):
        lines.append(f"{unplaced} orders were not placed in time")
    return lines
