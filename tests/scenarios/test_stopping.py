"""A stop takes no longer than it may, whatever users' code does, and loses nothing. Memory places; one real process."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from saga_choreo import SagaOutcome, SagaState, StepContext
from saga_choreo.errors import StopCutShort
from saga_choreo.runtime.stopping import within_grace
from tests.scenarios.world import QUICK, Go, World, chain, eventually, run

GRACE_S = 0.6
# Grace, the time for handing back, for a cancellation, and for two connections; and what a busy machine adds.
BOUND_S = GRACE_S + 2.0 + 1.0 + 6.0 + 2.0
LIMITS = replace(QUICK, stop_grace_s=GRACE_S, outcome_timeout_s=60.0, lease_s=0.5)


class Stubborn:
    """A handler that swallows its cancellation until the test lets it go."""

    def __init__(self) -> None:
        self.runs = 0
        self.let_go = asyncio.Event()

    async def __call__(self, _ctx: StepContext) -> None:
        self.runs += 1
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue


def world_of(**kinds: bool) -> World:
    return World(chain(charge=kinds), f"memory://{uuid4().hex}?ack_wait=0.5", f"memory://{uuid4().hex}-{{service}}", limits=LIMITS)


@asynccontextmanager
async def others(world: World) -> AsyncGenerator[None]:
    async with world.agents["inventory"].serving(), world.agents["shop"].serving():
        yield


@pytest.mark.parametrize("external", [False, True])
def test_a_handler_that_swallows_its_cancellation_is_left_behind_by_name_and_the_saga_goes_on(external: bool) -> None:
    async def scenario() -> None:
        world, stubborn = world_of(external=external), Stubborn()
        world.on[("charge", "do")] = stubborn
        async with others(world):
            stop = asyncio.Event()
            serving = asyncio.create_task(world.agents["payment"].run(stop=stop))
            handle = await world.agents["shop"].start_saga(Go())
            await eventually(lambda: begun(stubborn))
            stop.set()
            told = time.monotonic()
            with pytest.raises(StopCutShort, match=f"'charge' of saga {handle.saga_id}"):
                await serving
            assert time.monotonic() - told < BOUND_S
            assert await handle.state() is not SagaState.COMPLETED
            stubborn.let_go.set()
            async with world.agent("payment").serving():
                assert await handle.wait(10) is SagaState.COMPLETED

    run(scenario())


async def begun(stubborn: Stubborn) -> bool:
    return stubborn.runs > 0


def test_callbacks_that_hang_share_the_time_of_the_stop_and_their_ends_are_told_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        world = world_of()
        told: list[SagaOutcome] = []

        async def hang(outcome: SagaOutcome) -> None:
            told.append(outcome)
            await asyncio.sleep(3600)

        world.agents["payment"].on_outcome(hang)
        async with others(world):
            stop = asyncio.Event()
            serving = asyncio.create_task(world.agents["payment"].run(stop=stop))
            handles = [await world.agents["shop"].start_saga(Go()) for _ in range(8)]
            for handle in handles:
                assert await handle.wait(10) is SagaState.COMPLETED
            await eventually(lambda: some(told))
            stop.set()
            began = time.monotonic()
            await serving
            assert time.monotonic() - began < GRACE_S + 2.0
            again, heard = world.agent("payment"), set[str]()

            @again.on_outcome
            async def hear(outcome: SagaOutcome) -> None:
                heard.add(str(outcome.saga_id))

            async def all_heard() -> bool:
                return heard == {str(handle.saga_id) for handle in handles}

            async with again.serving():
                await eventually(all_heard, 20)

    with caplog.at_level(logging.CRITICAL):
        run(scenario())


async def some(told: list[SagaOutcome]) -> bool:
    return bool(told)


def test_what_ends_in_time_is_not_cut_short_and_its_error_is_not_hidden() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()

        async def work() -> None:
            await stop.wait()
            raise ZeroDivisionError

        asyncio.get_running_loop().call_later(0.01, stop.set)
        with pytest.raises(ZeroDivisionError):
            await within_grace(work(), stop, 5.0)

    run(scenario())


def test_work_that_is_cancelled_from_outside_is_cancelled_and_a_swallowed_cancellation_is_not_waited_for() -> None:
    async def scenario() -> None:
        let_go, was_cancelled = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    was_cancelled.set()

        running = asyncio.create_task(within_grace(work(), asyncio.Event(), 5.0))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert was_cancelled.is_set()
        let_go.set()

    run(scenario())


APP = """
import asyncio
from saga_choreo import Agent, Choreography, ChoreographyStep, Event, Limits

class Went(Event, name="stubborn.went"): ...

form = Choreography("stubborn").starts_with(Went).step(ChoreographyStep("stay").on_event(Went).owned_by("one").kind(external=True, read_only=True))
agent = Agent("one", saga=form, broker="memory://stubborn", store="memory://stubborn", limits=Limits(stop_grace_s=0.5))

@agent.step("stay")
async def stay() -> None:
    print("stays", flush=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("swallowed", flush=True)

class Starting:
    name, choreographies = "one", ()
    async def run(self, *, stop):
        async def start():
            while not agent.health().is_open:
                await asyncio.sleep(0.01)
            await agent.start_saga(Went())
        starting = asyncio.create_task(start())
        await agent.run(stop=stop)

one = Starting()
"""


def test_a_process_with_such_a_handler_ends_in_time_with_143_and_says_what_it_left(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(APP)
    command = [str(Path(sys.executable).parent / "saga-choreo"), "run", "stubborn:one"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stays\n"
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=BOUND_S + 5.0)
        finally:
            process.kill()
    assert process.returncode == 143, said
    assert "step 'stay' of saga" in said
