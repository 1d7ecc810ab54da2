"""What is known of one saga from outside: its effects in order, and the rows its participants committed."""

from __future__ import annotations

from saga_choreo.core.graph import Plan
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Cause, Parked, State

__all__ = ["Ledger", "descendants_of"]

_NEVER_RUN = frozenset({State.SKIPPED, State.SKIPPED_CLEARED})


def descendants_of(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """For every step those that come after it."""
    found: list[tuple[int, ...]] = []
    for step in plan.steps:
        seen: dict[int, None] = {}
        edge = list(step.succs)
        while edge:
            number = edge.pop()
            if number != ORIGIN and number not in seen:
                seen[number] = None
                edge += plan.steps[number].succs
        found.append(tuple(sorted(seen)))
    return tuple(found)


class Ledger:
    """One saga. `forward` and `undone` count effects by step; `debts` are the steps whose own undo was waived."""

    def __init__(self, number: int, first: Record, plan: Plan, descendants: tuple[tuple[int, ...], ...]) -> None:
        self.number = number
        self.saga_id = first.saga_id
        self.identity = (first.definition, first.origin, first.deadline_ms, first.key, first.choreography, first.trace)
        self.plan = plan
        self.descendants = descendants
        count = len(plan.steps)
        self.forward = [0] * count
        self.undone = [0] * count
        self.debts: set[int] = set()
        self.rows: dict[int, Row] = {}
        self.kept: dict[int, bytes | None] = {}
        # How many words people have said on each step.
        self.words: dict[int, int] = {}
        # When the last of a step's in-edges was resolved; and the causes for which steps have refused.
        self.ready_ms: dict[int, int] = {}
        self.causes: set[Cause] = set()
        self.vetoed_by: int | None = None
        self.is_completed = False

    def name(self, step: int) -> str:
        return f"step {self.plan.step(step).name!r} of saga {self.number}"

    def state(self, step: int) -> State:
        row = self.rows.get(step)
        return State.WAITING if row is None else row.state

    def edge(self, source: int, output: int) -> bool | None:
        """True: the event of this edge came about. False: it never will. None: not known yet."""
        if source == ORIGIN:
            return True
        if self.forward[source]:
            row = self.rows.get(source)
            if row is None or row.state in (State.WAITING, State.RUNNING):
                return None  # the provider did it, but the step does not know yet
            return bool(row.choice >> output & 1)
        return False if self.state(source) in _NEVER_RUN else None

    def edges(self, step: int) -> list[bool | None]:
        found: list[bool | None] = []
        for source, event in self.plan.steps[step].in_edges:
            assert event is not None
            found.append(self.edge(source, self.plan.step(source).outputs.index(event)))
        return found

    def may_run(self, step: int) -> str:
        """Why the step must not run now, by the causes of its in-edges; '' when it may."""
        edges = self.edges(step)
        if None in edges:
            source = self.plan.steps[step].in_edges[edges.index(None)][0]
            return f"its predecessor {self.plan.step(source).name!r} is neither done nor skipped"
        wanted = all(edges) if self.plan.steps[step].needs_all else any(edges)
        return "" if wanted else "the events it waits for did not come"

    def is_waived(self, before: Row, record: Record) -> bool:
        """A person let its undo be."""
        row = record.row
        parked = before.parked is not Parked.NO and row.state is State.COMPENSATED
        return parked and row.debt and not self.undone[record.step]

    def is_settled(self, step: int) -> bool:
        """Nothing of it is left in the world, or somebody answers for what is; a step that only reads leaves nothing."""
        if self.plan.choreography.steps[step].read_only:
            return True
        return self.forward[step] == self.undone[step] or step in self.debts
