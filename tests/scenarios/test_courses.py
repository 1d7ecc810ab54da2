"""The courses a saga can take: branches, joins, optional steps, pivots, deadlines, cancels. Real NATS and SQLite."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from saga_choreo import Choreography, Reject, SagaState, StepContext, all_of, any_of, one_of
from saga_choreo.errors import Refused, SagaNotFound
from saga_choreo.model.choreography import Split
from saga_choreo.runtime.commands import request_cancel
from saga_choreo.runtime.plugins import make_store
from tests.scenarios.world import Go, World, chain, eventually, run, step


async def refuse(ctx: StepContext) -> Any:
    raise Reject("no, thank you")


def test_a_saga_completes_and_each_step_has_happened_once_in_order(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), key="o-1")
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "charge", "confirm"]

    run(scenario())


def test_a_refusal_undoes_what_was_done_in_reverse_order(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, on={("confirm", "do"): refuse})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert await world.did(cluster, handle) == ["reserve", "charge", "undo charge", "undo reserve"]
            assert (await handle.view()).reason == "no, thank you"

    run(scenario())


def test_branches_run_side_by_side_and_meet_in_an_all_of_join(nats_url: str, store: str) -> None:
    form = (
        Choreography("fork")
        .starts_with(Go)
        .step(
            step("open", "shop", Go, "fork.left", "fork.right"),
            step("left", "inventory", "fork.left", "left.done"),
            step("right", "payment", "fork.right", "right.done"),
            step("meet", "inventory", all_of("left.done", "right.done"), "meet.done"),
            step("close", "shop", "meet.done"),
        )
    )

    async def scenario() -> None:
        world = World(form, nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            did = await world.did(cluster, handle)
            assert sorted(did) == ["close", "left", "meet", "open", "right"]
            assert did[0] == "open"
            assert did[-2:] == ["meet", "close"]
            world.on[("meet", "do")] = refuse
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPENSATED
            did = await world.did(cluster, handle)
            assert sorted(did[-3:-1]) == ["undo left", "undo right"]
            assert did[-1] == "undo open"

    run(scenario())


def test_a_choice_skips_the_other_branch_and_both_ways_reach_the_end(nats_url: str, store: str) -> None:
    form = (
        Choreography("choice")
        .starts_with(Go)
        .step(
            step("decide", "shop", Go, "go.cheap", "go.dear", split=Split.ONE),
            step("cheap", "inventory", "go.cheap", "cheap.done"),
            step("dear", "payment", "go.dear", "dear.done"),
            step("deliver", "inventory", one_of("cheap.done", "dear.done")),
        )
    )

    async def scenario() -> None:
        world = World(form, nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["decide", "cheap", "deliver"]
            world.on[("deliver", "do")] = refuse
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert await world.did(cluster, handle) == ["decide", "cheap", "undo cheap", "undo decide"]

    run(scenario())


def test_an_optional_step_that_refuses_is_skipped_and_an_any_of_join_goes_on_without_it(nats_url: str, store: str) -> None:
    form = (
        Choreography("optional")
        .starts_with(Go)
        .step(
            step("open", "shop", Go, "gift.wanted", "card.wanted"),
            step("wrap", "inventory", "gift.wanted", "gift.wrapped", optional=True),
            step("write", "payment", "card.wanted", "card.written"),
            step("close", "shop", any_of("gift.wrapped", "card.written")),
        )
    )

    async def scenario() -> None:
        world = World(form, nats_url, store, on={("wrap", "do"): refuse})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert sorted(await world.did(cluster, handle)) == ["close", "open", "write"]

    run(scenario())


def test_after_the_pivot_a_retriable_step_is_tried_until_it_works_and_a_cancel_comes_too_late(nats_url: str, store: str) -> None:
    form = (
        Choreography("pivot")
        .starts_with(Go)
        .step(
            step("reserve", "inventory", Go, "stock.reserved"),
            step("charge", "payment", "stock.reserved", "payment.charged", undo=False, pivot=True),
            step("ship", "shop", "payment.charged", undo=False, retriable=True),
        )
    )

    async def scenario() -> None:
        world = World(form, nats_url, store)
        gate = asyncio.Event()

        async def not_yet(ctx: StepContext) -> None:
            if not gate.is_set():
                raise Reject("not yet")

        world.on[("ship", "do")] = not_yet
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: _has(world, ("ship", "do"), 2))
            await handle.cancel("changed my mind")
            gate.set()
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "charge", "ship"]

    run(scenario())


async def _has(world: World, act: tuple[str, str], times: int) -> bool:
    return world.tried.count(act) >= times


def test_a_saga_past_its_deadline_is_undone_and_has_timed_out(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        await_for_ever = asyncio.Event()

        async def fail(ctx: StepContext) -> None:
            raise RuntimeError(f"down {await_for_ever.is_set()}")

        world.on[("confirm", "do")] = fail
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), deadline=timedelta(seconds=0.7))
            assert await handle.wait(10) is SagaState.TIMED_OUT
            assert await world.did(cluster, handle) == ["reserve", "charge", "undo charge", "undo reserve"]

    run(scenario())


def test_a_cancel_by_handle_undoes_what_was_done_and_a_second_one_after_the_end_is_refused(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, on={("confirm", "do"): _fail})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), key="c-1")
            await eventually(lambda: _has(world, ("confirm", "do"), 1))
            await cluster["shop"].saga("c-1").cancel("customer called")
            assert await handle.wait(10) is SagaState.CANCELLED
            assert (await handle.view()).reason == "customer called"
            assert await world.did(cluster, handle) == ["reserve", "charge", "undo charge", "undo reserve"]
            with pytest.raises(Refused, match="ended already"):
                await handle.cancel("again")

    run(scenario())


async def _fail(ctx: StepContext) -> None:
    raise RuntimeError("the service is down")


@pytest.mark.parametrize("where", ["payment", "shop"])
def test_a_cancel_requested_on_a_participants_store_reaches_the_origin(nats_url: str, store: str, where: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, on={("confirm", "do"): _fail})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: _has(world, ("confirm", "do"), 1))
            tool = make_store(cluster.store_url(where))
            await tool.open()
            try:
                await request_cancel(tool, handle.saga_id, "an operator said so")
            finally:
                await tool.close()
            assert await handle.wait(10) is SagaState.CANCELLED
            assert await world.did(cluster, handle) == ["reserve", "charge", "undo charge", "undo reserve"]

    run(scenario())


def test_a_cancel_of_a_saga_that_a_store_does_not_know_says_where_to_look(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await handle.wait(10)
            tool = make_store("memory://")
            await tool.open()
            with pytest.raises(SagaNotFound, match="store of the service that started it"):
                await request_cancel(tool, handle.saga_id, "why not")
            tool = make_store(cluster.store_url("payment"))
            await tool.open()
            try:
                with pytest.raises(Refused, match="ended already"):
                    await eventually(lambda: _refused(tool, handle.saga_id))
            finally:
                await tool.close()

    run(scenario())


async def _refused(tool: Any, saga_id: Any) -> None:
    await request_cancel(tool, saga_id, "too late")
