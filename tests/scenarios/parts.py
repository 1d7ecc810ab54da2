"""Agents that know only their own steps, for scenarios: declared in a line a step, noting in a list what they did."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from saga_choreo import Agent, Choreography, Event, Limits, StepContext, all_of, on_event, publish_event
from saga_choreo.runtime.plugins import make_broker, make_store
from tests.scenarios.world import QUICK

__all__ = ["Ordered", "Packed", "Paid", "Place", "Reserved", "declare", "serving"]

_numbers = itertools.count()
NAME = "shop"


class Ordered(Event, name="shop.ordered"):
    note: str = ""


class Reserved(Event, name="stock.reserved"):
    note: str = ""


class Paid(Event, name="payment.paid"):
    note: str = ""


class Packed(Event, name="parcel.packed"):
    note: str = ""


@dataclass
class Place:
    """Where a scenario's agents live; `did` is what their steps have done, in order."""

    broker: str
    store: str
    prefix: str = field(default_factory=lambda: f"p{next(_numbers)}")
    limits: Limits = field(default_factory=lambda: replace(QUICK, held_look_s=0.1, ready_timeout_s=8.0))
    did: list[str] = field(default_factory=list)

    def agent(self, service: str, saga: Choreography | str = NAME, *, release: int = 0, **limits: Any) -> Agent:
        return Agent(
            service,
            saga=saga,
            broker=self.broker,
            store=self.store.replace("{service}", service),
            prefix=self.prefix,
            limits=replace(self.limits, **limits),
            release=release,
        )

    def origin(self, *participants: str, **limits: Any) -> Agent:
        """The service 'web', which starts sagas; it owns steps if it is among the participants."""
        return self.agent("web", Choreography(NAME).starts_with(Ordered, participants=participants), **limits)

    def inventory(self, **options: Any) -> Agent:
        return declare(self, self.agent("inventory", **options), "reserve", [Ordered], Reserved)

    def payment(self, **options: Any) -> Agent:
        return declare(self, self.agent("payment", **options), "pay", [Ordered, Reserved], Paid)

    @asynccontextmanager
    async def open_broker(self, service: str) -> AsyncGenerator[Any]:
        """A bare broker beside the agents, that publishes and watches only."""
        from saga_choreo.ports import Topology

        broker = make_broker(self.broker, prefix=self.prefix)
        await broker.open(Topology(service=service, agent="t", events=(), receives=False))
        try:
            yield broker
        finally:
            await broker.close()

    @asynccontextmanager
    async def open_store(self, service: str) -> AsyncGenerator[Any]:
        store = make_store(self.store.replace("{service}", service))
        await store.open()
        try:
            yield store
        finally:
            await store.close()


def declare(place: Place, agent: Agent, name: str, reads: Sequence[type[Event]], publishes: type[Event] | None = None) -> Agent:
    """Add a step with a compensation."""

    async def forward(ctx: StepContext) -> Any:
        place.did.append(name)
        return None if publishes is None else publishes()

    async def back(ctx: StepContext) -> None:
        place.did.append(f"undo {name}")

    forward = on_event(all_of(*reads) if len(reads) > 1 else reads[0])(forward)
    if publishes is not None:
        forward = publish_event(publishes)(forward)
    agent.step(name)(forward).compensation(back)
    return agent


@asynccontextmanager
async def serving(*agents: Agent) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        for agent in agents:
            await stack.enter_async_context(agent.serving())
        yield
