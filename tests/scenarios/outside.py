"""A saga with a step that waits for the outside, for the scenarios of pending steps and own deadlines."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from saga_choreo import Choreography, Event, Pending, SagaHandle, StepContext
from saga_choreo.runtime.plugins import make_store
from saga_choreo.testing.harness import Cluster
from tests.scenarios.world import Go, World, eventually, step

__all__ = ["Charged", "Other", "Outside", "form", "records", "token_of"]


class Charged(Event, name="payment.charged"):
    note: str = ""


class Other(Event, name="payment.other"):
    pass


def form(*, late: bool = False, **kinds: bool) -> Choreography:
    """reserve -> charge (external) -> confirm; with `late`, the deadline of charge leads to apologise."""
    charge = step("charge", "payment", "stock.reserved", "payment.charged", **{"external": True, **kinds})
    steps = [step("reserve", "inventory", Go, "stock.reserved"), step("confirm", "shop", "payment.charged")]
    if late:
        charge = charge.on_deadline("payment.late")
        steps.append(step("apologise", "shop", "payment.late"))
    return Choreography("pending").starts_with(Go).step(charge, *steps)


class Outside(World):
    """`charge` waits for the outside; its tokens are in `tokens`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tokens: list[str] = []

        async def ask(ctx: StepContext) -> Pending:
            self.tokens.append(ctx.token)
            return Pending()

        self.on.setdefault(("charge", "do"), ask)


async def token_of(world: Outside, cluster: Cluster, handle: SagaHandle) -> str:
    """The token, once the step is pending."""

    async def pending() -> bool:
        return any(record.row.pending for record in await records(cluster, "payment", handle.saga_id))

    await eventually(pending)
    return world.tokens[-1]


async def records(cluster: Cluster, service: str, saga_id: UUID) -> list[Any]:
    store = make_store(cluster.store_url(service))
    await store.open()
    try:
        return list(await store.records(saga_id, service))
    finally:
        await store.close()
