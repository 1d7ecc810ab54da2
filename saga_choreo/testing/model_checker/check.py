"""The public functions: search one choreography completely, or all of a size."""

from __future__ import annotations

import time

from saga_choreo.core.graph import plan_of
from saga_choreo.model.choreography import Choreography
from saga_choreo.testing.model_checker.generate import all_graphs
from saga_choreo.testing.model_checker.invariants import Invariants
from saga_choreo.testing.model_checker.options import Options, Result, Violation
from saga_choreo.testing.model_checker.search import Broken, Search
from saga_choreo.testing.model_checker.story import story_of
from saga_choreo.testing.model_checker.world import World

__all__ = ["check", "check_all"]


def check(choreography: Choreography, options: Options | None = None) -> Result:
    """Explore every interleaving. Raises SearchTooLarge when the limit of states is reached first, and DefinitionError
    when the choreography has no graph."""
    options = options or Options()
    plan = plan_of(choreography)
    search = Search(World(plan, options), Invariants(plan, options), options.states_max)
    began = time.process_time()
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
        seconds=time.process_time() - began,
        violations=violations,
        completed=frozenset(search.completed),
        aborted=frozenset(search.aborted),
    )


def check_all(steps_max: int, options: Options | None = None, *, edges_max: int | None = None) -> Result:
    """Explore every well-formed graph of up to `steps_max` steps, up to the first violation; the sums as one result.
    The ends are those of all graphs together, each told apart by the graph's name."""
    states = transitions = 0
    seconds = 0.0
    completed: set[tuple[str, ...]] = set()
    aborted: set[tuple[str, ...]] = set()
    violations: tuple[Violation, ...] = ()
    for choreography in all_graphs(steps_max, edges_max):
        result = check(choreography, options)
        states, transitions, seconds = states + result.states, transitions + result.transitions, seconds + result.seconds
        completed |= {(result.graph, *end) for end in result.completed}
        aborted |= {(result.graph, *end) for end in result.aborted}
        if result.violations:
            found = result.violations[0]
            where = f"{result.graph} ({choreography.canonical_bytes.decode()}): {found.message}"
            violations = (Violation(found.invariant, where, found.story),)
            break
    return Result(
        graph=f"all graphs of up to {steps_max} steps",
        states=states,
        transitions=transitions,
        seconds=seconds,
        violations=violations,
        completed=frozenset(completed),
        aborted=frozenset(aborted),
    )
