"""Real agents in virtual time: the loop itself, and what the agents promise under faults."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saga_choreo.testing.simulator.settings import Settings
from saga_choreo.testing.simulator.simulate import replay_command, simulate
from saga_choreo.testing.simulator.streams import Streams
from saga_choreo.testing.virtual_loop import Life, NothingLeft, VirtualLoop

ROOT = Path(__file__).resolve().parents[2]


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
from saga_choreo.testing.simulator.layers import run_one
from saga_choreo.testing.simulator.settings import Settings
for layer in "bc":
    for seed in range(6):
        verdict = run_one(seed, Settings(layer=layer, trace=True))
        print(layer, seed, verdict.digest, verdict.operations)
"""


def _digests(python: str, **environment: str) -> str:
    """What the first seeds do, under another interpreter."""
    command = [python, "-c", _DIGESTS]
    ended = subprocess.run(command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_same_seed_makes_real_agents_do_the_same_under_any_hash_seed() -> None:
    digests = {_digests(sys.executable, PYTHONHASHSEED=hash_seed) for hash_seed in ("0", "1", "random")}
    assert len(digests) == 1


def test_the_same_seed_does_the_same_under_another_version_of_python() -> None:
    other = os.environ.get("SAGA_OTHER_PYTHON")
    if not other:
        pytest.skip("SAGA_OTHER_PYTHON names no interpreter of another version that has this toolkit's dependencies")
    assert _digests(other) == _digests(sys.executable)


def test_tasks_that_are_always_ready_do_not_keep_others_from_their_turn() -> None:
    loop, seen = _loop(), list[str]()

    async def busy() -> None:
        for _ in range(100_000):
            if seen:
                return
            await asyncio.sleep(0)
        seen.append("nobody else")

    async def other() -> None:
        await asyncio.sleep(0.001)
        seen.append("other")

    async def main() -> None:
        await asyncio.gather(busy(), other())

    loop.run(main())
    assert seen == ["other"]
