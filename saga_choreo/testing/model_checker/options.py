"""What may happen in a search, and what a search answers.

Every switch multiplies the number of states, so the defaults are what most counter-examples need: business refusals,
cancels, passing deadlines. The other switches are for smaller graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saga_choreo.errors import SagaError

__all__ = ["Options", "Result", "SearchTooLarge", "Violation"]


class SearchTooLarge(SagaError):
    """The search reached its limit of states before it was complete: nothing is proved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may happen. Delays, duplicates and reordering of messages always may.

    `cancel`: somebody cancels at the origin. `ask`: somebody asks for a cancel at any participant. `deadline`: the saga's
    deadline passes at the origin and at every waiting step, and so do the steps' own deadlines.
    `decline`: business refusals. `park`: technical failures last, and the step is parked. `veto`: they last, and the step
    refuses. `operator`: a person resolves parked steps in every way that is allowed. `undo_fails`: compensations fail
    for a while (for good with `park`). `go_on`: predecessors do not wait for a parked compensation. `pending`: every external
    step may go pending, not only one with an event for its deadline. `forget`: the horizon passes, and finished records are
    deleted. `causes`: tell causes of an abort apart. `once`: require that a message which was applied or ignored once is never
    needed later (L0). `refusals`: definite refusals of one external step that must not refuse.
    """

    cancel: bool = True
    ask: bool = False
    deadline: bool = True
    decline: bool = True
    park: bool = False
    veto: bool = False
    operator: bool = False
    undo_fails: bool = False
    go_on: bool = False
    pending: bool = False
    forget: bool = False
    causes: bool = False
    once: bool = True
    refusals: int = 1
    states_max: int = 4_000_000


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken invariant with the shortest way to it, one line per action."""

    invariant: str
    message: str
    story: tuple[str, ...]

    def __str__(self) -> str:
        steps = "\n".join(f"  {number:2}. {line}" for number, line in enumerate(self.story, 1))
        return f"{self.invariant} is broken after {len(self.story)} actions: {self.message}\n{steps}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a complete search found; the search stops at the first violation. `completed` and `aborted` hold the distinct
    vectors of final step states, in the order of the steps. `seconds` are of CPU time: what one core needs."""

    graph: str
    states: int
    transitions: int
    seconds: float
    violations: tuple[Violation, ...] = ()
    completed: frozenset[tuple[str, ...]] = frozenset()
    aborted: frozenset[tuple[str, ...]] = frozenset()

    @property
    def transitions_per_s(self) -> int:
        return int(self.transitions / max(self.seconds, 1e-6))

    def to_json(self) -> dict[str, Any]:
        return {
            "graph": self.graph,
            "states": self.states,
            "transitions": self.transitions,
            "violations": len(self.violations),
            "ends": {"completed": len(self.completed), "aborted": len(self.aborted)},
            "transitions_per_s": self.transitions_per_s,
        }
