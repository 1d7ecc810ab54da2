"""Steps that fail, overrun, hang, call the outside or never answer. Real NATS and SQLite."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from saga_choreo import Backoff, OnExhausted, Pending, Reject, Retry, SagaHandle, SagaState, StepContext
from saga_choreo.runtime.plugins import make_store
from saga_choreo.testing.harness import Cluster
from tests.scenarios.world import QUICK, Go, World, chain, eventually, run

QUICKLY = Retry(attempts=3, backoff=Backoff.FIXED, delay_s=0.1)


async def fail(ctx: StepContext) -> Any:
    raise RuntimeError("the service is down")


async def error_of(cluster: Cluster, service: str, handle: SagaHandle, step: str) -> str:
    view = await cluster[service].saga(handle.saga_id).view()
    return next(one.error for one in view.steps if one.step == step)


async def is_parked(cluster: Cluster, service: str, handle: SagaHandle) -> bool:
    view = await cluster[service].saga(handle.saga_id).view()
    return any(one.parked for one in view.steps)


def test_a_step_that_fails_is_tried_again_until_it_works_and_its_effect_stands_once(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, options={"charge": {"retry": replace(QUICKLY, attempts=5)}})
        attempts: list[int] = []

        async def third_time(ctx: StepContext) -> None:
            attempts.append(ctx.attempt)
            if len(attempts) < 3:
                raise OSError("connection refused")

        world.on[("charge", "do")] = third_time
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "charge", "confirm"]
            assert attempts == [1, 2, 3]

    run(scenario())


def test_a_step_that_keeps_failing_is_parked_and_a_cancel_still_gets_through(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, options={"charge": {"retry": QUICKLY}}, on={("charge", "do"): fail})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: known(cluster, "payment", handle))
            await eventually(lambda: is_parked(cluster, "payment", handle))
            assert world.tried.count(("charge", "do")) == 3
            assert await error_of(cluster, "payment", handle, "charge") == "RuntimeError: the service is down"
            await handle.cancel("give it up")
            assert await handle.wait(10) is SagaState.CANCELLED
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())


async def known(cluster: Cluster, service: str, handle: SagaHandle) -> bool:
    return any(one.saga_id == handle.saga_id for one in await cluster[service].sagas())


def test_a_step_that_gives_up_by_policy_aborts_the_saga_and_says_why(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        retry = replace(QUICKLY, attempts=2, on_exhausted=OnExhausted.VETO)
        world = World(chain(), nats_url, store, options={"charge": {"retry": retry}}, on={("charge", "do"): fail})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert (await handle.view()).reason == "gave up after 2 attempts: RuntimeError: the service is down"
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())


def test_a_backoff_survives_the_restart_of_its_agent_and_the_attempts_go_on_counting(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        retry = Retry(attempts=2, backoff=Backoff.FIXED, delay_s=1.0, on_exhausted=OnExhausted.VETO)
        world = World(chain(), nats_url, store, options={"charge": {"retry": retry}}, on={("charge", "do"): fail})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: tried(world, "charge", 1))
            await cluster.stop("payment")
            await cluster.start("payment")
            assert world.tried.count(("charge", "do")) == 1
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert world.tried.count(("charge", "do")) == 2

    run(scenario())


async def tried(world: World, name: str, times: int, side: str = "do") -> bool:
    return world.tried.count((name, side)) >= times


def test_a_handler_that_overruns_the_fast_lane_goes_on_in_the_slow_one_with_one_effect(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)

        async def slow(ctx: StepContext) -> None:
            await asyncio.sleep(0.4)

        world.on[("charge", "do")] = slow
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "charge", "confirm"]
            assert world.tried.count(("charge", "do")) == 2

    run(scenario())


def test_a_step_that_holds_the_only_writer_for_too_long_is_told_so(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        retry = replace(QUICKLY, attempts=1)
        world = World(chain(), nats_url, store, options={"charge": {"retry": retry}})

        async def hold(ctx: StepContext) -> None:
            await asyncio.sleep(1.3)

        world.on[("charge", "do")] = hold
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: known(cluster, "payment", handle))
            await eventually(lambda: is_parked(cluster, "payment", handle))
            assert "external" in await error_of(cluster, "payment", handle, "charge")

    run(scenario())


def test_a_failing_undo_is_retried_and_the_steps_before_it_wait_for_it(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, undo_options={"charge": {"retry": QUICKLY}})
        failures = 2

        async def twice(ctx: StepContext) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise RuntimeError("cannot refund now")

        world.on[("confirm", "do")] = refuse
        world.on[("charge", "undo")] = twice
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert await world.did(cluster, handle) == ["reserve", "charge", "undo charge", "undo reserve"]
            assert world.tried.count(("charge", "undo")) == 3

    run(scenario())


async def refuse(ctx: StepContext) -> Any:
    raise Reject("no")


def test_an_undo_that_gives_up_is_passed_by_when_its_step_says_so_and_the_saga_ends_failed(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        undo_options = {"charge": {"retry": replace(QUICKLY, attempts=2), "on_park_continue": True}}
        world = World(chain(), nats_url, store, undo_options=undo_options)
        world.on[("confirm", "do")] = refuse
        world.on[("charge", "undo")] = fail
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.FAILED
            assert await world.did(cluster, handle) == ["reserve", "charge", "undo reserve"]

    run(scenario())


def test_an_external_step_keeps_its_key_over_time_outs_and_its_undo_has_another(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        options = {"charge": {"retry": QUICKLY, "timeout": 0.3}}
        world = World(chain(charge={"external": True}), nats_url, store, options=options)
        world.on[("confirm", "do")] = refuse

        async def hang_once(ctx: StepContext) -> None:
            if ctx.attempt == 1:
                await asyncio.sleep(60)

        world.on[("charge", "do")] = hang_once
        world.on[("charge", "undo")] = hang_once
        world.undo_options = {"charge": {"retry": QUICKLY}}
        world.__post_init__()
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: tried(world, "charge", 2))
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]
            keys = {side: {call.key for call in world.outside if call.side == side} for side in ("do", "undo")}
            assert [call.attempt for call in world.outside if call.side == "do"] == [1, 2]
            assert len(keys["do"]) == len(keys["undo"]) == 1
            assert keys["do"] != keys["undo"]

    run(scenario(), 60)


def test_an_external_step_is_recorded_before_it_is_called_and_has_no_transaction(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(charge={"external": True}), nats_url, store)
        states: list[str] = []

        async def look(ctx: StepContext) -> None:
            view = await world.agents["payment"].saga(ctx.saga_id).view()
            states.append(f"{view.steps[0].state} {view.steps[0].attempt}")
            await ctx.tx.execute("select 1")

        world.on[("charge", "do")] = look
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: tried(world, "charge", 1))
            await eventually(lambda: is_parked(cluster, "payment", handle))
            assert states == ["running 1"]
            assert "has no ctx.tx" in await error_of(cluster, "payment", handle, "charge")

    run(scenario())


def test_a_refusal_of_an_external_step_aborts_the_saga(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(charge={"external": True}), nats_url, store, on={("charge", "do"): refuse})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())


def test_a_pending_step_stays_pending_over_a_restart_and_is_not_called_again(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(charge={"external": True}), nats_url, store)

        async def later(ctx: StepContext) -> Pending:
            return Pending()

        world.on[("charge", "do")] = later
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await eventually(lambda: tried(world, "charge", 1))
            await cluster.stop("payment")
            await cluster.start("payment")
            await handle.cancel("too slow")
            await asyncio.sleep(1.2)  # longer than any timer here
            assert world.tried.count(("charge", "do")) == 1
            assert await handle.state() is SagaState.COMPENSATING
            view = await cluster["payment"].saga(handle.saga_id).view()
            assert [str(one.state) for one in view.steps] == ["running"]

    run(scenario())


def test_a_call_much_longer_than_its_lease_is_not_begun_by_another_agent_and_a_plain_step_may_send_a_heartbeat(
    nats_url: str, store: str
) -> None:
    async def scenario() -> None:
        limits = replace(QUICK, lease_s=2.0)
        options = {"charge": {"timeout": 20.0}}
        world = World(chain(charge={"external": True}), nats_url, store, limits=limits, options=options)

        async def long_call(ctx: StepContext) -> None:
            await asyncio.sleep(5.0)
            await ctx.heartbeat()

        async def beat(ctx: StepContext) -> None:
            await ctx.heartbeat()

        world.on[("charge", "do")] = long_call
        world.on[("reserve", "do")] = beat
        async with world.cluster() as cluster, world.agent("payment").serving():
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(20) is SagaState.COMPLETED
            assert len(world.outside) == 1
            assert world.tried.count(("reserve", "do")) == 1

    run(scenario())


def test_an_attempt_whose_heartbeat_finds_that_another_took_over_stops_and_is_not_repeated(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(charge={"external": True}), nats_url, store)
        calls = 0

        async def lost(ctx: StepContext) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                async with other.transaction() as transaction:
                    (record,) = list(await transaction.claim("payment", [ctx.saga_id]))
                    row = record.row._replace(attempt=record.row.attempt + 1)
                    await transaction.save([replace(record, row=row, version=record.version + 1)])
                    await transaction.commit()
                await ctx.heartbeat()

        world.on[("charge", "do")] = lost
        async with world.cluster() as cluster:
            other = make_store(cluster.store_url("payment"))
            await other.open()
            await cluster["shop"].start_saga(Go())
            await eventually(lambda: tried(world, "charge", 1))
            await asyncio.sleep(0.6)  # eight repetitions of a lost attempt would begin within a tenth of it
            assert calls == 1
            await other.close()

    run(scenario())


def test_a_handler_that_cancels_itself_has_failed_and_is_tried_again(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store, options={"charge": {"retry": QUICKLY}})

        attempts: list[int] = []

        async def cancelled(ctx: StepContext) -> None:
            attempts.append(ctx.attempt)
            if len(attempts) < 3:
                raise asyncio.CancelledError

        world.on[("charge", "do")] = cancelled
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert attempts == [1, 2, 3]

    run(scenario())


def test_the_reason_of_a_refusal_may_be_any_text_of_any_length(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)

        async def verbose(ctx: StepContext) -> None:
            raise Reject("Größe\r\nce-id: 1\x00" * 5000)

        world.on[("charge", "do")] = verbose
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert (await handle.view()).reason.startswith("Größe")

    run(scenario())
