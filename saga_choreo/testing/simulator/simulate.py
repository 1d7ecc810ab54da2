"""Many seeds in a row: counts, the table of rare situations, and what to do about a seed that fails."""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from saga_choreo.testing.simulator.layers import run_one
from saga_choreo.testing.simulator.settings import Settings, Verdict
from saga_choreo.testing.simulator.situations import LIVE_SITUATIONS, SITUATIONS

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Result", "replay_command", "silence", "simulate", "simulate_every_crash", "simulate_on"]

# A world is a megabyte or so.
_COLLECT_EVERY = 8
# What one process is given at a time: a second's work or so.
_SEEDS_AT_ONCE = 25


@dataclass(slots=True)
class Result:
    """What a run of many seeds found. `failures` are the verdicts of the seeds that broke a promise; `seconds` are of CPU time, so
    that sagas a second are those of one core, whatever else the machine does."""

    layer: str = "b"
    is_own: bool = False
    seeds: int = 0
    sagas: int = 0
    completed: int = 0
    aborted: int = 0
    failures: list[Verdict] = field(default_factory=list[Verdict])
    sometimes: dict[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0

    @property
    def violations(self) -> int:
        return sum(len(verdict.violations) for verdict in self.failures)

    @property
    def _wanted(self) -> tuple[str, ...]:
        if self.is_own:
            return ()
        return LIVE_SITUATIONS if self.layer == "c" else SITUATIONS

    @property
    def never_reached(self) -> list[str]:
        return [situation for situation in self._wanted if not self.sometimes.get(situation)]

    def add(self, verdict: Verdict) -> None:
        self.seeds += 1
        self.sagas += verdict.sagas
        self.completed += verdict.completed
        self.aborted += verdict.aborted
        for situation, count in verdict.sometimes.items():
            self.sometimes[situation] = self.sometimes.get(situation, 0) + count
        if verdict.violations:
            self.failures.append(verdict)

    def join(self, other: Result) -> None:
        """Count what another run of the same settings found as found here."""
        self.seeds += other.seeds
        self.sagas += other.sagas
        self.completed += other.completed
        self.aborted += other.aborted
        self.failures += other.failures
        self.seconds += other.seconds
        for situation, count in other.sometimes.items():
            self.sometimes[situation] = self.sometimes.get(situation, 0) + count

    def to_json(self) -> dict[str, Any]:
        failures = [verdict.to_json() for verdict in self.failures]
        return {
            "seeds": self.seeds,
            "sagas": self.sagas,
            "completed": self.completed,
            "aborted": self.aborted,
            "violations": self.violations,
            **({"failures": failures} if failures else {}),
            "sometimes": dict(sorted((dict.fromkeys(self._wanted, 0) | self.sometimes).items())),
            "sagas_per_s": round(self.sagas / self.seconds, 1) if self.seconds else 0.0,
        }


def replay_command(seed: int, settings: Settings, app: str = "") -> str:
    """The command that runs this seed again."""
    words = ["saga-choreo simulate", *([app] if app else []), f"--seed {seed} --seeds 1"]
    if settings.layer != "b":
        words.append(f"--layer {settings.layer}")
    if settings.sagas != Settings().sagas:
        words.append(f"--sagas {settings.sagas}")
    if settings.loss:
        words.append(f"--loss {settings.loss:g}")
    if settings.reannounce is not None:
        words.append("--reannounce" if settings.reannounce else "--no-reannounce")
    if settings.shape:
        words.append(f"--shape {settings.shape!r}")
    if settings.rates:
        words += [f"--rate {name}={rate:g}" for name, rate in sorted(settings.rates.items())]
    return " ".join(words)


@contextmanager
def silence() -> Generator[None]:
    """What agents log in a simulation is about faults that are there on purpose."""
    logger = logging.getLogger("saga_choreo")
    before, logger.disabled = logger.level, True
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.disabled = False
        logger.setLevel(before)


@contextmanager
def _rare_collection() -> Generator[Callable[[], object]]:
    """A seed leaves its whole world as one piece of garbage: looking for it all the time costs a tenth of a run."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def simulate(
    seeds: Iterable[int], settings: Settings | None = None, *, failures_max: int = 1, told: Callable[[Verdict], None] | None = None
) -> Result:
    """Run these seeds, until so many have failed. `told` hears of every verdict."""
    settings = settings or Settings()
    result = Result(settings.layer, settings.own is not None)
    began = time.process_time()
    with silence(), _rare_collection() as collect:
        for seed in seeds:
            verdict = run_one(seed, settings)
            result.add(verdict)
            if result.seeds % _COLLECT_EVERY == 0:
                collect()
            if told is not None:
                told(verdict)
            if len(result.failures) >= failures_max:
                break
    result.seconds = time.process_time() - began
    return result


def simulate_on(jobs: int, seeds: Iterable[int], settings: Settings, *, failures_max: int = 1) -> Result:
    """`simulate` in so many processes. What is found, and in which order, does not depend on how many there are; a run with own
    agents, which may not fit into another process, is not for this (ValueError)."""
    if jobs == 1:
        return simulate(seeds, settings, failures_max=failures_max)
    if settings.own is not None:
        raise ValueError("own agents run in one process; give jobs=1")
    result, parts = Result(settings.layer), _batched(seeds, _SEEDS_AT_ONCE)
    with ProcessPoolExecutor(jobs, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        waiting = deque(pool.submit(simulate, part, settings, failures_max=failures_max) for part in islice(parts, 2 * jobs))
        try:
            while waiting and len(result.failures) < failures_max:
                result.join(waiting.popleft().result())
                waiting.extend(pool.submit(simulate, part, settings, failures_max=failures_max) for part in islice(parts, 1))
        finally:
            pool.shutdown(cancel_futures=True)
    del result.failures[failures_max:]
    return result


def _batched(seeds: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    rest = iter(seeds)
    while part := tuple(islice(rest, size)):
        yield part


def simulate_every_crash(seed: int, settings: Settings | None = None, *, faults: frozenset[str] = frozenset()) -> Result:
    """Run the seed once without crashes, then once for every operation of that run, killing the process that is at it. Other
    faults are off, but for `faults`."""
    calm = replace(settings or Settings(), only=faults)
    began = time.process_time()
    result = Result(calm.layer, calm.own is not None)
    with silence():
        whole = run_one(seed, calm)
        result.add(whole)
        for number in range(1, whole.operations + 1):
            result.add(run_one(seed, replace(calm, crash_at=number)))
    result.seconds = time.process_time() - began
    return result
