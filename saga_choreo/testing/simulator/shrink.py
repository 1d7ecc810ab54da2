"""Makes a failing run small: which sagas, which fault classes, and which single faults does it need?

Delta debugging over the faults that happened: leave some out, run again, keep what still breaks the same promise. Every fault
has a number of its own that does not move when another is left out.
"""

from __future__ import annotations

from dataclasses import replace

from saga_choreo.testing.simulator.layers import run_one
from saga_choreo.testing.simulator.settings import FaultMark, Settings, Verdict
from saga_choreo.testing.simulator.simulate import silence

__all__ = ["shrink"]


class _Shrinking:
    def __init__(self, verdict: Verdict, settings: Settings, runs_max: int) -> None:
        self.verdict = verdict
        self.settings = settings
        self._runs_left = runs_max
        self._code = verdict.violations[0].code

    def accepts(self, settings: Settings) -> bool:
        """Whether the run still fails in the same way; then it is the one to shrink further."""
        if self._runs_left <= 0:
            return False
        self._runs_left -= 1
        verdict = run_one(self.verdict.seed, settings)
        if not any(violation.code == self._code for violation in verdict.violations):
            return False
        self.verdict, self.settings = verdict, settings
        return True

    def drop_sagas(self) -> None:
        for number in range(self.settings.sagas):
            kept = self.settings.keep if self.settings.keep is not None else frozenset(range(self.settings.sagas))
            if len(kept) > 1 and number in kept:
                self.accepts(replace(self.settings, keep=kept - {number}))

    def drop_classes(self) -> None:
        for name in sorted({mark[0] for mark, _ in self.verdict.faults}):
            on = frozenset(mark[0] for mark, _ in self.verdict.faults)
            only = self.settings.only
            self.accepts(replace(self.settings, only=(on if only is None else only) - {name}))

    def drop_faults(self) -> None:
        size = max(len(self.verdict.faults) // 2, 1)
        while True:
            marks = [mark for mark, _ in self.verdict.faults]
            for at in range(0, len(marks), size):
                chunk: list[FaultMark] = marks[at : at + size]
                self.accepts(replace(self.settings, suppressed=self.settings.suppressed | frozenset(chunk)))
            if size == 1 or self._runs_left <= 0:
                return
            size = max(size // 2, 1)


def shrink(verdict: Verdict, settings: Settings, runs_max: int = 300) -> tuple[Verdict, Settings]:
    """A smaller run that breaks the same promise, traced; at most so many runs are tried."""
    shrinking = _Shrinking(verdict, settings, runs_max)
    with silence():
        shrinking.drop_sagas()
        shrinking.drop_classes()
        shrinking.drop_faults()
        traced = replace(shrinking.settings, trace=True)
        return run_one(verdict.seed, traced), traced
