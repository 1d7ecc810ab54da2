"""The model checker: the protocol holds, on the built-in graphs, on small ones with everything switched on, on all of a size."""

from __future__ import annotations

from typing import Any

import pytest
from tried import QUIET, TOGETHER, assert_proved, graph, step

from saga_choreo.core import transitions
from saga_choreo.core.facts import (
    Claimed,
    OutcomeCame,
    Started,
)
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.transitions import TABLE
from saga_choreo.model.choreography import Join, Split, Undo
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import Row
from saga_choreo.model.states import State
from saga_choreo.testing.model_checker.check import check, check_all
from saga_choreo.testing.model_checker.generate import all_graphs
from saga_choreo.testing.model_checker.graphs import GRAPHS, graph_named
from saga_choreo.testing.model_checker.options import Options, SearchTooLarge


@pytest.mark.parametrize("name", GRAPHS)
def test_the_protocol_holds_on_every_built_in_graph(name: str) -> None:
    result = check(graph_named(name))
    assert_proved(result)
    assert result.completed
    assert len(result.aborted) > len(result.completed)


def test_the_answer_has_exactly_the_agreed_fields() -> None:
    answer = check(graph_named("chain3")).to_json()
    assert list(answer) == ["graph", "states", "transitions", "violations", "ends", "transitions_per_s"]
    assert answer["ends"] == {"completed": 1, "aborted": len(check(graph_named("chain3")).aborted)}
    assert answer["violations"] == 0


def test_an_incomplete_search_proves_nothing_and_says_so() -> None:
    with pytest.raises(SearchTooLarge, match="stopped at 100 states"):
        check(graph_named("chain3"), Options(states_max=100))


def test_a_choice_ends_in_as_many_ways_as_it_has_branches() -> None:
    result = check(graph_named("xor_diamond"), QUIET)
    assert result.completed == {("D", "D", "K", "D"), ("D", "K", "D", "D")}


def test_the_protocol_holds_when_two_steps_share_an_owner() -> None:
    steps = (step("a", owner="one"), step("b", "a", owner="two"), step("c", "a", owner="one"), step("d", "b", "c", owner="two"))
    assert_proved(check(graph(*steps)))


def test_the_protocol_holds_when_records_are_forgotten() -> None:
    assert_proved(check(graph(step("a"), step("b", "a")), Options(forget=True)))


def test_the_protocol_holds_when_steps_are_parked_and_persons_resolve_them() -> None:
    options = Options(park=True, veto=True, operator=True, undo_fails=True, go_on=True, ask=True)
    assert_proved(check(graph(step("a"), step("b", "a")), options))


def test_the_protocol_holds_for_external_steps_that_park() -> None:
    outside = {"external": True, "undo": Undo.EXTERNAL}
    options = Options(park=True, operator=True, undo_fails=True, go_on=True)
    assert_proved(check(graph(step("a", **outside), step("b", "a", **outside)), options))


def test_the_protocol_holds_for_a_pending_step_whose_deadline_publishes_an_event() -> None:
    waits = step("a", external=True, undo=Undo.EXTERNAL, deadline_event=EventRef("a.late"))
    result = check(graph(waits, step("b", "a"), step("c", "a.late")), Options(undo_fails=True))
    assert_proved(result)
    assert result.completed == {("D", "D", "K"), ("D", "K", "D")}


def test_the_protocol_holds_for_a_choice_of_several_events_with_several_readers() -> None:
    some = step("a", publishes=(EventRef("a.x"), EventRef("a.y")), split=Split.SOME)
    steps = (some, step("b", "a.x"), step("c", "a.x", "a.y", join=Join.ANY), step("d", "b", "c", join=Join.ALL))
    assert_proved(check(graph(*steps)))


def test_the_protocol_holds_for_a_retriable_external_step_behind_a_pivot() -> None:
    pivot = step("p", external=True, pivot=True, undo=Undo.NONE)
    last = step("q", "p", external=True, retriable=True, undo=Undo.NONE)
    assert_proved(check(graph(pivot, last), Options(park=True, operator=True)))


def test_every_cause_that_is_told_is_the_first_one_at_the_origin() -> None:
    assert_proved(check(graph_named("chain3"), Options(causes=True)))


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(GRAPHS) - {"w_shape", "xor_second_root"}))
def test_the_protocol_holds_on_larger_graphs_when_steps_are_parked(name: str) -> None:
    assert_proved(check(graph_named(name), Options(park=True, operator=True, undo_fails=True)))


def test_the_search_uses_every_rule_that_can_change_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: set[tuple[State, type]] = set()

    def watched(key: tuple[State, type], rule: transitions.Rule) -> transitions.Rule:
        def run(row: Row, fact: Any, plan: StepPlan) -> Any:
            after = rule.run(row, fact, plan)
            if isinstance(after, Row) and after != row:
                changed.add(key)
            return after

        return rule._replace(run=run)

    for key, rule in list(TABLE.items()):
        monkeypatch.setitem(TABLE, key, watched(key, rule))
    for choreography, options in TOGETHER:
        assert_proved(check(choreography, options))
    # A claim only counts attempts, which are not modelled. No outcome can be decided while a call of the saga is under way.
    beyond = {(State.RUNNING, OutcomeCame), *((state, Claimed) for state in (State.WAITING, State.RUNNING, State.COMPENSATING))}
    can_change = {key for key, rule in TABLE.items() if rule.to and key[1] is not Started}
    assert can_change - changed == beyond


def test_all_graphs_of_two_steps_hold_and_none_is_there_twice() -> None:
    graphs = list(all_graphs(2))
    assert len(graphs) == 43
    assert len({g.canonical_bytes.replace(g.name.encode(), b"") for g in graphs}) == 43
    result = check_all(2)
    assert result.violations == (), str(result.violations[0])
    assert result.states > 10_000


@pytest.mark.long
def test_all_graphs_of_three_steps_hold() -> None:
    result = check_all(3)
    assert result.violations == (), str(result.violations[0])
    assert result.states > 2_000_000
