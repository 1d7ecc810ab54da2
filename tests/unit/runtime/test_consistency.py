"""Records in, contradictions out: each rule finds its fault, and a sound store is left in peace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from saga_choreo.core.graph import plan_of
from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Outcome, Parked, State
from saga_choreo.runtime.consistency import Effect, Judged, judge_effects, judge_keys, judge_ledger, judge_locks, judge_saga

FORM = (
    Choreography("orders")
    .starts_with("order.created")
    .step(
        ChoreographyStep("charge").on_event("order.created").publish_event("payment.charged").with_compensation().owned_by("shop"),
        ChoreographyStep("ship").on_event("payment.charged").publish_event("order.shipped").with_compensation().owned_by("shop"),
    )
)
PLAN = plan_of(FORM)
CHARGE, SHIP = PLAN.numbers["charge"], PLAN.numbers["ship"]
SAGA = UUID(int=(1_700_000_000_000 << 80) | (7 << 76) | (2 << 62) | 1)
OTHER = UUID(int=SAGA.int + 1)
NOW = 1_700_001_000_000


def known(locks: Mapping[tuple[str, str], UUID] | None = None, **changes: Any) -> Judged:
    return Judged(**{"plans": {PLAN.definition: PLAN}, "now_ms": NOW, "late_ms": 60_000, "locks": locks or {}, **changes})


def record(step: int, **changes: Any) -> Record:
    row = {name: changes.pop(name) for name in tuple(changes) if name in Row._fields}
    values: dict[str, Any] = {
        "service": "shop",
        "saga_id": SAGA,
        "definition": PLAN.definition,
        "step": step,
        "choreography": "orders",
        "origin": "shop",
        "version": 2,
        "announced": 2,
        "changed_ms": NOW - 600_000,
    }
    return Record(row=Row(**row), **{**values, **changes})


def completed() -> list[Record]:
    end = {"outcome": Outcome.COMPLETED}
    return [
        record(ORIGIN, state=State.COMPLETED, choice=1, done_in=1, **end),
        record(CHARGE, state=State.DONE, done_in=1, choice=1, **end),
        record(SHIP, state=State.DONE, done_in=1, choice=1, **end),
    ]


def codes(records: Sequence[Record], judged: Judged | None = None) -> list[str]:
    return sorted({one.code for one in judge_saga(records, judged or known())})


def test_a_completed_saga_contradicts_nothing() -> None:
    assert judge_saga(completed(), known()) == []


def test_a_saga_under_way_contradicts_nothing() -> None:
    started = [record(ORIGIN, state=State.OPEN, choice=1, due_ms=NOW + 5), record(CHARGE, done_in=1, due_ms=NOW)]
    assert judge_saga(started, known()) == []


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (record(CHARGE, done_in=1, due_ms=NOW, announced=1), "not_announced"),
        (record(CHARGE, done_in=1, due_ms=NOW, announced=3), "announced_ahead"),
        (record(CHARGE, done_in=1, due_ms=NOW, parked=Parked.PARKED), "parked"),
        (record(CHARGE, done_in=2, due_ms=NOW), "mask"),
        (record(CHARGE, done_in=1, skip_in=1, due_ms=NOW), "mask"),
        (record(CHARGE, inputs={0: b"{}"}, due_ms=NOW), "mask"),
        (record(CHARGE, state=State.DONE, choice=1), "mask"),
        (record(CHARGE, done_in=1), "no_timer"),
        (record(CHARGE, done_in=1, due_ms=NOW - 61_000), "overdue"),
        (record(CHARGE, done_in=1, due_ms=NOW, lock="customer:1"), "lock_not_held"),
        (record(CHARGE, done_in=1, due_ms=NOW, service="billing"), "wrong_owner"),
        (record(7, done_in=1, due_ms=NOW), "unknown_step"),
        (record(CHARGE, done_in=1, due_ms=NOW, definition="f" * 32), "unknown_definition"),
        (record(CHARGE, state=State.DONE, done_in=1, choice=6, outcome=Outcome.COMPLETED), "choice"),
    ],
)
def test_a_wrong_record_is_named_by_its_fault(wrong: Record, code: str) -> None:
    assert code in codes([wrong])


def test_a_step_that_does_not_know_what_its_neighbour_says_is_named() -> None:
    done, _ = completed()[1:]
    found = judge_saga([replace(done, row=done.row._replace(outcome=Outcome.OPEN))], known())
    assert [(one.code, one.step) for one in found] == [("neighbour", "charge")]
    assert "'ship' of the same service" in found[0].detail
    assert judge_saga([replace(done, row=done.row._replace(outcome=Outcome.OPEN), changed_ms=NOW)], known()) == [], "not yet"


BETWEEN = plan_of(
    Choreography("between")
    .starts_with("order.created")
    .step(
        ChoreographyStep("charge")
        .on_event("order.created")
        .publish_event("payment.charged")
        .with_compensation()
        .owned_by("payment"),
        ChoreographyStep("ship").on_event("payment.charged").with_compensation().owned_by("stock"),
    )
)
FIRST, SECOND = BETWEEN.numbers["charge"], BETWEEN.numbers["ship"]


def between(*records: Record, here: tuple[str, ...] = ("shop", "payment", "stock")) -> list[tuple[str, str]]:
    judged = known(plans={BETWEEN.definition: BETWEEN}, services=frozenset(here))
    ours = [replace(one, definition=BETWEEN.definition) for one in records]
    return sorted((one.code, one.step) for one in judge_saga(ours, judged))


def test_a_message_that_was_published_long_ago_and_not_applied_is_named_where_both_ends_are_here() -> None:
    started = record(ORIGIN, state=State.OPEN, choice=1, due_ms=NOW + 5)
    charged = record(FIRST, service="payment", state=State.DONE, done_in=1, choice=1, due_ms=NOW + 5)
    shipped = record(SECOND, service="stock", done_in=1, due_ms=NOW)
    assert between(started, charged) == [("not_heard", "charge")]
    assert between(started, charged, shipped) == []
    assert between(started, replace(charged, changed_ms=NOW)) == [], "not yet"
    assert between(started, charged, here=("shop", "payment")) == [], "the other end is in another store"
    assert ("not_heard", "charge") not in between(started, replace(charged, announced=1)), "it is not published yet"


def test_a_message_that_nobody_can_have_sent_is_named() -> None:
    started = record(ORIGIN, state=State.OPEN, choice=1, due_ms=NOW + 5)
    waiting = record(FIRST, service="payment", done_in=1, due_ms=NOW)
    shipped = record(SECOND, service="stock", done_in=1, due_ms=NOW, changed_ms=NOW)
    assert between(started, waiting, shipped) == [("ghost", "ship")]
    assert between(started, shipped) == [("ghost", "ship"), ("not_heard", "origin")]
    assert between(shipped, here=("stock",)) == [], "the sender is in another store"
    over = replace(shipped, row=shipped.row._replace(state=State.DONE, outcome=Outcome.COMPLETED), due_ms=None)
    assert between(over) == [], "each service forgets by its own horizon"


def test_a_step_that_has_not_heard_of_the_end_is_named() -> None:
    origin, charge, ship = completed()
    left = replace(ship, row=ship.row._replace(outcome=Outcome.OPEN), due_ms=NOW)
    assert codes([origin, charge, left]) == ["open_after_the_end"]


def test_records_of_one_saga_that_disagree_are_named() -> None:
    origin, charge, ship = completed()
    assert codes([origin, replace(charge, deadline_ms=5), ship]) == ["disagreement"]


def test_a_lock_that_no_record_holds_is_named_and_one_that_is_held_is_not() -> None:
    holder = replace(completed()[1], lock="customer:1")
    locks = {("shop", "customer:1"): SAGA, ("shop", "customer:2"): SAGA}
    found = judge_locks(locks, {SAGA: [holder]})
    assert [(one.code, "customer:2" in one.detail) for one in found] == [("lock_without_owner", True)]
    assert judge_saga([holder], known(locks)) == []


def test_a_key_without_its_saga_and_one_of_another_are_named() -> None:
    origin = replace(completed()[0], key="ORDER-1")
    found = judge_keys([("shop", "ORDER-1", SAGA), ("shop", "ORDER-2", SAGA), ("shop", "ORDER-3", OTHER)], {SAGA: [origin]})
    assert [one.code for one in found] == ["key_of_another", "key_without_saga"]


@pytest.mark.parametrize(
    ("effects", "code"),
    [
        ([], "effect_missing"),
        ([("charge", "do"), ("charge", "do")], "effect_twice"),
        ([("charge", "do"), ("charge", "undo")], ""),
        ([("charge", "do"), ("charge", "undo"), ("charge", "undo")], "undo"),
    ],
)
def test_the_ledger_is_compared_with_the_records(effects: list[tuple[str, str]], code: str) -> None:
    plans = {PLAN.definition: PLAN}
    found = judge_effects([completed()[1]], [Effect(SAGA, *one) for one in effects], plans, steps=frozenset({"charge"}))
    assert {one.code for one in found} == ({code} if code else set())


def test_an_effect_of_a_step_that_never_ran_is_named() -> None:
    plans, steps = {PLAN.definition: PLAN}, frozenset({"charge"})
    tomb = record(CHARGE, state=State.TOMB, abort=True)
    assert [one.code for one in judge_effects([tomb], [Effect(SAGA, "charge", "do")], plans, steps=steps)] == [
        "effect_without_step"
    ]
    assert [one.code for one in judge_effects([], [Effect(SAGA, "charge", "do")], plans, steps=steps)] == ["effect_without_record"]


def test_an_undo_that_cannot_write_to_the_ledger_need_not_be_in_it() -> None:
    steps = [ChoreographyStep("tell").on_event("order.created").owned_by("shop")]
    steps.append(ChoreographyStep("book").on_event("order.created").with_compensation(external=True).owned_by("shop"))
    steps.append(ChoreographyStep("take").on_event("order.created").with_compensation().owned_by("shop"))
    plan = plan_of(Choreography("orders").starts_with("order.created").step(*steps))
    undone = [
        record(plan.numbers[one.name], definition=plan.definition, state=State.COMPENSATED, done_in=1, abort=True) for one in steps
    ]
    effects = [Effect(SAGA, one.name, "do") for one in steps]
    found = judge_effects(undone, effects, {plan.definition: plan}, steps=frozenset(plan.numbers))
    assert [(one.code, one.step) for one in found] == [("undo", "take")]


def test_a_step_that_was_done_and_is_nowhere_in_the_ledger_is_named_once() -> None:
    plans = {PLAN.definition: PLAN}
    twice = [*completed(), *(replace(one, saga_id=OTHER) for one in completed())]
    found = judge_ledger(twice, plans, steps=frozenset({"ship"}))
    assert [(one.code, one.service, one.saga, one.step) for one in found] == [("step_not_in_ledger", "shop", "", "charge")]
    assert f"2 sagas, {SAGA} for one" in found[0].detail
    assert [one.step for one in judge_ledger(twice, plans, steps=frozenset())] == ["charge", "ship"]
    assert judge_ledger([record(CHARGE), record(SHIP, state=State.SKIPPED)], plans, steps=frozenset()) == [], "neither was done"
    outside = plan_of(
        Choreography("orders")
        .starts_with("order.created")
        .step(ChoreographyStep("charge").on_event("order.created").owned_by("shop").kind(external=True))
    )
    done = record(0, definition=outside.definition, state=State.DONE, done_in=1)
    assert judge_ledger([done], {outside.definition: outside}, steps=frozenset()) == [], "it has no transaction to write in"
