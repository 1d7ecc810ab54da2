"""Naming a step's lock from the events it gets, and what cannot name one."""

from __future__ import annotations

from typing import Any

import pytest

from saga_choreo.errors import DecodeError, DefinitionError
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.declare.options import StepOptions
from tests.unit.declare.support import OrderCreated, StockReserved

ORDER = {OrderCreated.event: b'{"order_id":"o1","amount":3}'}
BOTH = {**ORDER, StockReserved.event: b'{"order_id":"s1"}'}


async def charge(ctx: StepContext, order: OrderCreated) -> None: ...


async def meet(order: OrderCreated, *, stock: StockReserved) -> None: ...


def bound(handler: Any, lock: Any) -> BoundStep:
    shop = Declarations("shop")
    shop.step(lock=lock)(handler)
    [step] = shop.freeze(None)
    return step


def test_a_lock_is_named_from_the_events_in_the_order_of_the_parameters() -> None:
    assert bound(charge, lambda order: f"order:{order.order_id}").lock_name(ORDER) == "order:o1"
    assert bound(meet, lambda order, stock: f"{order.order_id}/{stock.order_id}").lock_name(BOTH) == "o1/s1"


def test_none_is_no_lock_and_neither_is_a_step_without_one() -> None:
    assert bound(charge, lambda order: None if order.amount < 10 else "large").lock_name(ORDER) == ""
    assert bound(charge, None).lock_name(ORDER) == ""


@pytest.mark.parametrize("name", ["", 7, "x" * 251])
def test_what_is_no_name_is_an_error_that_shows_no_value(name: Any) -> None:
    with pytest.raises(DefinitionError, match="a name is a text of 1 to 250 characters, or None"):
        bound(charge, lambda order: name).lock_name(ORDER)


def test_an_event_that_does_not_fit_names_no_lock() -> None:
    with pytest.raises(DecodeError):
        bound(charge, lambda order: "x").lock_name({OrderCreated.event: b"{}"})


def test_a_function_that_cannot_take_the_events_is_found_at_start() -> None:
    async def later(order: OrderCreated) -> str:
        return "x"

    with pytest.raises(DefinitionError, match="cannot take the step's 2 events"):
        bound(meet, lambda order: "x")
    with pytest.raises(DefinitionError, match="write a plain function"):
        bound(charge, later)


def test_on_conflict_without_a_lock_or_in_other_words_is_refused() -> None:
    with pytest.raises(ValueError, match="without a lock"):
        StepOptions(on_conflict="refuse")
    with pytest.raises(ValueError, match="'wait' or 'refuse'"):
        StepOptions(on_conflict="fail", lock=lambda: "x")  # type: ignore[arg-type]  # wrong on purpose
