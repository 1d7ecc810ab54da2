"""Dependencies: made once per call, in order, closed after the handler, and never able to hide its failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import pytest

from saga_choreo.errors import DefinitionError, Reject
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.declare.inject import Depends
from tests.unit.declare.support import FakeContext, OrderCreated

ORDER = {OrderCreated.event: b'{"order_id":"o1"}'}
LOG: list[object] = []


def settings() -> str:
    LOG.append("settings")
    return "dsn"


async def pool(dsn: Annotated[str, Depends(settings)]) -> str:
    LOG.append("pool")
    return f"pool({dsn})"


async def connection(ctx: StepContext, pool: str = Depends(pool)) -> AsyncIterator[str]:
    LOG.append(f"open for {ctx.step}")
    try:
        yield f"connection of {pool}"
    finally:
        LOG.append("closed")


def lock(dsn: str = Depends(settings), tries: int = 1) -> Iterator[str]:
    LOG.append("locked")
    yield f"lock {tries}"
    LOG.append("unlocked")


class Client:
    def __init__(self, ctx: StepContext) -> None:
        self.step = ctx.step


class Maker:
    async def __call__(self, client: Annotated[Client, Depends(Client)]) -> str:
        return f"made for {client.step}"


def run(handler: Callable[..., Any]) -> list[object]:
    LOG.clear()
    shop = Declarations("shop")
    shop.step(handler)
    [bound] = shop.freeze(None)
    asyncio.run(bound.run(ORDER, FakeContext()))
    return list(LOG)


def test_factories_run_once_in_order_and_are_closed_in_reverse() -> None:
    async def handle(
        order: OrderCreated,
        held: Annotated[str, Depends(lock)],
        conn: str = Depends(connection),
        dsn: str = Depends(settings),
    ) -> None:
        LOG.append((order.order_id, held, conn, dsn))

    assert run(handle) == [
        "settings",
        "locked",
        "pool",
        "open for step",
        ("o1", "lock 1", "connection of pool(dsn)", "dsn"),
        "closed",
        "unlocked",
    ]


def test_a_compensation_gets_dependencies_too() -> None:
    seen: list[str] = []
    shop = Declarations("shop")

    @shop.step
    async def handle(order: OrderCreated) -> None: ...

    @handle.compensation
    async def undo(ctx: StepContext, *, conn: str = Depends(connection)) -> None:
        seen.append(conn)

    [bound] = shop.freeze(None)
    asyncio.run(bound.undo({}, None, FakeContext()))
    assert seen == ["connection of pool(dsn)"]


def test_a_failing_handler_closes_what_was_opened_and_its_error_comes_through() -> None:
    async def handle(order: OrderCreated, conn: str = Depends(connection)) -> None:
        raise Reject("no")

    with pytest.raises(Reject, match="no"):
        run(handle)
    assert LOG[-1] == "closed"


def test_a_dependency_cannot_swallow_the_handlers_error() -> None:
    def swallowing() -> Iterator[int]:
        with suppress(Reject):
            yield 1

    async def handle(order: OrderCreated, one: Annotated[int, Depends(swallowing)]) -> None:
        raise Reject("still no")

    with pytest.raises(Reject, match="still no"):
        run(handle)


def test_cancellation_passes_through_and_closes() -> None:
    async def handle(order: OrderCreated, conn: str = Depends(connection)) -> None:
        await asyncio.sleep(3600)

    async def cancelled() -> bool:
        shop = Declarations("shop")
        shop.step(handle)
        [bound] = shop.freeze(None)
        task = asyncio.create_task(bound.run(ORDER, FakeContext()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    LOG.clear()
    assert asyncio.run(cancelled())
    assert LOG[-1] == "closed"


def test_classes_and_callable_objects_are_factories() -> None:
    async def handle(order: OrderCreated, made: Annotated[str, Depends(Maker())]) -> None:
        LOG.append(made)

    assert run(handle) == ["made for step"]


def in_a_circle(again: Annotated[int, Depends(lambda: 0)] = 0) -> int:
    return again


in_a_circle.__annotations__["again"] = Annotated[int, Depends(in_a_circle)]


def needs_a_number(number: int) -> int:
    return number


def test_what_cannot_be_injected_is_refused_when_frozen() -> None:
    async def circular(order: OrderCreated, x: Annotated[int, Depends(in_a_circle)]) -> None: ...
    async def unfilled(order: OrderCreated, x: Annotated[int, Depends(needs_a_number)]) -> None: ...

    shop = Declarations("shop")
    shop.step(circular)
    shop.step(unfilled)
    with pytest.raises(DefinitionError) as caught:
        shop.freeze(None)
    first, second = caught.value.findings
    assert "dependencies form a cycle: 'in_a_circle' -> 'in_a_circle'" in first
    assert "'needs_a_number' has the parameter 'number', which nothing fills" in second
