"""A store that is away for a while, or whose adapter has a bug: nothing is lost, and the agent stays up. Memory broker and store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from saga_choreo import SagaState, StoreUnavailable
from saga_choreo.errors import StoreConflict
from saga_choreo.runtime.plugins import make_store
from tests.scenarios.world import QUICK, Go, World, chain, eventually, run


class FailingStore:
    """The real store; `fault()` may give an exception that every transaction and look then meets."""

    def __init__(self, url: str) -> None:
        self._real = make_store(url)
        self.fault: Exception | None = None
        self.met = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _meet(self) -> None:
        if self.fault is not None:
            self.met += 1
            raise self.fault

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Any]:
        self._meet()
        async with self._real.transaction() as transaction:
            yield transaction

    async def due(self, *args: Any, **how: Any) -> Any:
        if isinstance(self.fault, StoreUnavailable):
            self._meet()
        return await self._real.due(*args, **how)

    async def next_due_ms(self, *args: Any) -> Any:
        if isinstance(self.fault, StoreUnavailable):
            self._meet()
        return await self._real.next_due_ms(*args)

    async def unannounced(self, *args: Any, **how: Any) -> Any:
        if isinstance(self.fault, StoreUnavailable):
            self._meet()
        return await self._real.unannounced(*args, **how)


@pytest.mark.parametrize("fault", [StoreUnavailable("the disk is gone"), StoreConflict("busy"), ValueError("a bug of ours")])
def test_a_store_that_fails_for_a_while_loses_nothing(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        name = f"memory://failing-{type(fault).__name__}"
        world = World(chain(), name, f"{name}-{{service}}", replace(QUICK, nudge_first_s=0.5))
        store = FailingStore(f"{name}-payment")
        world.agents["payment"].configure(store=store)  # type: ignore[arg-type]
        cluster = world.cluster()
        world.agents["payment"].configure(store=store)  # type: ignore[arg-type]
        async with cluster:
            store.fault = fault
            handles = [await cluster["shop"].start_saga(Go(), key=str(number)) for number in range(4)]
            await eventually(lambda: _met(store, 2))
            await asyncio.sleep(0.2)
            store.fault = None
            for handle in handles:
                assert await handle.wait(15) is SagaState.COMPLETED
            effects = await world.effects(cluster)
            assert len(effects) == len({(one.saga, one.step) for one in effects}) == 3 * len(handles)

    with caplog.at_level(logging.WARNING, logger="saga_choreo"):
        run(scenario())
    said = {ValueError: "unexpected error", StoreUnavailable: "consuming pauses", StoreConflict: ""}
    assert said[type(fault)] in caplog.text


async def _met(store: FailingStore, times: int) -> bool:
    return store.met >= times


def test_an_attempt_that_cannot_be_handed_back_at_a_stop_does_not_fail_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        name = "memory://stopping"
        limits = replace(QUICK, stop_grace_s=0.1)
        world = World(chain(charge={"external": True}), name, f"{name}-{{service}}", limits)
        hanging = asyncio.Event()

        async def hang(ctx: object) -> None:
            hanging.set()
            await asyncio.sleep(3600)

        world.on[("charge", "do")] = hang
        cluster = world.cluster()
        store = FailingStore(f"{name}-payment")
        world.agents["payment"].configure(store=store)  # type: ignore[arg-type]
        async with cluster:
            await cluster["shop"].start_saga(Go())
            await asyncio.wait_for(hanging.wait(), 10)
            store.fault = StoreUnavailable("away")
            await cluster.stop("payment")
            store.fault = None

    with caplog.at_level(logging.WARNING, logger="saga_choreo"):
        run(scenario())
    assert "could not be handed back" in caplog.text


def test_an_attempt_cut_short_by_a_stop_is_handed_back_and_begun_again_with_the_same_key() -> None:
    async def scenario() -> None:
        name = "memory://handed-back"
        limits = replace(QUICK, stop_grace_s=0.1)
        world = World(chain(charge={"external": True}), name, f"{name}-{{service}}", limits)
        hanging = asyncio.Event()

        async def hang_once(ctx: object) -> None:
            if not hanging.is_set():
                hanging.set()
                await asyncio.sleep(3600)

        world.on[("charge", "do")] = hang_once
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await asyncio.wait_for(hanging.wait(), 10)
            await cluster.stop("payment")
            await cluster.start("payment")
            assert await handle.wait(10) is SagaState.COMPLETED
            assert [call.attempt for call in world.outside] == [1, 1]
            assert len({call.key for call in world.outside}) == 1

    run(scenario())
