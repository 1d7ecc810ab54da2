"""What a step may ask for: limits, a breaker, retries by error, time-outs. What is held back waits, and nothing else does."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from saga_choreo import Backoff, Breaker, BreakerState, OnExhausted, Reject, Retry, SagaHandle, SagaState, StepContext
from saga_choreo.testing.harness import Cluster
from tests.scenarios.world import Go, World, chain, eventually, run

Place = tuple[str, str]


@dataclass
class Outside:
    """A service that the `charge` step calls: it notes who is there when, and may be down."""

    takes_s: float = 0.05
    is_down: bool = False
    began: list[float] = field(default_factory=list)
    inside: int = 0
    inside_max: int = 0

    async def __call__(self, ctx: StepContext) -> None:
        self.began.append(time.monotonic())
        self.inside += 1
        self.inside_max = max(self.inside_max, self.inside)
        try:
            await asyncio.sleep(self.takes_s)
            if self.is_down:
                raise ConnectionError("503")
        finally:
            self.inside -= 1


def world_of(place: Place, outside: Any, *, external: bool = True, confirm: dict[str, Any] | None = None, **options: Any) -> World:
    form = chain(charge={"external": True}) if external else chain()
    return World(form, *place, options={"charge": options, "confirm": confirm or {}}, on={("charge", "do"): outside})


async def started(cluster: Cluster, count: int) -> list[SagaHandle]:
    return [await cluster["shop"].start_saga(Go()) for _ in range(count)]


async def ends(handles: list[SagaHandle]) -> list[SagaState]:
    return list(await asyncio.gather(*(handle.wait(20) for handle in handles)))


async def charge_of(cluster: Cluster, handle: SagaHandle) -> tuple[int, str, bool]:
    """Attempts, error and whether it is parked, as the store has it; nothing before there is a record."""
    if all(one.saga_id != handle.saga_id for one in await cluster["payment"].sagas()):
        return 0, "", False
    view = await cluster["payment"].saga(handle.saga_id).view()
    return next(((s.attempt, s.error, s.parked) for s in view.steps if s.step == "charge"), (0, "", False))


@pytest.mark.parametrize("external", [True, False], ids=["a call to the outside", "a plain step in a transaction of its own"])
def test_no_more_runs_at_once_than_the_concurrency_limit_and_each_once(place: Place, external: bool) -> None:
    async def scenario() -> None:
        outside = Outside()
        world = world_of(place, outside, external=external, concurrency=2, own_transaction=not external)
        async with world.cluster() as cluster:
            handles = await started(cluster, 8)
            assert set(await ends(handles)) == {SagaState.COMPLETED}
            assert outside.inside_max <= 2
            assert outside.inside_max == 2 or not external, "as many as may run do run"
            assert len(outside.began) == 8, "what was held back was not attempted"

    run(scenario())


@pytest.mark.parametrize("external", [True, False], ids=["a call to the outside", "a plain step in the fast lane"])
def test_runs_begin_no_faster_than_the_rate_limit_and_each_once(place: Place, external: bool) -> None:
    async def scenario() -> None:
        outside = Outside(takes_s=0.0)
        world = world_of(place, outside, external=external, rate_per_s=8.0)
        async with world.cluster() as cluster:
            handles = await started(cluster, 9)
            assert set(await ends(handles)) == {SagaState.COMPLETED}
            assert len(outside.began) == 9
            assert outside.began[-1] - outside.began[0] > 0.9
            assert {(await charge_of(cluster, one))[0] for one in handles} == {1 if external else 0}
            # So that other agents of the service, which have limits of their own, get a like part.
            sharing = cluster["payment"]._session.consumer._sharing
            assert sharing._handlers_s + sharing._waited_s > 0.1

    run(scenario())


def test_what_waits_for_its_turn_says_why_and_a_cancel_need_not_wait(place: Place) -> None:
    async def scenario() -> None:
        outside = Outside(takes_s=0.0)
        world = world_of(place, outside, rate_per_s=0.05)
        async with world.cluster() as cluster:
            (first,) = await started(cluster, 1)
            assert await first.wait(10) is SagaState.COMPLETED
            (second,) = await started(cluster, 1)

            async def waits() -> bool:
                return (await charge_of(cluster, second))[1] == "held back: its rate limit is 0.05 a second"

            await eventually(waits)
            await second.cancel("no patience")
            assert await second.wait(10) is SagaState.CANCELLED
            assert len(outside.began) == 1, "what was never called need not be called to be undone"

    run(scenario())


def test_a_plain_step_that_waits_for_its_turn_is_cancelled_at_once(place: Place) -> None:
    async def scenario() -> None:
        world = world_of(place, Outside(takes_s=0.0), external=False, rate_per_s=0.05)
        async with world.cluster() as cluster:
            (first,) = await started(cluster, 1)
            assert await first.wait(10) is SagaState.COMPLETED
            (second,) = await started(cluster, 1)
            await eventually(lambda: is_held_back(cluster, second))
            await second.cancel("no patience")
            assert await second.wait(10) is SagaState.CANCELLED
            assert await world.did(cluster, second) == ["reserve", "undo reserve"]

    run(scenario())


async def is_held_back(cluster: Cluster, handle: SagaHandle) -> bool:
    return (await charge_of(cluster, handle))[1].startswith("held back: ")


def test_a_breaker_stops_the_calls_probes_with_one_and_lets_all_go_on(place: Place) -> None:
    async def scenario() -> None:
        outside = Outside(is_down=True)
        retry = Retry(attempts=50, backoff=Backoff.FIXED, delay_s=0.05)
        world = world_of(place, outside, retry=retry, breaker=Breaker(failures=3, open_s=0.6), concurrency=3)
        async with world.cluster() as cluster:
            payment = cluster["payment"]
            assert payment.breakers()["charge"].state is BreakerState.CLOSED
            handles = await started(cluster, 6)

            async def is_open() -> bool:
                return payment.breakers()["charge"].state is BreakerState.OPEN

            await eventually(is_open)
            assert payment.health().breakers["charge"].opens_for_s > 0
            assert payment.health().is_consuming
            before = len(outside.began)
            assert before <= 5, "three that failed, and what was under way"
            await eventually(lambda: began(outside, before + 1))
            assert outside.inside == 1, "exactly one finds out"
            outside.is_down = False
            assert set(await ends(handles)) == {SagaState.COMPLETED}
            assert payment.breakers()["charge"].state is BreakerState.CLOSED
            assert len(outside.began) <= before + 1 + 1 + 6, "a probe that failed, one that worked, and the rest once"

    run(scenario())


async def began(outside: Outside, count: int) -> bool:
    return len(outside.began) >= count


def test_what_is_held_back_is_still_there_after_a_restart(place: Place) -> None:
    async def scenario() -> None:
        outside = Outside(is_down=True)
        retry = Retry(attempts=50, backoff=Backoff.FIXED, delay_s=0.1)
        world = world_of(place, outside, retry=retry, breaker=Breaker(failures=2, open_s=0.5))
        async with world.cluster() as cluster:
            handles = await started(cluster, 4)

            async def is_open() -> bool:
                return cluster["payment"].breakers()["charge"].state is BreakerState.OPEN

            await eventually(is_open)
            attempts = {one.saga_id: (await charge_of(cluster, one))[0] for one in handles}
            await cluster.stop("payment")
            assert cluster["payment"].breakers() == {}
            assert not cluster["payment"].health().is_open
            outside.is_down = False
            await cluster.start("payment")
            assert cluster["payment"].breakers()["charge"].state is BreakerState.CLOSED
            assert set(await ends(handles)) == {SagaState.COMPLETED}
            assert all([(await charge_of(cluster, one))[0] >= attempts[one.saga_id] for one in handles])

    run(scenario())


def test_a_breaker_does_not_hold_back_an_undo_nor_an_abort(place: Place) -> None:
    async def scenario() -> None:
        outside = Outside(takes_s=0.0)
        confirm = {"retry": Retry(attempts=None, backoff=Backoff.FIXED, delay_s=0.05)}
        world = world_of(place, outside, external=False, confirm=confirm, breaker=Breaker(failures=1, open_s=30.0))
        go_on = asyncio.Event()

        async def later(ctx: StepContext) -> None:
            raise Reject("changed my mind") if go_on.is_set() else RuntimeError("not yet")

        world.on[("confirm", "do")] = later
        async with world.cluster() as cluster:
            (first,) = await started(cluster, 1)
            await eventually(lambda: happened(world, cluster, first, "charge"))
            outside.is_down = True
            (second,) = await started(cluster, 1)

            async def is_open() -> bool:
                return cluster["payment"].breakers()["charge"].state is BreakerState.OPEN

            await eventually(is_open)
            go_on.set()
            assert await first.wait(10) is SagaState.COMPENSATED
            assert await world.did(cluster, first) == ["reserve", "charge", "undo charge", "undo reserve"]
            await second.cancel("no patience")
            assert await second.wait(10) is SagaState.CANCELLED

    run(scenario())


async def happened(world: World, cluster: Cluster, handle: SagaHandle, step: str) -> bool:
    return step in await world.did(cluster, handle)


def test_each_class_of_errors_has_its_own_retries(place: Place) -> None:
    async def scenario() -> None:
        quick = Retry(attempts=9, backoff=Backoff.FIXED, delay_s=0.02)
        retry = Retry(attempts=2, on={ConnectionError: quick, ValueError: Retry.never(OnExhausted.VETO)})
        world = world_of(place, None, external=False, retry=retry)
        errors: list[Exception] = [ConnectionResetError("reset"), ConnectionResetError("reset"), ConnectionRefusedError("refused")]

        async def fail(ctx: StepContext) -> None:
            raise errors.pop(0) if errors else ValueError("not a card number")

        world.on[("charge", "do")] = fail
        async with world.cluster() as cluster:
            (handle,) = await started(cluster, 1)
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert (await handle.view()).reason == "gave up after 4 attempts: ValueError: not a card number"

    run(scenario())


def test_retries_end_when_their_time_is_over_though_the_agent_restarts(place: Place) -> None:
    async def scenario() -> None:
        retry = Retry(attempts=None, backoff=Backoff.FIXED, delay_s=0.4, max_time_s=1.0, on_exhausted=OnExhausted.VETO)
        world = world_of(place, Outside(is_down=True, takes_s=0.0), external=False, retry=retry)
        async with world.cluster() as cluster:
            began_s = time.monotonic()
            (handle,) = await started(cluster, 1)
            await eventually(lambda: was_tried(world, 1))
            await cluster.stop("payment")
            await cluster.start("payment")
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert time.monotonic() - began_s >= 1.0
            assert 3 <= world.tried.count(("charge", "do")) <= 4, "at 0, 0.4, 0.8 and, for the last time, 1.0 s"

    run(scenario())


async def was_tried(world: World, times: int) -> bool:
    return world.tried.count(("charge", "do")) >= times


@pytest.mark.parametrize("external", [True, False], ids=["a call to the outside", "a plain step, after the fast lane"])
def test_an_attempt_that_takes_longer_than_its_timeout_has_failed(place: Place, external: bool) -> None:
    async def scenario() -> None:
        retry = Retry(attempts=50, on={TimeoutError: Retry.never(OnExhausted.VETO if not external else OnExhausted.PARK)})
        world = world_of(place, Outside(takes_s=20.0), external=external, timeout=0.1, retry=retry)
        async with world.cluster() as cluster:
            (handle,) = await started(cluster, 1)
            if external:  # what is unknown is never a refusal
                await eventually(lambda: is_parked(cluster, handle))
                assert await charge_of(cluster, handle) == (1, "timed out", True)
            else:
                assert await handle.wait(10) is SagaState.COMPENSATED
                assert (await handle.view()).reason == "gave up after 1 attempts: timed out"

    run(scenario())


async def is_parked(cluster: Cluster, handle: SagaHandle) -> bool:
    return (await charge_of(cluster, handle))[2]
