"""Limits, breakers, locks, messages that must not count, and next week: the simulator reaches them, and judges them by itself."""

from __future__ import annotations

import pytest

from saga_choreo.model.breaker import Breaker
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.testing.simulator.guards import Watch
from saga_choreo.testing.simulator.settings import Settings
from saga_choreo.testing.simulator.simulate import replay_command, simulate
from saga_choreo.testing.simulator.world import World

GUARDED = {"concurrency": 0.8, "rate": 0.5, "breaker": 0.8, "lock": 0.9, "step_error": 0.3}
STRANGE = {"stray": 0.2, "late_definition": 0.3, "next_week": 1.0}


def _run(settings: Settings, seeds: range, wanted: tuple[str, ...]) -> None:
    result = simulate(seeds, settings)
    for verdict in result.failures:
        pytest.fail(f"{verdict.violations[0]}; run again: {replay_command(verdict.seed, settings)}")
    assert [situation for situation in wanted if not result.sometimes.get(situation)] == []


def test_steps_with_limits_and_locks_keep_every_promise() -> None:
    wanted = ("held back by a rate limit", "held back by a concurrency limit", "held back by a lock", "refused over a lock")
    _run(Settings(sagas=10, rates=GUARDED), range(60), (*wanted, "a probe closed the breaker", "a probe failed"))


def test_steps_of_real_agents_with_limits_and_locks_keep_every_promise() -> None:
    _run(Settings(layer="c", sagas=10, rates=GUARDED), range(12), ("held back by a rate limit", "refused over a lock"))


def test_messages_that_must_not_count_change_nothing_and_are_all_put_aside() -> None:
    wanted = ("unreadable", "from_the_future", "inapplicable", "stale")
    _run(Settings(rates=STRANGE), range(30), (*(f"quarantined: {one}" for one in wanted), "applied once its definition had come"))


def test_real_agents_put_messages_aside_that_must_not_count() -> None:
    _run(Settings(layer="c", rates=STRANGE), range(8), ("quarantined: unreadable", "quarantined: from_the_future"))


PLACE = object()


def _watch() -> tuple[Watch, World]:
    world = World(1, Settings())
    return Watch(world), world


def test_more_runs_at_once_than_allowed_are_seen() -> None:
    watch, world = _watch()
    options = StepOptions(concurrency=1)
    first = watch.began(PLACE, "pay", options, 0.0)
    watch.ended(PLACE, "pay", first, 1.0, failed=False)
    watch.began(PLACE, "pay", options, 1.0)
    assert not world.violations
    watch.began(object(), "pay", options, 1.0)  # another process has places of its own
    assert not world.violations
    watch.began(PLACE, "pay", options, 1.5)
    assert [one.code for one in world.violations] == ["LIMIT"]


def test_more_runs_a_second_than_allowed_are_seen() -> None:
    watch, world = _watch()
    for at_s in (0.0, 0.5, 1.0, 1.5):
        watch.began(PLACE, "pay", StepOptions(rate_per_s=2), at_s)
    assert not world.violations
    watch.began(PLACE, "pay", StepOptions(rate_per_s=2), 1.7)
    assert [one.code for one in world.violations] == ["LIMIT"]


@pytest.mark.parametrize(
    ("second_at_s", "third_at_s", "wrong"), [(5.0, 20.0, 2), (11.0, 12.0, 1), (11.0, 20.0, 1), (11.0, 32.0, 0)]
)
def test_a_run_beside_an_open_breaker_or_its_probe_is_seen(second_at_s: float, third_at_s: float, wrong: int) -> None:
    watch, world = _watch()
    options = StepOptions(breaker=Breaker(failures=1, open_s=10, open_max_s=40))
    watch.ended(PLACE, "pay", watch.began(PLACE, "pay", options, 0.0), 0.0, failed=True)  # open until 10
    probe = watch.began(PLACE, "pay", options, second_at_s)
    if third_at_s > 15:
        watch.ended(PLACE, "pay", probe, second_at_s, failed=True)  # for twice as long
    watch.began(PLACE, "pay", options, third_at_s)
    assert len(world.violations) == wrong
