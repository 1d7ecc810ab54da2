"""Sagas whose services keep their records in Redis: every step is an external one. Real Redis, real NATS."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from saga_choreo import Choreography, Reject, SagaState, StepContext
from saga_choreo.errors import ConfigurationError, DefinitionError
from saga_choreo.ports import JobState
from saga_choreo.runtime.deadletters.find import WantedLetters
from saga_choreo.testing.redis_server import RedisServer
from tests.scenarios.letters import all_of_them, ended, replay, stored_messages
from tests.scenarios.parking import ONCE, Failing, parked
from tests.scenarios.world import QUICK, Go, World, chain, eventually, run

Prefix = Callable[[], str]
_EXTERNAL: Mapping[str, bool] = {"external": True}


def external() -> Choreography:
    return chain(reserve=_EXTERNAL, charge=_EXTERNAL, confirm=_EXTERNAL)


def test_sagas_complete_and_are_undone_in_reverse_over_redis(nats_url: str, redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        world = World(external(), nats_url, redis_prefix() + "-{service}")

        async def refuse(ctx: StepContext) -> None:
            if ctx.key.endswith("no"):
                raise Reject("not today")

        world.on[("confirm", "do")] = refuse
        async with world.cluster() as cluster:
            good = [await cluster["shop"].start_saga(Go(), key=f"{n}-yes") for n in range(10)]
            bad = [await cluster["shop"].start_saga(Go(), key=f"{n}-no") for n in range(5)]
            assert {await one.wait(20) for one in good} == {SagaState.COMPLETED}
            assert {await one.wait(20) for one in bad} == {SagaState.COMPENSATED}
            assert (await cluster["shop"].start_saga(Go(), key="0-yes")).saga_id == good[0].saga_id
            assert cluster["shop"].health().is_durable
        calls = Counter((one.saga, one.step, one.side) for one in world.outside)
        assert set(calls.values()) == {1}, "nothing failed, so nothing is called twice"
        for one in bad:
            mine = [(c.step, c.side) for c in world.outside if c.saga == str(one.saga_id)]
            assert mine == [
                *(("reserve", "do"), ("charge", "do"), ("confirm", "do")),
                *(("charge", "undo"), ("reserve", "undo")),
            ]

    run(scenario())


def test_a_redis_killed_while_sagas_run_loses_none_and_repeats_only_under_the_same_key(
    nats_url: str, own_redis: RedisServer
) -> None:
    async def scenario() -> None:
        own_redis.start()
        # An attempt whose claim was committed when the server died begins again when its lease ends.
        limits = replace(QUICK, lease_s=2.0, slow_timeout_s=1.0)
        world = World(external(), nats_url, own_redis.url + "?prefix=kill-{service}", limits)
        async with world.cluster() as cluster:
            handles = [await cluster["shop"].start_saga(Go(), key=str(n)) for n in range(20)]
            for killed_after in (5, 20, 40):
                await eventually(lambda at=killed_after: _reached(world, at), 30)
                own_redis.kill()
                own_redis.start()
            assert {await one.wait(40) for one in handles} == {SagaState.COMPLETED}
        keys = {(one.saga, one.step): set[str]() for one in world.outside}
        for one in world.outside:
            keys[one.saga, one.step].add(one.key)
        assert len(keys) == 3 * len(handles)
        assert {len(one) for one in keys.values()} == {1}

    run(scenario(), 120)


async def _reached(world: World, calls: int) -> bool:
    return len(world.outside) >= calls


def test_dead_letters_in_redis_are_replayed_to_the_end_of_their_saga(nats_url: str, redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        down = Failing()
        world = World(external(), nats_url, redis_prefix() + "-{service}", options={"charge": ONCE}, on={("charge", "do"): down})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            letters = cluster["payment"].dead_letters
            failed = await ended(letters, await replay(letters))
            assert (failed.job.state, dict(failed.counts)) == (JobState.DONE, {"failed": 1})
            down.works = True
            view = await ended(letters, await replay(letters))
            assert (view.job.state, dict(view.counts)) == (JobState.DONE, {"resolved": 1})
            assert await handle.wait(30) is SagaState.COMPLETED
            said = await stored_messages(cluster, "shop", handle, "payment")
            assert await letters.bring_in(said) == len(said) > 0
            assert await letters.bring_in(said) == 0
            view = await ended(letters, await replay(letters))
            assert dict(view.counts) == {"resolved": len(said)}
            assert await all_of_them(letters) == []
            assert len(await all_of_them(letters, WantedLetters(state="resolved"))) == len(said)

    run(scenario(), 120)


def test_plain_steps_are_refused_at_the_start_with_all_their_names(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        world = World(chain(reserve=_EXTERNAL), "memory://plain-on-redis", redis_prefix())
        payment = world.agents["payment"]
        with pytest.raises(DefinitionError, match=r"cannot start on its redis store") as info:
            await asyncio.wait_for(payment.run(), 10)
        assert [finding.split(";")[0] for finding in info.value.findings] == [
            "step 'charge' is a plain one, which writes through ctx.tx",
            "the compensation of step 'charge' is a plain one",
        ]
        async with payment.client():
            pass  # who only starts sagas and asks runs no step

    run(scenario())


def test_a_callers_transaction_cannot_be_joined(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        world = World(external(), "memory://join-on-redis", redis_prefix() + "-{service}")
        async with world.cluster() as cluster:
            await cluster["shop"].ready()
            with pytest.raises(ConfigurationError, match=r"call start_saga without tx="):
                await cluster["shop"].start_saga(Go(), tx=object())

    run(scenario())


def test_a_relaxed_store_is_told_of_in_health_and_log(redis_prefix: Prefix, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        world = World(external(), "memory://relaxed-redis", redis_prefix() + "-{service}&durability=relaxed")
        async with world.cluster() as cluster:
            assert not cluster["shop"].health().is_durable
        assert "the redis store of service 'shop' is not durable" in caplog.text

    run(scenario())
