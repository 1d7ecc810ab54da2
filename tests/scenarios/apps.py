"""Agents for processes of their own: `saga-choreo run tests.scenarios.apps:payment`, configured by the environment.

WORLD_PREFIX and WORLD_SLOW (seconds that `charge` takes, external) come from the test; broker and store by SAGA_*.
WORLD_FAULTY=1: a release whose `charge` fails, and parks at its first failure.
WORLD_MUTE=1: nothing is ever published by this process (its broker hangs), as if it died right after its commits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from saga_choreo import Choreography, Retry, StepContext
from saga_choreo.ports import Outgoing
from saga_choreo.runtime.plugins import make_broker
from tests.scenarios.world import QUICK, Go, World, step

form = (
    Choreography("in-processes")
    .starts_with(Go)
    .step(
        step("reserve", "inventory", Go, "stock.reserved"),
        step("charge", "payment", "stock.reserved", "payment.charged"),
        step("confirm", "shop", "payment.charged"),
    )
)
slow_s = float(os.environ.get("WORLD_SLOW", "0"))


class MuteBroker:
    """The real broker, except that a publication never ends."""

    def __init__(self, url: str, prefix: str) -> None:
        self._real = make_broker(url, prefix=prefix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        print("mute", flush=True)
        await asyncio.Event().wait()
        return []


async def take_time(ctx: StepContext) -> None:
    await asyncio.sleep(slow_s)


async def fail(ctx: StepContext) -> None:
    raise RuntimeError("a fault of this release")


def world(broker: str, store: str, prefix: str) -> World:
    on: dict[tuple[str, str], Any] = {("charge", "do"): take_time} if slow_s else {}
    limits = replace(QUICK, lease_s=1.0, slow_timeout_s=0.6)
    options: dict[str, Any] = {"charge": {"own_transaction": True}} if slow_s else {}
    if os.environ.get("WORLD_FAULTY"):
        on, options = {("charge", "do"): fail}, {"charge": {"retry": Retry(attempts=1)}}
    return World(form, broker, store, limits=limits, prefix=prefix, on=on, options=options)


if "WORLD_PREFIX" in os.environ:
    _here = world(os.environ["SAGA_BROKER_URL"], os.environ["SAGA_STORE_URL"], os.environ["WORLD_PREFIX"])
    inventory, payment, shop = (_here.agents[name] for name in ("inventory", "payment", "shop"))
    if os.environ.get("WORLD_MUTE"):
        for agent in (inventory, payment, shop):
            agent.configure(broker=MuteBroker(os.environ["SAGA_BROKER_URL"], os.environ["WORLD_PREFIX"]))
