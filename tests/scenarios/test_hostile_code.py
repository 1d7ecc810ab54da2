"""Users' code at its worst: what outlives its handler, what cannot be stored or sent, what cancels itself."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from saga_choreo import Event, Limits, SagaState, StepContext
from saga_choreo.core.emissions import Message
from saga_choreo.core.graph import plan_of
from saga_choreo.core.routing import facts_for
from saga_choreo.errors import BrokerUnavailable, DefinitionError
from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.model.choreography import Choreography
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN
from saga_choreo.ports import ChannelKind
from saga_choreo.runtime.telling import SagaOutcome
from tests.scenarios.world import Go, World, chain, eventually, run, step


def _world(**changes: Any) -> World:
    return World(chain(), f"memory://{uuid4().hex}", f"memory://{uuid4().hex}-{{service}}", **changes)


def test_what_a_handler_leaves_running_cannot_write_into_the_transaction_that_others_share() -> None:
    async def scenario() -> None:
        world = _world()
        strays: list[asyncio.Task[None]] = []

        async def leave_something_behind(ctx: StepContext) -> None:
            tx, go_on = ctx.tx, asyncio.Event()

            async def later() -> None:
                await go_on.wait()
                await tx.execute("append", "strays", 1)

            strays.append(asyncio.create_task(later()))
            asyncio.get_running_loop().call_later(0.02, go_on.set)

        async def take_a_while(_ctx: StepContext) -> None:
            await asyncio.sleep(0.1)

        world.on[("reserve", "do")] = leave_something_behind
        world.on[("pack", "do")] = take_a_while
        world = world.changed(
            form=world.form.step(step("pack", "inventory", "stock.reserved")),
        )
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            (ended,) = await asyncio.gather(*strays, return_exceptions=True)
            assert await cluster.fetch("inventory", "read", "strays") == []
            assert "handler" in str(ended)

    run(scenario())


@pytest.mark.parametrize("text", ["half a pair \udcff", "nul \x00"])
def test_an_error_with_text_that_no_database_stores_is_a_failed_attempt_like_any_other(
    text: str, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        world = World(chain(), f"memory://{uuid4().hex}", store)
        tried: list[int] = []

        async def fail_once(_ctx: StepContext) -> None:
            tried.append(1)
            if len(tried) < 3:
                raise OSError(text)

        world.on[("charge", "do")] = fail_once
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(15) is SagaState.COMPLETED
            assert len(tried) == 3
        assert "unexpected error" not in caplog.text

    run(scenario())


class Large(Event, name="world.large"):
    amount: int


def test_a_number_beyond_64_bits_starts_a_saga_with_a_key_as_any_other() -> None:
    async def scenario() -> None:
        form = Choreography("large").starts_with(Large).step(step("weigh", "shop", Large))
        world = World(form, f"memory://{uuid4().hex}", f"memory://{uuid4().hex}-{{service}}")
        async with world.cluster() as cluster:
            one, two = await asyncio.gather(
                cluster["shop"].start_saga(Large(amount=10**30), key="large"),
                cluster["shop"].start_saga(Large(amount=1), key="small"),
            )
            again = await cluster["shop"].start_saga(Large(amount=10**30), key="large")
            assert again.saga_id == one.saga_id
            assert [await one.wait(10), await two.wait(10)] == [SagaState.COMPLETED] * 2

    run(scenario())


@pytest.mark.parametrize("hours", [24 * 8, 24 * 365 * 9_000])
def test_a_choreographys_own_deadline_beyond_the_horizon_is_refused_before_anything_is_stored(hours: float) -> None:
    async def scenario() -> None:
        world = World(chain().deadline(hours=hours), f"memory://{uuid4().hex}", f"memory://{uuid4().hex}-{{service}}")
        async with world.cluster() as cluster:
            with pytest.raises(DefinitionError, match="beyond the horizon"):
                await cluster["shop"].start_saga(Go(), key="k")
            assert await cluster["shop"].sagas() == []

    run(scenario())


@pytest.mark.parametrize("deadline", [timedelta(0), timedelta(seconds=-1), timedelta.max])
def test_a_deadline_that_is_over_or_beyond_all_records_is_refused_before_anything_is_stored(deadline: timedelta) -> None:
    async def scenario() -> None:
        world = _world()
        async with world.cluster() as cluster:
            with pytest.raises(ValueError, match="deadline"):
                await cluster["shop"].start_saga(Go(), key="k", deadline=deadline)
            assert await cluster["shop"].sagas() == []

    run(scenario())


def test_an_outcome_callback_that_waits_for_something_cancelled_does_not_end_the_agent() -> None:
    async def scenario() -> None:
        world = _world()
        told: list[SagaOutcome] = []

        @world.agents["shop"].on_outcome
        async def tell(outcome: SagaOutcome) -> None:
            told.append(outcome)
            if len(told) == 1:
                raise asyncio.CancelledError

        async with world.cluster() as cluster:
            first = await cluster["shop"].start_saga(Go())
            await first.wait(10)

            async def told_again() -> bool:
                return len(told) > 1

            await eventually(told_again)
            second = await cluster["shop"].start_saga(Go())
            assert await second.wait(10) is SagaState.COMPLETED

    run(scenario())


def test_a_skip_that_claims_to_come_from_the_start_means_nothing() -> None:
    form = Choreography("one").starts_with(Go).step(step("confirm", "shop", Go))
    message = Message(MessageKind.SKIP, ORIGIN)
    assert facts_for(message, plan_of(form), "shop", is_origin=True) == ()


class _Leaving(MemoryBroker):
    """Once it has delivered an outcome it cannot take anything back."""

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__(url, prefix=prefix)
        self.told = asyncio.Event()

    async def receive(self, max_messages: int, max_wait_s: float) -> Any:
        deliveries = await super().receive(max_messages, max_wait_s)
        if any(one.channel.kind is ChannelKind.OUTCOME for one in deliveries):
            self.told.set()
        return deliveries

    async def release(self, deliveries: Any, delay_s: float = 0.0) -> None:
        if self.told.is_set():
            raise BrokerUnavailable("away")
        await super().release(deliveries, delay_s)


def test_an_agent_stops_cleanly_though_outcomes_cannot_be_handed_back() -> None:
    async def scenario() -> None:
        world = _world(limits=Limits(outcome_wait_s=5.0))
        broker = _Leaving(world.broker, world.prefix)
        world.agents["shop"].configure(broker=broker)
        async with world.agents["inventory"].serving(), world.agents["payment"].serving(), world.agents["shop"].serving() as shop:
            await shop.ready(10)
            handle = await shop.start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            await broker.told.wait()

    run(scenario())
