"""What the owner of one step may do with it, apart from receiving messages: execute, fail, time out, cancel, resolve, forget.

Each action is a pair of the cell afterwards and a label. `must` marks what a fair execution does in the end; the search
requires that a legal end can be reached by such actions alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from saga_choreo.core.facts import (
    CancelRequested,
    Completed,
    CompletionDeclined,
    DeadlinePassed,
    Declined,
    Fact,
    Failed,
    Refusal,
    Resolved,
    Succeeded,
    UndoFailed,
    Undone,
    WentPending,
)
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.rows import Duty, duty, is_finished
from saga_choreo.core.transitions import transition
from saga_choreo.model.choreography import Split, Undo
from saga_choreo.model.record import ORIGIN
from saga_choreo.model.states import Parked, State
from saga_choreo.testing.model_checker.cells import NOTHING, Call, Cell, after, call_of, has_record, with_call
from saga_choreo.testing.model_checker.options import Options

__all__ = ["Action", "actions", "applied"]

_PERSON = "a person"


class Action(NamedTuple):
    cell: Cell
    label: str
    must: bool = False
    alarm: str = ""


def applied(cell: Cell, fact: Fact, step: StepPlan, options: Options) -> tuple[Cell, str]:
    """The cell after a fact, and the reason of a refusal that should never happen. The same cell when nothing changes."""
    row = transition(cell.row, fact, step)
    if isinstance(row, Refusal):
        return cell, row.reason if row.alarm else ""
    return (cell if row is cell.row else after(cell, row, fact, step, causes=options.causes)), ""


def actions(cell: Cell, step: StepPlan, options: Options, *, late: bool) -> Iterator[Action]:
    """Everything that may happen at this step next; `late` once the horizon has passed."""
    if late and options.forget and has_record(cell) and is_finished(cell.row):
        forgotten = NOTHING._replace(made=cell.made, unmade=cell.unmade, waived=cell.waived, vetoed=cell.vetoed, gone=True)
        yield Action(forgotten, "the record is deleted")
    if has_record(cell):
        yield from _interruptions(cell, step, options)
    if step.index == ORIGIN:
        return
    match duty(cell.row, step):
        case Duty.RUN:
            yield from _run(cell, step, options)
        case Duty.CALL:
            yield from _call(cell, step, options)
        case Duty.UNDO:
            yield from _one(cell, step, options, Undone(0), "undoes it", must=True)
            if options.undo_fails:
                yield from _one(cell, step, options, UndoFailed(0), "fails to undo it")
        case Duty.CALL_UNDO:
            yield from _call_undo(cell, step, options)
        case None:
            yield from _settle_pending(cell, step, options)
    yield from _stray_calls(cell, step)
    if options.operator and cell.row.parked is not Parked.NO:
        yield from _person(cell, step, options)


def _one(cell: Cell, step: StepPlan, options: Options, fact: Fact, label: str, *, must: bool = False) -> Iterator[Action]:
    changed, alarm = applied(cell, fact, step, options)
    if changed is not cell or alarm:
        yield Action(changed, label, must, alarm)


def _choices(step: StepPlan) -> list[int]:
    published = [1 << number for number in range(step.all_outputs.bit_length())]
    match step.split:
        case Split.ALL:
            return [step.all_outputs]
        case Split.ONE:
            return published
        case Split.SOME:
            return list(range(1, step.all_outputs + 1))


def _interruptions(cell: Cell, step: StepPlan, options: Options) -> Iterator[Action]:
    is_origin = step.index == ORIGIN
    if options.deadline:
        yield from _one(cell, step, options, DeadlinePassed(), "the saga's deadline passes")
        if not is_origin:
            yield from _one(cell, step, options, DeadlinePassed(own=True), "the step's own deadline passes")
    if (options.cancel and is_origin) or options.ask:
        yield from _one(cell, step, options, CancelRequested(), "somebody cancels" if is_origin else "somebody asks for a cancel")


def _run(cell: Cell, step: StepPlan, options: Options) -> Iterator[Action]:
    for choice in _choices(step):
        yield from _one(cell, step, options, Succeeded(0, choice), f"runs it{_said(step, choice)}", must=True)
    if options.decline:
        yield from _one(cell, step, options, Declined(0), "refuses")
    if options.park:
        yield from _one(cell, step, options, Declined(0, exhausted=True), "refuses for the last time")
        yield from _one(cell, step, options, Failed(0, exhausted=True), "fails for the last time")
    if options.veto:
        yield from _one(cell, step, options, Failed(0, exhausted=True, veto=True), "fails for the last time and refuses")


def _said(step: StepPlan, choice: int) -> str:
    return "" if step.split is Split.ALL else f" and chooses {[str(e) for n, e in enumerate(step.outputs) if choice >> n & 1]}"


def _call(cell: Cell, step: StepPlan, options: Options) -> Iterator[Action]:
    key_no = cell.row.key_no
    call = call_of(cell.calls, key_no)
    may_refuse = step.may_veto or step.optional or key_no < options.refusals
    match call:
        case Call.UNSET | Call.ISSUED:
            yield Action(_provider_applies(cell, key_no), "calls out, and the provider does it", must=True)
            if options.decline and may_refuse:
                declined = with_call(cell.calls, key_no, Call.DECLINED)
                yield Action(cell._replace(calls=declined), "calls out, and the provider refuses")
            if options.pending or step.deadline_choice:
                for went in _one(cell, step, options, WentPending(0), "calls out, and the answer will come later"):
                    yield went._replace(cell=went.cell._replace(calls=with_call(cell.calls, key_no, Call.PENDING)))
        case Call.APPLIED:
            for choice in _choices(step):
                yield from _one(
                    cell, step, options, Succeeded(0, choice), f"learns that it is done{_said(step, choice)}", must=True
                )
        case Call.DECLINED:
            yield from _one(cell, step, options, Declined(0), "learns that it is refused", must=True)
            if options.park:
                yield from _one(cell, step, options, Declined(0, exhausted=True), "learns of the last refusal")
        case _:
            pass
    yield from _one(cell, step, options, Failed(0), "gets no answer")
    if options.park:
        yield from _one(cell, step, options, Failed(0, exhausted=True), "gets no answer for the last time")


def _provider_applies(cell: Cell, key_no: int) -> Cell:
    return cell._replace(calls=with_call(cell.calls, key_no, Call.APPLIED), made=cell.made + 1)


def _provider_undoes(cell: Cell, key_no: int) -> Cell:
    return cell._replace(undo_calls=with_call(cell.undo_calls, key_no, Call.APPLIED), unmade=cell.unmade + 1)


def _settle_pending(cell: Cell, step: StepPlan, options: Options) -> Iterator[Action]:
    if not cell.row.pending:
        return
    for choice in _choices(step):
        yield from _one(cell, step, options, Completed(cell.row.key_no, choice), "is completed from outside", must=True)
    if options.decline and (step.may_veto or step.optional or cell.row.key_no < options.refusals):
        yield from _one(cell, step, options, CompletionDeclined(cell.row.key_no), "is refused from outside")


def _call_undo(cell: Cell, step: StepPlan, options: Options) -> Iterator[Action]:
    if step.undo is not Undo.EXTERNAL:
        yield from _one(cell, step, options, Undone(0), "undoes it", must=True)
    else:
        key_no = cell.row.key_no
        match call_of(cell.undo_calls, key_no):
            case Call.APPLIED:
                yield from _one(cell, step, options, Undone(0), "learns that it is undone", must=True)
            case Call.DECLINED:
                refused = UndoFailed(0, refused=True)
                yield from _one(cell, step, options, refused, "learns that the undo is refused", must=True)
                if options.park:
                    refused = refused._replace(exhausted=True, go_on=options.go_on)
                    yield from _one(cell, step, options, refused, "learns of the last refusal to undo")
            case _:
                yield Action(_provider_undoes(cell, key_no), "calls out, and the provider undoes it", must=True)
                if options.undo_fails and key_no < options.refusals:
                    declined = with_call(cell.undo_calls, key_no, Call.DECLINED)
                    yield Action(cell._replace(undo_calls=declined), "calls out, and the provider refuses to undo it")
    if options.park and options.undo_fails:
        failed = UndoFailed(0, exhausted=True, go_on=options.go_on)
        yield from _one(cell, step, options, failed, "fails to undo it for the last time")


def _stray_calls(cell: Cell, step: StepPlan) -> Iterator[Action]:
    """A call that nobody waits for any more arrives at the provider all the same."""
    calling = duty(cell.row, step)
    for key_no, call in enumerate(cell.calls):
        if call is Call.ISSUED and not (calling is Duty.CALL and key_no == cell.row.key_no):
            yield Action(_provider_applies(cell, key_no), "the call that was on its way reaches the provider, which does it")
    for key_no, call in enumerate(cell.undo_calls):
        if call is Call.ISSUED and not (calling is Duty.CALL_UNDO and key_no == cell.row.key_no):
            yield Action(_provider_undoes(cell, key_no), "the call that was on its way reaches the provider, which undoes it")


def _person(cell: Cell, step: StepPlan, options: Options) -> Iterator[Action]:
    row = cell.row
    match row.state:
        case State.WAITING if row.operator:
            if cell.by_hand:
                for choice in _choices(step):
                    yield from _said_by(cell, step, options, "done", choice, must=True)
            else:
                yield Action(cell._replace(by_hand=True, made=cell.made + 1), "a person does the step's work by hand")
                yield from _said_by(cell, step, options, "give_back", must=True)
        case State.WAITING:
            for verb in ("retry", "waive", "take"):
                yield from _said_by(cell, step, options, verb, must=verb == "retry")
        case State.RUNNING:
            yield from _person_on_call(cell, step, options)
        case State.COMPENSATING:
            yield from _said_by(cell, step, options, "retry", must=True)
            yield from _said_by(cell, step, options, "waive")
            if step.undo is not Undo.EXTERNAL or call_of(cell.undo_calls, row.key_no) is Call.APPLIED:
                yield from _said_by(cell, step, options, "done")
        case _:
            pass


def _person_on_call(cell: Cell, step: StepPlan, options: Options) -> Iterator[Action]:
    """'done' only after a look-up by key has found it, 'fail' only once the provider has voided the key."""
    key_no = cell.row.key_no
    call = call_of(cell.calls, key_no)
    yield from _said_by(cell, step, options, "retry", must=True)
    if call is Call.APPLIED:
        for choice in _choices(step):
            yield from _said_by(cell, step, options, "done", choice)
    else:
        voided = cell._replace(calls=with_call(cell.calls, key_no, Call.VOID))
        yield from _said_by(voided, step, options, "fail")


def _said_by(cell: Cell, step: StepPlan, options: Options, verb: str, choice: int = 0, *, must: bool = False) -> Iterator[Action]:
    yield from _one(
        cell, step, options, Resolved(verb, _PERSON, choice), f"{_PERSON} says {verb!r}{_said(step, choice)}", must=must
    )
