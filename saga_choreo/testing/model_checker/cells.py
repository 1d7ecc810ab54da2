"""One step's record beside what the outside world knows of it: effects that happened, calls that may be on their way.

The ghost part is what invariants are about. An external effect happens at a provider, at the time of the call, under the
step's key; the caller may learn of it later or never. A local effect happens in the commit that changes the record.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from saga_choreo.core.facts import Fact, Resolved
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.rows import Duty, duty
from saga_choreo.model.choreography import Undo
from saga_choreo.model.record import ORIGIN, Row
from saga_choreo.model.states import Cause, Parked, State

__all__ = ["NOTHING", "Call", "Cell", "after", "call_of", "has_record", "with_call"]


class Call(IntEnum):
    """What is true at the provider of one key. ISSUED: a call is on its way that nobody waits for any more."""

    UNSET = 0
    ISSUED = 1
    APPLIED = 2
    DECLINED = 3
    VOID = 4
    PENDING = 5


class Cell(NamedTuple):
    """`made` and `unmade` count effects (F and U of the protocol; at the origin: completed, aborted). `calls` and
    `undo_calls`: what the provider holds per key number. `waived`: this step's own undo was given up. `by_hand`: a
    person who holds the step has done its work. `vetoed`: this step was a vetoer once."""

    row: Row = Row()
    made: int = 0
    unmade: int = 0
    calls: tuple[Call, ...] = ()
    undo_calls: tuple[Call, ...] = ()
    waived: bool = False
    by_hand: bool = False
    vetoed: bool = False
    gone: bool = False


_NONE = Row()
NOTHING = Cell()
_AFTER_DONE = frozenset({State.DONE, State.COMPENSATING, State.COMPENSATED})


def has_record(cell: Cell) -> bool:
    return cell.row != _NONE


def call_of(calls: tuple[Call, ...], key_no: int) -> Call:
    return calls[key_no] if key_no < len(calls) else Call.UNSET


def with_call(calls: tuple[Call, ...], key_no: int, call: Call) -> tuple[Call, ...]:
    padded = calls + (Call.UNSET,) * (key_no + 1 - len(calls))
    return (*padded[:key_no], call, *padded[key_no + 1 :])


def after(cell: Cell, row: Row, fact: Fact, step: StepPlan, *, causes: bool) -> Cell:
    """The cell once its row has become `row` because of `fact`: effects that the commit itself made, and calls left behind."""
    row = row._replace(attempt=0, cause=row.cause if causes else Cause.NONE)
    if step.index == ORIGIN:
        return _origin_after(cell, row)
    left = _left_behind(cell, row, step)
    before = cell.row.state
    made, unmade = cell.made, cell.unmade
    if row.state in _AFTER_DONE and before not in _AFTER_DONE and not _counted_already(cell):
        made += 1
    if row.state is State.COMPENSATED and before is not State.COMPENSATED and not _undone_elsewhere(fact, step):
        unmade += 1
    waived = cell.waived or (isinstance(fact, Resolved) and fact.verb == "waive" and before is State.COMPENSATING)
    waived = waived or (row.state is State.COMPENSATING and row.parked is not Parked.NO and bool(getattr(fact, "go_on", False)))
    by_hand = cell.by_hand and bool(row.operator)
    vetoed = cell.vetoed or row.vetoer
    return _without_settled_calls(left._replace(row=row, made=made, unmade=unmade, waived=waived, by_hand=by_hand, vetoed=vetoed))


def _origin_after(cell: Cell, row: Row) -> Cell:
    completed = cell.made or row.state is State.COMPLETED
    aborted = cell.unmade or row.state in (State.ABORTED, State.REFUSED)
    return cell._replace(row=row, made=int(completed), unmade=int(aborted), vetoed=cell.vetoed or row.vetoer)


def _counted_already(cell: Cell) -> bool:
    return cell.by_hand or Call.APPLIED in cell.calls


def _undone_elsewhere(fact: Fact, step: StepPlan) -> bool:
    """An external undo is counted at its provider; a waived one never happened."""
    return step.undo is Undo.EXTERNAL or (isinstance(fact, Resolved) and fact.verb == "waive")


def _left_behind(cell: Cell, row: Row, step: StepPlan) -> Cell:
    """A call that the old row was making may still be on its way when the new row makes it no longer."""
    old, new = duty(cell.row, step), duty(row, step)
    key_no = cell.row.key_no
    if old is Duty.CALL and (new is not Duty.CALL or row.key_no != key_no):
        return cell if call_of(cell.calls, key_no) else cell._replace(calls=with_call(cell.calls, key_no, Call.ISSUED))
    left = old is Duty.CALL_UNDO and step.undo is Undo.EXTERNAL and (new is not Duty.CALL_UNDO or row.key_no != key_no)
    if left and not call_of(cell.undo_calls, key_no):
        return cell._replace(undo_calls=with_call(cell.undo_calls, key_no, Call.ISSUED))
    return cell


def _without_settled_calls(cell: Cell) -> Cell:
    """What the provider holds no longer matters once the record is past it and no call is on its way."""
    if cell.calls and cell.row.state is not State.RUNNING and Call.ISSUED not in cell.calls:
        cell = cell._replace(calls=())
    if cell.undo_calls and cell.row.state is not State.COMPENSATING and Call.ISSUED not in cell.undo_calls:
        cell = cell._replace(undo_calls=())
    return cell
