"""What a simulation is asked to do, and what it found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from saga_choreo.model.choreography import Choreography
from saga_choreo.model.event import Event
from saga_choreo.model.states import SagaState
from saga_choreo.runtime.agent import Agent

__all__ = ["Check", "FaultMark", "Fetch", "OwnAgents", "Settings", "StartEvent", "Verdict", "Violation"]

StartEvent = Callable[[int, Random], Event]
# `await fetch(service, statement, *parameters)`: rows of that service's database.
Fetch = Callable[..., Awaitable[list[Any]]]
Check = Callable[[UUID, SagaState, Fetch], Awaitable[Sequence[str]]]
# One opportunity for a fault: its class, and the how-many-th draw of that class it was.
FaultMark = tuple[str, int]


@dataclass(frozen=True, slots=True)
class OwnAgents:
    """A user's agents, of which the first starts the sagas; the event of the how-many-th saga; and what is wrong with the effects
    of one that has ended, which all agents being stopped `check` finds in their databases."""

    agents: tuple[Agent, ...]
    start: StartEvent
    check: Check | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run's settings, beside its seed.

    `reannounce`: None lets the seed decide. `loss`: share of messages a broker loses (needs re-announcing). `only`: the fault
    classes that may be on (None: the seed decides). `suppressed`: single faults that are left out, for shrinking. `keep`: the
    sagas that are started, by number. `crash_at`: kill the process that is at this operation, counted over the whole run.
    `own`: agents with their own handlers, instead of simulated ones.
    """

    layer: str = "b"
    sagas: int = 4
    choreographies: tuple[Choreography, ...] = ()
    shape: str = ""
    reannounce: bool | None = None
    loss: float = 0.0
    only: frozenset[str] | None = None
    suppressed: frozenset[FaultMark] = frozenset()
    keep: frozenset[int] | None = None
    crash_at: int | None = None
    trace: bool = False
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    own: OwnAgents | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: its code in the protocol (S1, L1, ...), and what happened."""

    code: str
    text: str
    at_s: float
    saga: int = -1

    def __str__(self) -> str:
        return f"{self.code} at {self.at_s:.3f} s: {self.text}"


@dataclass(slots=True)
class Verdict:
    """What one seed gave."""

    seed: int
    sagas: int = 0
    completed: int = 0
    aborted: int = 0
    operations: int = 0
    violations: list[Violation] = field(default_factory=list[Violation])
    sometimes: dict[str, int] = field(default_factory=dict[str, int])
    faults: list[tuple[FaultMark, float]] = field(default_factory=list[tuple[FaultMark, float]])
    digest: int = 0
    trace: list[str] = field(default_factory=list[str])

    def to_json(self) -> dict[str, Any]:
        return {"seed": self.seed, "violations": [str(one) for one in self.violations], "faults": len(self.faults)}
