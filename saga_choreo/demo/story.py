"""What the demo tells: the order example, in which order its steps happen, and which orders are refused by whom.

The example lives in the project's checkout, not in the wheel, so it is imported by name when the demo runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from saga_choreo.errors import ConfigurationError
from saga_choreo.runtime.agent import Agent

__all__ = ["CHAIN", "EVENTS", "PACKAGE", "SERVICES", "Example", "Order", "StepOf", "find_example", "refuser"]

PACKAGE = "examples.order_processing"
SERVICES = ("order", "inventory", "payment", "shipping")


@dataclass(frozen=True, slots=True)
class StepOf:
    name: str
    service: str


# Each step is caused by the one before it.
CHAIN = (
    StepOf("reserve-stock", "inventory"),
    StepOf("charge-payment", "payment"),
    StepOf("book-shipment", "shipping"),
    StepOf("confirm-order", "order"),
)
# The events of the way forward; a hop leads from one to the next.
EVENTS = ("order.created", "stock.reserved", "payment.charged", "shipment.booked")
_REFUSERS = ("charge-payment", "book-shipment")


def refuser(number: int, fail_every: int) -> str:
    """The step that refuses the order with this number (from 1), or an empty string. 0 means that none is refused."""
    if not fail_every or number % fail_every:
        return ""
    return _REFUSERS[(number // fail_every - 1) % len(_REFUSERS)]


@dataclass(frozen=True, slots=True)
class Order:
    """One order to place. `refused_by` is a step's name, or empty."""

    number: int
    refused_by: str

    @property
    def key(self) -> str:
        return f"ORDER-{self.number}"


@dataclass(frozen=True, slots=True)
class Example:
    """The imported example. `root` is the directory that services are started in."""

    root: Path
    agent: Agent
    _event: Callable[..., Any]
    _place: Callable[[Any], Awaitable[Any]]

    async def place(self, order: Order) -> Any:
        """Start the order's saga, with what makes the right service refuse it; returns the saga's handle."""
        event = self._event(
            order=order.key,
            item=f"book-{order.number % 7}",
            quantity=1 + order.number % 3,
            amount_cents=1_000 + order.number,
            card="declined" if order.refused_by == "charge-payment" else "4111-1111",
            address="unreachable" if order.refused_by == "book-shipment" else f"Lime Street {order.number}",
        )
        return await self._place(event)


def find_example() -> Example:
    """Raises ConfigurationError where there is no checkout to import the example from."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        order = import_module(f"{PACKAGE}.order")
        choreography = import_module(f"{PACKAGE}.choreography")
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{PACKAGE}.order".startswith(exc.name):
            raise
        raise ConfigurationError(
            f"the example {PACKAGE!r} that the demo runs is not installed with the package (no module {exc.name!r}, looked for "
            f"from {here!r}); get the project's source and run the demo from its checkout: make demo"
        ) from exc
    assert order.__file__ is not None
    return Example(Path(order.__file__).resolve().parents[2], order.agent, choreography.OrderCreated, order.place_order)
