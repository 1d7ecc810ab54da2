"""An agent of `payment` that kills its own process with SIGKILL at a chosen point: `saga-choreo run tests.scenarios.mortal:payment`.

MORTAL_PREFIX and MORTAL_NOTES (a file that every run of `charge` is noted in) come from the test; broker and store by SAGA_*.
MORTAL_AT is where it dies, if at all: in the `handler`, before it could `publish` or `ack`; MORTAL_CALL=1 makes `charge` external.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from saga_choreo import Agent, Choreography, Event, StepContext
from saga_choreo.runtime.plugins import make_broker
from tests.scenarios.world import event_of, step

__all__ = ["Ordered", "form", "notes"]

# Not the first one: others of its kind are under way when it dies.
_DIES_AT = 3


class Ordered(Event, name="mortal.ordered"):
    pass


def form(*, external: bool) -> Choreography:
    charge = step("charge", "payment", "stock.reserved", "payment.charged", external=external)
    return (
        Choreography("mortal")
        .starts_with(Ordered)
        .step(step("reserve", "inventory", Ordered, "stock.reserved"), charge, step("confirm", "shop", "payment.charged"))
    )


def notes(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def note(**what: Any) -> None:
    with Path(os.environ["MORTAL_NOTES"]).open("a") as file:
        file.write(json.dumps(what | {"pid": os.getpid(), "at": time.time()}) + "\n")


class Death:
    def __init__(self, at: str) -> None:
        self._at = at
        self._passed = 0

    def passes(self, point: str) -> None:
        if point == self._at:
            self._passed += 1
            if self._passed == _DIES_AT:
                note(what="dies")
                os.kill(os.getpid(), signal.SIGKILL)


class MortalBroker:
    """The real broker, until death."""

    def __init__(self, real: Any, death: Death) -> None:
        self._real = real
        self._death = death
        self._is_up = False

    def __getattr__(self, name: str) -> Any:
        if name == "receive" and not self._is_up:
            self._is_up = True
            note(what="up")
        if name in ("publish", "ack"):
            self._death.passes(name)
        return getattr(self._real, name)


if "MORTAL_PREFIX" in os.environ:
    _death = Death(os.environ.get("MORTAL_AT", ""))
    _external = os.environ.get("MORTAL_CALL") == "1"
    _broker = make_broker(os.environ["SAGA_BROKER_URL"], prefix=os.environ["MORTAL_PREFIX"])
    payment = Agent("payment", saga=form(external=_external), broker=MortalBroker(_broker, _death))  # type: ignore[arg-type]

    async def charge(ctx: StepContext) -> Any:
        note(what="charge", saga=str(ctx.saga_id), key=ctx.idempotency_key, attempt=ctx.attempt)
        if _external:
            await asyncio.sleep(0.2)
        _death.passes("handler")
        return event_of("payment.charged")()

    async def refund(ctx: StepContext) -> None:
        raise AssertionError("nothing is to be undone here")

    payment.step("charge")(charge).compensation(**({"external": True} if _external else {}))(refund)
