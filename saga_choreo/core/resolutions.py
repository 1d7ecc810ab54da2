"""A person's word on a parked step (rules 22 to 22d): retry, waive, take, done, give_back, fail."""

from __future__ import annotations

from saga_choreo.core.facts import Refusal, Resolved
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.rows import cleared, refused, tombed
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cancel, Cause, Parked, State

__all__ = ["not_parked", "of_compensating", "of_running", "of_waiting", "possible"]


def possible(row: Row, step: StepPlan) -> tuple[str, ...]:
    """The verbs that a person may say on this row now; none when it is not parked."""
    if row.parked is Parked.NO:
        return ()
    match row.state:
        case State.WAITING:
            return ("done", "give_back") if row.parked is Parked.HUMAN else ("retry", "waive", "take")
        case State.RUNNING:
            return ("retry", "done", "fail") if row.abort or step.may_veto or step.optional else ("retry", "done")
        case State.COMPENSATING:
            return ("retry", "done", "waive")
        case _:
            return ()


def not_parked(row: Row, fact: Resolved, _step: StepPlan) -> Refusal:
    return Refusal(f"{fact.verb!r} needs a parked step; this one is {row.state.name.lower()}")


def _cannot(fact: Resolved, row: Row, step: StepPlan, parked: str) -> Refusal:
    return Refusal(f"{fact.verb!r} cannot be said of {parked}; possible: {', '.join(possible(row, step))}")


def of_waiting(row: Row, fact: Resolved, step: StepPlan) -> Row | Refusal:
    if row.parked is Parked.NO:
        return not_parked(row, fact, step)
    if row.parked is Parked.HUMAN:
        return _of_taken(row, fact, step)
    match fact.verb:
        case "retry":
            return row._replace(parked=Parked.NO, attempt=0)
        case "waive":
            return row._replace(state=State.SKIPPED, parked=Parked.NO)
        case "take":
            return row._replace(parked=Parked.HUMAN, operator=fact.operator)
        case _:
            return _cannot(fact, row, step, "a step that is parked before it ran")


def _of_taken(row: Row, fact: Resolved, step: StepPlan) -> Row | Refusal:
    if fact.operator != row.operator:
        return Refusal(f"the step is in the hands of {row.operator!r}; only that person can finish it or give it back")
    match fact.verb:
        case "done":
            return cleared(row._replace(state=State.DONE, parked=Parked.NO, choice=fact.choice, operator=""), step)
        case "give_back":
            if row.abort:
                return tombed(row, vetoer=False, cause=Cause.NONE)
            if row.cancel & Cancel.HEARD:
                return tombed(row, vetoer=True, cause=row.cause)
            return row._replace(parked=Parked.PARKED, operator="")
        case _:
            return _cannot(fact, row, step, "a step that a person has taken over")


def of_running(row: Row, fact: Resolved, step: StepPlan) -> Row | Refusal:
    if row.parked is Parked.NO:
        return not_parked(row, fact, step)
    match fact.verb:
        case "retry":
            return row._replace(parked=Parked.NO, attempt=0)
        case "done":
            return cleared(row._replace(state=State.DONE, parked=Parked.NO, choice=fact.choice), step)
        case "fail":
            if not row.abort and not step.may_veto and not step.optional:
                return Refusal("'fail' would make a step refuse that was declared to never refuse; possible: retry, done")
            return refused(row, step, Cause.REFUSED)
        case _:
            return _cannot(fact, row, step, "a step whose call is not known to have happened")


def of_compensating(row: Row, fact: Resolved, step: StepPlan) -> Row | Refusal:
    if row.parked is Parked.NO:
        return not_parked(row, fact, step)
    match fact.verb:
        case "retry":
            return row._replace(parked=Parked.NO, attempt=0)
        case "done":
            return row._replace(state=State.COMPENSATED, parked=Parked.NO)
        case "waive":
            return row._replace(state=State.COMPENSATED, parked=Parked.NO, debt=True)
        case _:
            return _cannot(fact, row, step, "an undo that keeps failing")
