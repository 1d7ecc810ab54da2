"""Worlds in which a step parks, and words on it, for the scenarios of parked steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from saga_choreo import (
    Backoff,
    Event,
    Reject,
    Retry,
    SagaHandle,
    StepContext,
)
from saga_choreo.model.record import Record
from saga_choreo.runtime.commands import resolve
from saga_choreo.runtime.parked import ParkedStep
from saga_choreo.runtime.plugins import WholeStore, make_store
from saga_choreo.testing.harness import Cluster
from tests.scenarios.world import World, chain, eventually

__all__ = [
    "ONCE",
    "Charged",
    "Failing",
    "refuse",
    "parks_local",
    "parks_external",
    "parks_undo",
    "parked",
    "with_tool",
    "say",
    "record_of",
]

ONCE = {"retry": Retry(attempts=2, backoff=Backoff.FIXED, delay_s=0.05)}


class Charged(Event, name="payment.charged"):
    note: str = ""


class Failing:
    """An act that fails until `works` is set."""

    def __init__(self) -> None:
        self.works = False

    async def __call__(self, ctx: StepContext) -> None:
        if not self.works:
            raise RuntimeError("the bank is down")


async def refuse(ctx: StepContext) -> Any:
    raise Reject("no")


def parks_local(url: str, store: str) -> tuple[World, Failing]:
    down = Failing()
    return World(chain(), url, store, options={"charge": ONCE}, on={("charge", "do"): down}), down


def parks_external(url: str, store: str) -> tuple[World, Failing]:
    down = Failing()
    return World(chain(charge={"external": True}), url, store, options={"charge": ONCE}, on={("charge", "do"): down}), down


def parks_undo(url: str, store: str) -> tuple[World, Failing]:
    down = Failing()
    on: dict[tuple[str, str], Any] = {("confirm", "do"): refuse, ("charge", "undo"): down}
    return World(chain(), url, store, undo_options={"charge": ONCE}, on=on), down


async def parked(cluster: Cluster, handle: SagaHandle) -> ParkedStep:
    async def look() -> list[ParkedStep]:
        return [one for one in await cluster["payment"].parked_steps() if one.saga_id == handle.saga_id]

    return (await eventually(look))[0]


async def with_tool(cluster: Cluster, service: str, work: Callable[[WholeStore], Awaitable[Any]]) -> Any:
    tool = make_store(cluster.store_url(service))
    await tool.open()
    try:
        return await work(tool)
    finally:
        await tool.close()


async def say(cluster: Cluster, handle: SagaHandle, verb: str, by: str = "ana", event: Any = None) -> Any:
    return await with_tool(
        cluster,
        "payment",
        lambda tool: resolve(tool, handle.saga_id, "charge", verb, operator=by, reason="ticket 4411", event=event),
    )


async def record_of(cluster: Cluster, saga_id: UUID) -> Record:
    found = await with_tool(cluster, "payment", lambda tool: tool.records(saga_id, "payment"))
    record: Record = found[0]
    return record
