"""What must be true of every state, of every effect at the instant it happens, and of every end.

Names are those of the protocol. Invariants of a whole state look only at a digest of each participant (`Facts`), so that
each combination is judged once.
"""

from __future__ import annotations

from typing import NamedTuple

from saga_choreo.core.graph import Plan
from saga_choreo.core.rows import FINAL_ORIGIN, is_finished, is_resolved
from saga_choreo.model.choreography import Undo
from saga_choreo.model.record import ORIGIN
from saga_choreo.model.states import Cause, Outcome, Parked, State
from saga_choreo.testing.model_checker.cells import Call, Cell, has_record
from saga_choreo.testing.model_checker.options import Options

__all__ = ["Digest", "Invariants", "digest_of"]


class Digest(NamedTuple):
    """What invariants of whole states need to know of one record."""

    state: State
    made: int
    unmade: int
    waived: bool
    vetoed: bool
    running: bool
    open_undo: bool
    finished: bool
    parked: bool
    record: bool
    gone: bool
    outcome: Outcome
    cause: Cause
    fault: str


def digest_of(cell: Cell, step: int, plan: Plan) -> Digest:
    row = cell.row
    return Digest(
        state=row.state,
        made=cell.made,
        unmade=cell.unmade,
        waived=cell.waived,
        vetoed=cell.vetoed,
        running=_is_running(cell),
        open_undo=row.state is State.COMPENSATING,
        finished=is_finished(row),
        parked=row.parked is not Parked.NO,
        record=has_record(cell),
        gone=cell.gone,
        outcome=row.outcome,
        cause=row.cause if row.outcome else Cause.NONE,
        fault=_fault_of(cell, step, plan) if step != ORIGIN else "",
    )


def _is_running(cell: Cell) -> bool:
    """A forward effect may happen here without any further decision."""
    return cell.row.state is State.RUNNING or cell.row.parked is Parked.HUMAN or Call.ISSUED in cell.calls


def _fault_of(cell: Cell, step: int, plan: Plan) -> str:
    definition = plan.choreography.steps[step]
    if cell.made > 1:
        return f"S1: {definition.name} was done {cell.made} times"
    if cell.unmade > cell.made:
        return f"S2: {definition.name} was done {cell.made} times and undone {cell.unmade} times"
    stuck = definition.undo is Undo.NONE and not definition.read_only
    if stuck and (cell.row.state in (State.COMPENSATING, State.COMPENSATED) or cell.unmade):
        return f"S9: {definition.name} has no compensation and was asked to compensate"
    if cell.gone and has_record(cell):
        return f"S12: a late message made a new record of {definition.name}"
    return ""


class Invariants:
    """The invariants of one choreography. Methods answer '' or 'NAME: what is wrong'."""

    def __init__(self, plan: Plan, options: Options) -> None:
        self._plan = plan
        self._options = options
        self._names = [step.name for step in plan.steps]
        self._after = [_descendants(plan, step.index) for step in plan.steps]
        self._before = [tuple(other for other in range(len(plan.steps)) if step.index in self._after[other]) for step in plan.steps]

    def of_state(self, origin: Digest, steps: tuple[Digest, ...]) -> str:
        """S1, S2, S6, S7, S8, S9, S12. `steps` is in the order of the plan's steps."""
        for digest in steps:
            if digest.fault:
                return digest.fault
        vetoed = origin.vetoed or origin.state is State.REFUSED or any(digest.vetoed for digest in steps)
        if origin.made and (vetoed or origin.unmade):
            return "S6: the saga is completed, and a veto exists"
        if not vetoed and any(digest.unmade for digest in steps):
            return "S8: a step was undone, and nobody vetoed"
        if self._options.causes and not origin.gone and any(digest.outcome and digest.cause != origin.cause for digest in steps):
            return "L2: a step knows another cause than the origin's"
        return self._orphan(origin, steps) if origin.unmade else ""

    def _orphan(self, origin: Digest, steps: tuple[Digest, ...]) -> str:
        for name, digest in zip(self._names, steps, strict=True):
            if digest.made != digest.unmade and not digest.waived:
                return f"S7: the saga is aborted, and {name} was done {digest.made} times and undone {digest.unmade} times"
            if digest.running or (digest.open_undo and not digest.waived):
                return f"S7: the saga is aborted, and {name} is still running"
        debts = any(digest.waived for digest in steps)
        if not origin.gone and debts is not (origin.outcome is Outcome.FAILED):
            return f"S7: the saga ended as {origin.outcome}, and debts {'exist' if debts else 'do not exist'}"
        return ""

    def of_effect(self, step: int, old: Cell, new: Cell, cells: tuple[Cell, ...]) -> str:
        """S3, S4, S5 at the instant of an effect; `cells` are all steps' cells before it."""
        if new.made > old.made:
            problem = self._forward(step, old, new, cells)
            if problem:
                return problem
        if new.unmade > old.unmade:
            return self._backward(step, cells)
        return ""

    def _forward(self, step: int, old: Cell, new: Cell, cells: tuple[Cell, ...]) -> str:
        plan, name = self._plan.steps[step], self._names[step]
        if old.row.state in (State.TOMB, State.COMPENSATED, State.SKIPPED, State.SKIPPED_CLEARED) or old.gone:
            return f"S5: {name} was done after it was {old.row.state.name.lower()}"
        for before in self._before[step]:
            if cells[before].unmade or cells[before].row.state in (State.TOMB, State.COMPENSATED):
                return f"S5: {name} was done after {self._names[before]} was undone"
        if not is_resolved(new.row, plan):
            return f"S3: {name} was done before all that it waits for was resolved"
        for bit, (source, _) in enumerate(plan.in_edges):
            if new.row.done_in >> bit & 1 and source != ORIGIN and not cells[source].made:
                return f"S3: {name} was done before {self._names[source]}"
        return ""

    def _backward(self, step: int, cells: tuple[Cell, ...]) -> str:
        for later in self._after[step]:
            cell = cells[later]
            if (cell.made != cell.unmade and not cell.waived) or _is_running(cell):
                return f"S4: {self._names[step]} was undone before {self._names[later]}, which follows it"
        return ""

    def is_end(self, origin: Digest, steps: tuple[Digest, ...]) -> bool:
        """L1: completed with every step done or skipped, or aborted with every step closed; all records know the outcome."""
        if origin.state not in FINAL_ORIGIN:
            return self._waits_for_person(steps)
        if origin.state is State.COMPLETED:
            return all(digest.state in (State.DONE, State.SKIPPED) and digest.finished for digest in steps)
        return all(digest.finished or (digest.parked and not self._options.operator) for digest in steps)

    def _waits_for_person(self, steps: tuple[Digest, ...]) -> bool:
        return not self._options.operator and any(digest.parked for digest in steps)


def _descendants(plan: Plan, step: int) -> tuple[int, ...]:
    found: set[int] = set()
    todo = [step]
    while todo:
        for later in plan.steps[todo.pop()].succs:
            if later != ORIGIN and later not in found:
                found.add(later)
                todo.append(later)
    return tuple(sorted(found))
