"""The consistency check on real sagas: it finds nothing while they run or when they have ended, and what somebody breaks afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from saga_choreo import Choreography, Reject, StepContext, all_of, one_of
from saga_choreo.model.choreography import Split
from saga_choreo.runtime.checking import check_store
from saga_choreo.runtime.consistency import Contradiction
from saga_choreo.runtime.plugins import make_store
from tests.scenarios.world import QUICK, Go, World, chain, event_of, eventually, run, step

_LEDGER = "select saga, step, side from ledger"
# "Late by minus a day": what is due within a day counts as late, so that nothing is found only where nothing is left to do.
_EVER_MS = -86_400_000
FORM = (
    Choreography("checked")
    .starts_with(Go)
    .step(
        step("decide", "shop", Go, "go.cheap", "go.dear", split=Split.ONE),
        step("cheap", "inventory", "go.cheap", "cheap.done"),
        step("dear", "payment", "go.dear", "dear.done"),
        step("join", "inventory", one_of("cheap.done", "dear.done"), "joined.left", "joined.right"),
        step("left", "inventory", "joined.left", "left.done"),
        step("right", "shop", "joined.right", "right.done"),
        step("last", "shop", all_of("left.done", "right.done")),
    )
)


async def found(url: str, late_ms: int, ledger: str = "") -> list[Contradiction]:
    store = make_store(url)
    await store.open(migrate=False)
    try:
        checked = await check_store(store, now_ms=time.time_ns() // 1_000_000, late_ms=late_ms, limit=1_000, ledger=ledger)
    finally:
        await store.close()
    return list(checked.found)


async def make_ledger(url: str) -> None:
    """Before the first effect does: the check needs one to read."""
    store = make_store(url)
    await store.open()
    async with store.transaction() as transaction:
        await transaction.user.execute("create table if not exists ledger (saga text, step text, side text, at_ns bigint)")
        await transaction.commit()
    await store.close()


def test_nothing_is_found_while_sagas_run_nor_when_they_have_ended(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(FORM, nats_url, store, replace(QUICK, batch_max=4))
        kinds = iter(range(10_000))

        async def decide(ctx: StepContext) -> Any:
            return event_of("go.cheap")() if next(kinds) % 2 else event_of("go.dear")()

        async def refuse(ctx: StepContext) -> None:
            if ctx.key.endswith("no"):
                raise Reject("no")

        world.on[("decide", "do")] = decide
        world.on[("last", "do")] = refuse
        async with world.cluster() as cluster:
            for service in world.agents:
                await make_ledger(cluster.store_url(service))
            handles = [await cluster["shop"].start_saga(Go(), key=f"{n}-{'no' if n % 3 == 0 else 'yes'}") for n in range(30)]
            looks = 0
            while not all([(await one.view()).state.value in ("completed", "compensated") for one in handles]):
                for service in world.agents:
                    assert await found(cluster.store_url(service), 60_000, _LEDGER) == []
                looks += 1
            assert looks > 0

            async def all_have_heard() -> bool:
                return not any([await found(cluster.store_url(service), _EVER_MS) for service in world.agents])

            await eventually(all_have_heard, 30)  # of the end, which is told at leisure
        for service in world.agents:
            assert await found(cluster.store_url(service), 0, _LEDGER) == []

    run(scenario(), 120)


def test_services_that_share_a_database_are_compared_message_by_message(nats_url: str, postgres_schema: Callable[[], str]) -> None:
    async def scenario() -> None:
        url = postgres_schema()
        world = World(chain(), nats_url, url)
        async with world.cluster() as cluster:
            handles = [await cluster["shop"].start_saga(Go(), key=str(n)) for n in range(30)]
            looks = 0
            while not all([(await one.view()).state.value == "completed" for one in handles]):
                assert await found(url, 60_000) == []
                looks += 1
            assert looks > 0

            async def all_have_heard() -> bool:
                return not await found(url, _EVER_MS)

            await eventually(all_have_heard, 30)
        async with world.cluster() as cluster:
            await cluster.stop("payment")
            handle = await cluster["shop"].start_saga(Go(), key="waits")

            async def lost() -> bool:
                said = [one for one in await found(url, 0) if one.code == "not_heard"]
                return any(one.step == "reserve" and "'charge' of service 'payment'" in one.detail for one in said)

            await eventually(lost, 20)
            await cluster.start("payment")
            await handle.wait(20)

    run(scenario(), 120)


def test_what_somebody_breaks_afterwards_is_found(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            handles = [await cluster["shop"].start_saga(Go(), key=str(n)) for n in range(3)]
            for one in handles:
                await one.wait(10)
        await asyncio.sleep(0.01)
        url = cluster.store_url("shop")
        broken = make_store(url)
        await broken.open()
        saga, hexed = str(handles[0].saga_id), handles[1].saga_id.hex
        async with broken.transaction() as transaction:
            await transaction.user.execute("delete from ledger where saga = ?", saga)
            await transaction.user.execute(f"update saga_record set outcome = '' where step >= 0 and saga_id = x'{hexed}'")
            await transaction.user.execute(f"delete from saga_record where saga_id = x'{handles[2].saga_id.hex}'")
            await transaction.commit()
        await broken.close()
        codes = {(one.code, one.saga) for one in await found(url, 0, _LEDGER)}
        assert {
            ("effect_missing", saga),
            ("open_after_the_end", str(handles[1].saga_id)),
            ("key_without_saga", str(handles[2].saga_id)),
            ("effect_without_record", str(handles[2].saga_id)),
        } <= codes

    run(scenario())
