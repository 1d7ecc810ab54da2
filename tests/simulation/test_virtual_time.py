"""Real agents in virtual time: the loop itself, and what the agents promise under faults."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from saga_choreo.testing.simulator.settings import Settings
from saga_choreo.testing.simulator.simulate import replay_command, simulate
from saga_choreo.testing.simulator.streams import Streams
from saga_choreo.testing.virtual_loop import Life, NothingLeft, VirtualLoop


def _loop(seed: int = 1) -> VirtualLoop:
    return VirtualLoop(Streams(seed).named("schedule"))


def test_a_sleep_takes_virtual_time_only() -> None:
    loop = _loop()

    async def main() -> float:
        await asyncio.sleep(3600)
        return loop.time()

    assert 3600 <= loop.run(main()) < 3601


def test_waiting_for_nothing_is_told_instead_of_hanging() -> None:
    loop = _loop()

    async def main() -> None:
        await loop.create_future()

    with pytest.raises(NothingLeft):
        loop.run(main())


def test_tasks_that_are_ready_together_go_on_in_an_order_drawn_from_the_seed() -> None:
    def order(seed: int) -> list[int]:
        loop, seen = _loop(seed), list[int]()

        async def one(number: int) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(number)

        async def main() -> None:
            await asyncio.gather(*(one(number) for number in range(4)))

        loop.run(main())
        return seen

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(20)}) > 5


def test_a_killed_process_runs_no_cleanup_and_the_others_go_on() -> None:
    loop, seen, life = _loop(), list[str](), Life("victim")

    async def victim() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append("cleanup")

    async def main() -> list[str]:
        life.run_in(lambda: loop.create_task(victim()))
        await asyncio.sleep(1)
        loop.bury(life)
        await asyncio.sleep(20)
        return list(seen)

    assert loop.run(main()) == []


@pytest.mark.parametrize(
    "settings",
    [
        Settings(layer="c"),
        Settings(layer="c", reannounce=False, sagas=10),
        Settings(layer="c", reannounce=True, loss=0.3),
    ],
    ids=["as the seed decides", "nothing repeated, more sagas", "messages lost"],
)
def test_real_agents_break_no_promise_under_random_faults(settings: Settings) -> None:
    result = simulate(range(12), settings)
    for verdict in result.failures:
        pytest.fail(f"{verdict.violations[0]}; run again: {replay_command(verdict.seed, settings)}")
    assert result.completed > 0
    assert result.aborted > 0
    assert result.completed + result.aborted == result.sagas


_DIGESTS = """
import logging
logging.disable(logging.CRITICAL)
from saga_choreo.testing.simulator.live import run_live_seed
from saga_choreo.testing.simulator.settings import Settings
print([(v.digest, v.operations) for v in (run_live_seed(seed, Settings(layer="c", trace=True)) for seed in range(6))])
"""


def test_the_same_seed_makes_real_agents_do_the_same_under_any_hash_seed() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGESTS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "random")
    }
    assert len(digests) == 1
