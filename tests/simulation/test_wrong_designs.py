"""Every design that is known to be wrong is found by the model checker.

A check that cannot fail is a defect, so each wrong design of the protocol's list is put in the place of the right rule
and must be found, under the invariant that it breaks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tried import PERSON, QUIET, TOGETHER, assert_caught, assert_proved, graph, replace_rule, step

from saga_choreo.core.emissions import Message, emissions
from saga_choreo.core.facts import (
    AbortCame,
    ClearCame,
    DeadlinePassed,
    Declined,
    DoneCame,
    Fact,
    Failed,
    OutcomeCame,
    Resolved,
    SkipCame,
)
from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.core.rows import tombed
from saga_choreo.core.transitions import TABLE
from saga_choreo.model.choreography import ChoreographyStep, Join, Undo
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cause, Parked, State
from saga_choreo.testing.model_checker import world
from saga_choreo.testing.model_checker.check import check
from saga_choreo.testing.model_checker.graphs import graph_named
from saga_choreo.testing.model_checker.options import Options


def test_w1_undoing_as_soon_as_an_abort_is_heard_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_rule(monkeypatch, State.DONE, AbortCame, lambda row, _f, _s: row._replace(state=State.COMPENSATED, abort=True))
    assert_caught(check(graph_named("chain3"), QUIET), "S4", "S5", within=8)


def test_w6_a_done_step_that_aborts_at_its_deadline_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_rule(monkeypatch, State.DONE, DeadlinePassed, lambda row, _f, _s: row._replace(abort=True, vetoer=True))
    assert_caught(check(graph(step("a"), step("b", "a")), Options(cancel=False)), "S6", "L1", within=10)


def test_w8_undoing_when_any_successor_is_clear_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_clear(row: Row, _fact: ClearCame, _step: StepPlan) -> Row:
        return row._replace(state=State.COMPENSATED, abort=True)

    replace_rule(monkeypatch, State.DONE, ClearCame, first_clear)
    assert_caught(check(graph_named("fork"), QUIET), "S4", "S5", within=8)


def test_w9_saying_clear_before_the_undo_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_early(row: Row, step: StepPlan, plan: Plan) -> tuple[Message, ...]:
        said = emissions(row, step, plan)
        if row.state is State.DONE and row.abort:
            said = (*said, *emissions(row._replace(state=State.COMPENSATED), step, plan))
        return said

    monkeypatch.setattr(world, "emissions", too_early)
    assert_caught(check(graph_named("chain3"), QUIET), "S4", "S5", "S7", within=10)


def test_w10_a_tombstone_over_a_call_that_is_under_way_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_rule(monkeypatch, State.RUNNING, AbortCame, lambda row, _f, _s: tombed(row, vetoer=False, cause=Cause.NONE))
    steps = (step("a"), step("b", "a", external=True, undo=Undo.EXTERNAL), step("c", "a"))
    assert_caught(check(graph(*steps), QUIET), "S5", "S4", "S7", "S1", within=8)


def test_w11_a_skipped_step_that_is_clear_at_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for fact in (AbortCame, ClearCame):
        replace_rule(monkeypatch, State.SKIPPED, fact, lambda row, _f, _s: row._replace(state=State.SKIPPED_CLEARED, abort=True))
    # a skips c; d, a second root, and c's SKIP let e run after a was undone.
    assert_caught(check(graph_named("xor_second_root"), Options(cancel=True, deadline=False, decline=False)), "S4", "S5", within=18)


def test_w24_an_all_of_that_skips_at_its_first_skip_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TABLE[State.WAITING, SkipCame].run

    def at_once(row: Row, fact: SkipCame, step: StepPlan) -> Row:
        changed = right(row, fact, step)
        assert isinstance(changed, Row)
        return changed._replace(state=State.SKIPPED) if step.needs_all and changed.skip_in else changed

    replace_rule(monkeypatch, State.WAITING, SkipCame, at_once)
    steps = (step("a", optional=True), step("b"), step("c", "a", "b"))
    assert_caught(check(graph(*steps), QUIET), "S6", "ALARM", within=12)


def test_w25_an_any_of_that_runs_at_its_first_done_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TABLE[State.WAITING, DoneCame].run

    def at_once(row: Row, fact: DoneCame, step: StepPlan) -> Row:
        changed = right(row, fact, step)
        assert isinstance(changed, Row)
        return changed._replace(state=State.RUNNING) if step.external and not step.needs_all else changed

    replace_rule(monkeypatch, State.WAITING, DoneCame, at_once)
    steps = (step("a"), step("b"), step("c", "a", "b", join=Join.ANY, external=True, undo=Undo.EXTERNAL))
    assert_caught(check(graph(*steps), QUIET), "S3", within=7)


def test_w26_a_sink_that_can_be_skipped_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TABLE[State.OPEN, SkipCame].run

    def never_all(row: Row, fact: SkipCame, step: StepPlan) -> Row:
        changed = right(row, fact, step)
        assert isinstance(changed, Row)
        return row if changed.skip_in == step.all_in else changed

    replace_rule(monkeypatch, State.OPEN, SkipCame, never_all)
    assert_caught(check(graph(step("a"), step("b", "a", optional=True)), QUIET), "L1", within=11)


def test_w27_a_parked_external_step_that_an_abort_tombs_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TABLE[State.RUNNING, AbortCame].run

    def parked_is_over(row: Row, fact: AbortCame, step: StepPlan) -> Any:
        return tombed(row, vetoer=False, cause=Cause.NONE) if row.parked is Parked.PARKED else right(row, fact, step)

    replace_rule(monkeypatch, State.RUNNING, AbortCame, parked_is_over)
    steps = (step("a"), step("b", "a", external=True, undo=Undo.EXTERNAL), step("c", "a"))
    assert_caught(check(graph(*steps), replace(PERSON, once=False)), "S5", "S4", "S7", within=9)


def test_w28_work_by_hand_on_a_step_that_was_not_taken_over_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TABLE[State.WAITING, Resolved].run

    def without_taking(row: Row, fact: Resolved, step: StepPlan) -> Any:
        if fact.verb == "take":
            return row._replace(operator=fact.operator)
        if fact.verb == "done" and row.operator:
            return row._replace(state=State.DONE, parked=Parked.NO, operator="", choice=fact.choice)
        return right(row, fact, step)

    replace_rule(monkeypatch, State.WAITING, Resolved, without_taking)
    assert_caught(check(graph(step("a"), step("b", "a")), Options(park=True, operator=True)), "S7", "S4", within=9)


def test_w29_a_new_key_after_an_unknown_result_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_rule(monkeypatch, State.RUNNING, Failed, lambda row, _f, _s: row._replace(key_no=min(row.key_no + 1, 2)))
    assert_caught(check(graph(step("a", external=True, undo=Undo.EXTERNAL)), QUIET), "S1", "S2", within=9)


def test_w29_one_key_for_ever_after_a_definite_refusal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_rule(monkeypatch, State.RUNNING, Declined, lambda row, _f, _s: row)
    retriable = step("a", external=True, retriable=True, undo=Undo.EXTERNAL)
    assert_caught(check(graph(retriable), QUIET), "L1", within=8)


@pytest.mark.parametrize("rest", ["L0"])
def test_w30_a_clear_that_sets_only_the_flag_while_a_call_runs_is_caught(monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    replace_rule(monkeypatch, State.RUNNING, ClearCame, lambda row, _f, _s: row._replace(abort=True))
    steps = (step("a", external=True, undo=Undo.EXTERNAL), step("b", "a"))
    assert_caught(check(graph(*steps), Options(deadline=False)), rest, within=8)


def test_w31_forgetting_without_the_stale_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.World, "is_stale", lambda _self, _cell, *, late: False)
    assert_caught(check(graph(step("a"), step("b", "a")), Options(forget=True, once=False)), "S5", "S12", within=12)


def test_w31_a_veto_on_stale_messages_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def veto(message: Message, step: int, plan: Plan) -> tuple[Message, ...]:
        return tuple(Message(MessageKind.ABORT, step, owner) for owner in (*plan.owners, "origin"))

    monkeypatch.setattr(world, "stale_answer", veto)
    assert_caught(
        check(graph(step("a"), step("b", "a"), step("c")), Options(forget=True, cancel=False)), "S6", "ALARM", "S8", within=14
    )


def test_w32_a_waived_undo_reported_as_a_clean_abort_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TABLE[State.COMPENSATING, Resolved].run

    def clean(row: Row, fact: Resolved, step: StepPlan) -> Any:
        changed = right(row, fact, step)
        return changed._replace(debt=False) if isinstance(changed, Row) else changed

    replace_rule(monkeypatch, State.COMPENSATING, Resolved, clean)
    options = Options(deadline=False, park=True, operator=True, undo_fails=True)
    assert_caught(check(graph(step("a", undo=Undo.EXTERNAL), step("b", "a")), options), "S7", within=14)


def test_an_outcome_that_leaves_no_tombstone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """As first written: the ABORT that comes after the OUTCOME made a record that never learned how the saga ended."""
    right = TABLE[State.WAITING, OutcomeCame].run

    def only_with_record(row: Row, fact: OutcomeCame, step: StepPlan) -> Any:
        return right(row, fact, step) if row.done_in or row.skip_in else row

    replace_rule(monkeypatch, State.WAITING, OutcomeCame, only_with_record)
    assert_caught(check(graph_named("chain3")), "L0", within=4)


def test_a_parked_undo_that_inherited_a_debt_does_not_let_its_predecessors_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(cancel=True, deadline=False, decline=False, park=True, operator=True, undo_fails=True)
    two = graph(step("a"), step("b", "a"))
    assert_proved(check(two, options))

    def debt_is_enough(row: Row, step: StepPlan, plan: Plan) -> tuple[Message, ...]:
        """As first written: a debt of a successor was taken for the policy of this step."""
        told = row.state is State.COMPENSATING and row.parked is Parked.PARKED and row.debt
        return emissions(row._replace(parked=Parked.PASSED) if told else row, step, plan)

    monkeypatch.setattr(world, "emissions", debt_is_enough)
    assert_caught(check(two, options), "S7", within=16)


@pytest.mark.parametrize(
    ("state", "fact"),
    [
        (State.WAITING, DoneCame),
        (State.WAITING, SkipCame),
        (State.WAITING, AbortCame),
        (State.WAITING, ClearCame),
        (State.WAITING, OutcomeCame),
        (State.DONE, ClearCame),
        (State.DONE, OutcomeCame),
        (State.SKIPPED, ClearCame),
        (State.SKIPPED, OutcomeCame),
        (State.TOMB, OutcomeCame),
        (State.COMPENSATING, OutcomeCame),
        (State.COMPENSATED, OutcomeCame),
        (State.SKIPPED_CLEARED, OutcomeCame),
        (State.OPEN, DoneCame),
        (State.OPEN, SkipCame),
        (State.OPEN, ClearCame),
        (State.ABORTING, ClearCame),
    ],
)
def test_a_table_without_one_of_its_rules_is_caught(monkeypatch: pytest.MonkeyPatch, state: State, fact: type[Fact]) -> None:
    replace_rule(monkeypatch, state, fact, lambda row, _f, _s: row)
    assert_caught(check(*TOGETHER[0]), "L0", "L1", within=14)


@pytest.mark.parametrize("fact", [AbortCame, ClearCame])
def test_a_table_that_forgets_an_abort_while_a_call_runs_is_caught(monkeypatch: pytest.MonkeyPatch, fact: type[Fact]) -> None:
    replace_rule(monkeypatch, State.RUNNING, fact, lambda row, _f, _s: row)
    assert_caught(check(*TOGETHER[1]), "L0", within=8)


@pytest.mark.parametrize("kind", [MessageKind.DONE, MessageKind.SKIP, MessageKind.ABORT, MessageKind.CLEAR, MessageKind.OUTCOME])
def test_records_that_do_not_say_one_kind_of_message_are_caught(monkeypatch: pytest.MonkeyPatch, kind: MessageKind) -> None:
    def without(row: Row, step: StepPlan, plan: Plan) -> tuple[Message, ...]:
        return tuple(message for message in emissions(row, step, plan) if message.kind is not kind)

    monkeypatch.setattr(world, "emissions", without)
    steps = (step("a"), step("b", "a", optional=True), step("c", "a"))
    assert_caught(check(graph(*steps), QUIET), "L1", within=8)


@pytest.mark.parametrize(
    "state", [State.DONE, State.COMPENSATED, State.SKIPPED_CLEARED, State.TOMB, State.COMPLETED, State.ABORTED]
)
def test_records_that_are_silent_in_one_state_are_caught(monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    monkeypatch.setattr(
        world, "emissions", lambda row, plan_of_step, plan: () if row.state is state else emissions(row, plan_of_step, plan)
    )
    steps = (step("a"), step("b", "a", optional=True), step("c", "a"))
    assert_caught(check(graph(*steps), QUIET), "L1", within=9)


def test_a_message_that_its_record_does_not_imply_any_more_is_not_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was said once, but a process that dies between commit and publishing would never say it."""

    def forgetful(row: Row, step: StepPlan, plan: Plan) -> tuple[Message, ...]:
        has_heard = row.state is State.ABORTING and row.clear_in
        return tuple(m for m in emissions(row, step, plan) if not (has_heard and m.kind is MessageKind.CLEAR))

    monkeypatch.setattr(world, "emissions", forgetful)
    # b is done and waits for the origin's CLEAR, which the origin stops to imply as soon as it has heard a's.
    assert_caught(check(graph(step("a"), step("b")), QUIET), "L1", within=8)


@pytest.mark.parametrize(
    ("steps", "within"),
    [
        ((step("a"), step("p", "a", pivot=True, undo=Undo.NONE), step("c", "p")), 9),
        ((step("r"), step("p", "r", pivot=True, undo=Undo.NONE), step("d", "r")), 9),
    ],
    ids=["after the pivot", "beside the pivot"],
)
def test_a_step_that_may_veto_after_or_beside_a_pivot_is_caught(steps: tuple[ChoreographyStep, ...], within: int) -> None:
    """The third rule of well-formedness is needed: without it a pivot is asked to compensate."""
    assert_caught(check(graph(*steps), QUIET), "S9", within=within)
