"""Time limits with one timer between them: each means what `asyncio.timeout` means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from saga_choreo.runtime.budgets import Budgets


def _run(scenario: Callable[[Budgets], Awaitable[None]]) -> None:
    async def main() -> None:
        budgets = Budgets()
        try:
            async with asyncio.timeout(10):
                await scenario(budgets)
        finally:
            budgets.close()

    asyncio.run(main())


def test_what_takes_too_long_is_cancelled_and_a_time_out() -> None:
    async def scenario(budgets: Budgets) -> None:
        budget, said = budgets.of(0.01), list[str]()

        async def work() -> None:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                said.append("cancelled")
                raise

        with pytest.raises(TimeoutError), budget:
            await work()
        assert said == ["cancelled"]
        assert budget.has_run_out
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "nobody wants the task itself to end"

    _run(scenario)


def test_what_is_done_in_time_hears_nothing_and_a_time_out_of_its_own_is_its_own() -> None:
    async def scenario(budgets: Budgets) -> None:
        budget = budgets.of(0.02)
        with budget:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert not budget.has_run_out
        another = budgets.of(5)
        with pytest.raises(TimeoutError, match="mine"), another:
            raise TimeoutError("mine")
        assert not another.has_run_out

    _run(scenario)


def test_no_limit_is_none() -> None:
    async def scenario(budgets: Budgets) -> None:
        with budgets.of(None) as budget:
            await asyncio.sleep(0.01)
        assert not budget.has_run_out

    _run(scenario)


def test_many_in_turn_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(budgets: Budgets) -> None:
        loop, timers = asyncio.get_running_loop(), list[float]()
        call_at = loop.call_at

        def counted(when: float, *rest: Any, **more: Any) -> asyncio.TimerHandle:
            timers.append(when)
            return call_at(when, *rest, **more)

        monkeypatch.setattr(loop, "call_at", counted)
        for _ in range(100):
            with budgets.of(60.0):
                pass
        assert len(timers) == 1

    _run(scenario)


def test_a_shorter_one_that_begins_later_is_not_kept_waiting_and_the_longer_one_goes_on() -> None:
    async def scenario(budgets: Budgets) -> None:
        longer, shorter = budgets.of(0.5), budgets.of(0.01)

        async def work() -> None:
            with pytest.raises(TimeoutError), shorter:
                await asyncio.sleep(5)
            assert shorter.has_run_out
            assert not longer.has_run_out
            await asyncio.sleep(5)

        with pytest.raises(TimeoutError), longer:
            await work()
        assert longer.has_run_out

    _run(scenario)


def test_two_that_run_out_together_end_the_outer_one() -> None:
    async def scenario(budgets: Budgets) -> None:
        outer, inner, said = budgets.of(0.01), budgets.of(0.01), list[str]()

        async def work() -> None:
            with inner:
                await asyncio.sleep(5)
            said.append("went on")

        with pytest.raises(TimeoutError), outer:
            await work()
        assert said == []

    _run(scenario)


def test_who_wants_the_task_to_end_is_obeyed_also_when_its_time_is_up() -> None:
    async def scenario(budgets: Budgets) -> None:
        began, is_late = asyncio.Event(), asyncio.Event()

        async def work(limit_s: float) -> None:
            with budgets.of(limit_s):
                began.set()
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    is_late.set()
                    await asyncio.sleep(1)
                    raise

        for limit_s, moment in ((60.0, began), (0.01, is_late)):
            began.clear()
            task = asyncio.create_task(work(limit_s))
            await moment.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    _run(scenario)


def test_several_tasks_each_have_their_own_time() -> None:
    async def scenario(budgets: Budgets) -> None:
        async def work(seconds: float, limit_s: float) -> bool:
            try:
                with budgets.of(limit_s):
                    await asyncio.sleep(seconds)
            except TimeoutError:
                return False
            return True

        done = await asyncio.gather(work(0.0, 5), work(5, 0.02), work(0.05, 5), work(5, 0.01), work(5, 0.1))
        assert done == [True, False, True, False, False]

    _run(scenario)


def test_after_closing_no_timer_is_left() -> None:
    async def scenario(budgets: Budgets) -> None:
        budget = budgets.of(0.01)
        with budget:
            budgets.close()
            await asyncio.sleep(0.05)
        assert not budget.has_run_out

    _run(scenario)


@pytest.mark.parametrize("limit_s", [0.0, -1.0])
def test_no_time_at_all_is_over_at_the_first_wait(limit_s: float) -> None:
    async def scenario(budgets: Budgets) -> None:
        with pytest.raises(TimeoutError), budgets.of(limit_s):
            await asyncio.sleep(0)

    _run(scenario)


def test_there_is_no_limit_without_a_task() -> None:
    async def scenario(budgets: Budgets) -> None:
        said: asyncio.Future[type[BaseException]] = asyncio.get_running_loop().create_future()

        def look() -> None:
            try:
                with budgets.of(1.0):
                    pass
            except RuntimeError as error:
                said.set_result(type(error))

        asyncio.get_running_loop().call_soon(look)
        assert await said is RuntimeError

    _run(scenario)
