"""The public function: search one choreography completely."""

from __future__ import annotations

import time

from saga_choreo.core.graph import plan_of
from saga_choreo.model.choreography import Choreography
from saga_choreo.testing.model_checker.invariants import Invariants
from saga_choreo.testing.model_checker.options import Options, Result, Violation
from saga_choreo.testing.model_checker.search import Broken, Search
from saga_choreo.testing.model_checker.story import story_of
from saga_choreo.testing.model_checker.world import World

__all__ = ["check"]


def check(choreography: Choreography, options: Options | None = None) -> Result:
    """Explore every interleaving. Raises SearchTooLarge when the limit of states is reached first, and DefinitionError
    when the choreography has no graph."""
    options = options or Options()
    plan = plan_of(choreography)
    search = Search(World(plan, options), Invariants(plan, options), options.states_max)
    began = time.perf_counter()
    violations: tuple[Violation, ...] = ()
    try:
        search.run()
    except Broken as broken:
        name, _, message = broken.what.partition(": ")
        violations = (Violation(name, message, story_of(search, broken)),)
    return Result(
        graph=choreography.name,
        states=len(search.states),
        transitions=search.transitions,
        seconds=time.perf_counter() - began,
        violations=violations,
        completed=frozenset(search.completed),
        aborted=frozenset(search.aborted),
    )
