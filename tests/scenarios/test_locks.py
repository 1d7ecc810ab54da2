"""Semantic locks (S13): held exactly from what the step does until it is undone or the saga has completed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from saga_choreo import Backoff, Choreography, Reject, Retry, SagaHandle, SagaState, StepContext
from saga_choreo.testing.harness import Cluster
from tests.scenarios.world import Go, World, chain, eventually, run, step

Place = tuple[str, str]
_HOLDERS = "select saga_id from saga_lock where service = ? and name = ?"
_SOON = Retry(attempts=None, backoff=Backoff.FIXED, delay_s=0.05)


@dataclass
class Doors:
    """An act that lets each saga pass when the test says so, and refuses where it says so."""

    open_for: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    came: set[str] = field(default_factory=set)

    async def __call__(self, ctx: StepContext) -> None:
        self.came.add(ctx.key)
        if ctx.key in self.refused:
            raise Reject("changed my mind")
        if ctx.key not in self.open_for:
            raise RuntimeError("not yet")


def locked(place: Place, *, external: bool = False, **options: Any) -> World:
    """`charge` locks the one customer there is; `confirm` waits at the doors."""
    form = chain(charge={"external": True}) if external else chain()
    charge = {"lock": lambda: "customer:1", "retry": _SOON, **options}
    return World(form, *place, options={"charge": charge, "reserve": {"retry": _SOON}, "confirm": {"retry": _SOON}})


async def start(cluster: Cluster, key: str) -> SagaHandle:
    return await cluster["shop"].start_saga(Go(), key=key)


async def came(doors: Doors, key: str) -> None:
    async def has_come() -> bool:
        return key in doors.came

    await eventually(has_come)


async def is_free(cluster: Cluster) -> bool:
    return not await cluster.fetch("payment", _HOLDERS, "payment", "customer:1")


async def error_at(cluster: Cluster, service: str, handle: SagaHandle, name: str) -> str:
    if all(one.saga_id != handle.saga_id for one in await cluster[service].sagas()):
        return ""
    view = await cluster[service].saga(handle.saga_id).view()
    return next((one.error for one in view.steps if one.step == name), "")


def in_world(world: World, scenario: Callable[[Cluster, Doors], Awaitable[None]]) -> None:
    doors = Doors()
    world.on.setdefault(("confirm", "do"), doors)

    async def whole() -> None:
        async with world.cluster() as cluster:
            await scenario(cluster, doors)

    run(whole())


@pytest.mark.parametrize("external", [False, True], ids=["a plain step", "a call to the outside"])
def test_a_lock_keeps_younger_sagas_out_until_its_saga_has_completed(place: Place, external: bool) -> None:
    world = locked(place, external=external)

    async def scenario(cluster: Cluster, doors: Doors) -> None:
        doors.open_for |= {"second", "third"}
        first = await start(cluster, "first")
        await came(doors, "first")
        second = await start(cluster, "second")
        assert await second.wait(10) is SagaState.COMPENSATED
        assert (await second.view()).reason == f"lock 'customer:1' is held by saga {str(first.saga_id)!r}"
        assert await world.did(cluster, second) == ["reserve", "undo reserve"]
        doors.open_for.add("first")
        assert await first.wait(10) is SagaState.COMPLETED
        await eventually(lambda: has_ended(cluster, first))
        third = await start(cluster, "third")
        assert await third.wait(10) is SagaState.COMPLETED
        assert [one.saga for one in world.outside if one.saga == str(second.saga_id)] == [], "the outside was never called"

    in_world(world, scenario)


async def has_ended(cluster: Cluster, handle: SagaHandle) -> bool:
    """In the eyes of the service that holds the lock."""
    return (await cluster["payment"].saga(handle.saga_id).view()).state in (SagaState.COMPLETED, SagaState.COMPENSATED)


@pytest.mark.parametrize("external", [False, True], ids=["a plain step", "a call to the outside"])
def test_a_lock_is_there_from_the_step_to_its_undo_and_gone_with_it(nats_url: str, store: str, external: bool) -> None:
    world = locked((nats_url, store), external=external)
    seen: list[tuple[str, int]] = []

    async def scenario(cluster: Cluster, doors: Doors) -> None:
        async def look(ctx: StepContext, side: str) -> None:
            if external:
                found = await cluster.fetch("payment", _HOLDERS, "payment", "customer:1")
            else:
                found = await ctx.tx.fetch(_HOLDERS, "payment", "customer:1")
            seen.append((side, sum(bytes(row[0]) == ctx.saga_id.bytes for row in found)))

        world.on[("charge", "do")] = lambda ctx: look(ctx, "do")
        world.on[("charge", "undo")] = lambda ctx: look(ctx, "undo")
        doors.refused.add("first")
        first = await start(cluster, "first")
        assert await first.wait(10) is SagaState.COMPENSATED
        assert seen == [("do", 1), ("undo", 1)]
        assert await is_free(cluster)

    in_world(world, scenario)


def test_a_plain_step_that_fails_or_refuses_leaves_no_lock(nats_url: str, store: str) -> None:
    world = locked((nats_url, store))

    async def scenario(cluster: Cluster, doors: Doors) -> None:
        at_charge = Doors()
        world.on[("charge", "do")] = at_charge
        doors.open_for.add("first")
        first = await start(cluster, "first")
        await came(at_charge, "first")
        await eventually(lambda: error_at(cluster, "payment", first, "charge"))
        assert await is_free(cluster), "a failed attempt has done nothing that a lock would protect"
        at_charge.refused.add("first")
        assert await first.wait(10) is SagaState.COMPENSATED
        assert await is_free(cluster)

    in_world(world, scenario)


def test_a_call_whose_result_is_unknown_keeps_its_lock_and_a_refused_one_frees_it(nats_url: str, store: str) -> None:
    world = locked((nats_url, store), external=True)

    async def scenario(cluster: Cluster, doors: Doors) -> None:
        outside = Doors()
        world.on[("charge", "do")] = outside
        first = await start(cluster, "first")
        await came(outside, "first")
        await eventually(lambda: error_at(cluster, "payment", first, "charge"))
        assert not await is_free(cluster)
        await cluster.stop("payment")
        await cluster.start("payment")
        assert not await is_free(cluster), "a restart changes nothing"
        outside.refused.add("first")
        assert await first.wait(10) is SagaState.COMPENSATED
        assert await is_free(cluster)

    in_world(world, scenario)


@pytest.mark.parametrize("policy", ["wait", "refuse"])
def test_an_older_saga_waits_for_the_lock_of_a_younger_one_unless_it_is_to_refuse(place: Place, policy: str) -> None:
    at_reserve = Doors(open_for={"younger"})
    world = locked(place, on_conflict=policy)
    world.on[("reserve", "do")] = at_reserve

    async def scenario(cluster: Cluster, doors: Doors) -> None:
        older = await start(cluster, "older")
        await came(at_reserve, "older")
        younger = await start(cluster, "younger")
        await came(doors, "younger")
        at_reserve.open_for.add("older")
        doors.open_for.add("older")
        if policy == "refuse":
            assert await older.wait(10) is SagaState.COMPENSATED
            return

        async def waits() -> bool:
            said = f"held back: lock 'customer:1' is held by saga {str(younger.saga_id)!r}"
            return await error_at(cluster, "payment", older, "charge") == said

        await eventually(waits)
        assert "older" not in doors.came
        doors.open_for.add("younger")
        assert await younger.wait(10) is SagaState.COMPLETED
        assert await older.wait(15) is SagaState.COMPLETED
        assert await world.did(cluster, older) == ["reserve", "charge", "confirm"]

    in_world(world, scenario)


def test_two_steps_of_one_saga_may_hold_the_same_lock_until_both_are_undone(nats_url: str, store: str) -> None:
    form = (
        Choreography("same-lock")
        .starts_with(Go)
        .step(
            step("hold", "payment", Go, "amount.held"),
            step("charge", "payment", "amount.held", "payment.charged"),
            step("confirm", "shop", "payment.charged"),
        )
    )
    lock = {"lock": lambda: "customer:1"}
    world = World(form, nats_url, store, options={"hold": lock, "charge": lock, "confirm": {"retry": _SOON}})
    seen: list[int] = []

    async def look(ctx: StepContext) -> None:
        seen.append(len(await ctx.tx.fetch(_HOLDERS, "payment", "customer:1")))

    world.on[("charge", "undo")] = world.on[("hold", "undo")] = look

    async def scenario(cluster: Cluster, doors: Doors) -> None:
        doors.refused.add("first")
        first = await start(cluster, "first")
        assert await first.wait(10) is SagaState.COMPENSATED
        assert seen == [1, 1]
        assert await is_free(cluster)

    in_world(world, scenario)


def test_many_sagas_that_want_the_same_two_locks_all_end(place: Place) -> None:
    options = {name: {"lock": lambda: "the one", "retry": _SOON} for name in ("reserve", "charge")}
    world = World(chain(), *place, options=options)

    async def scenario(cluster: Cluster, doors: Doors) -> None:
        doors.open_for |= {f"n-{number}" for number in range(8)}
        handles = [await start(cluster, f"n-{number}") for number in range(8)]
        ends = await asyncio.gather(*(handle.wait(20) for handle in handles))
        assert set(ends) <= {SagaState.COMPLETED, SagaState.COMPENSATED}
        assert SagaState.COMPLETED in ends

    in_world(world, scenario)
