"""What an open saga waits for, from records alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from saga_choreo import Choreography, ChoreographyStep, Event
from saga_choreo.core.graph import plan_of
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Outcome, Parked, State
from saga_choreo.runtime.alive import Sign, alive_notice, life_of, read_alive
from saga_choreo.runtime.waiting import Known, StuckSaga, stuck_saga

NOW_MS = 1_800_000_000_000


class Ordered(Event, name="order.created"): ...


FORM = (
    Choreography("orders")
    .starts_with(Ordered)
    .step(
        ChoreographyStep("reserve").on_event(Ordered).publish_event("stock.reserved").with_compensation().owned_by("inventory"),
        ChoreographyStep("charge")
        .on_event("stock.reserved")
        .publish_event("payment.charged")
        .with_compensation()
        .owned_by("payments"),
        ChoreographyStep("ship").on_event("payment.charged").publish_event("order.shipped").with_compensation().owned_by("shop"),
        ChoreographyStep("confirm").on_event("order.shipped").with_compensation().owned_by("shop"),
    )
)
PLAN = plan_of(FORM)
ALL = {service: Sign(NOW_MS) for service in ("inventory", "payments", "shop")}


def record(step: str, row: Row, service: str = "shop", **fields: Any) -> Record:
    number = ORIGIN if step == "origin" else next(one.index for one in PLAN.steps if one.name == step)
    values: dict[str, Any] = {
        "service": service,
        "saga_id": saga_id_at(NOW_MS - 600_000, bytes(10)),
        "definition": FORM.definition,
        "step": number,
        "row": row,
        "choreography": "orders",
        "origin": "shop",
        "version": 1,
        "announced": 1,
        "changed_ms": NOW_MS - 300_000,
        **fields,
    }
    return Record(**values)


def told(*records: Record, heard: dict[str, Sign] | None = None, holders: dict[str, frozenset[str]] | None = None) -> list[str]:
    one = stuck_saga(records, PLAN, Known(now_ms=NOW_MS, heard=heard, holders=holders))
    assert isinstance(one, StuckSaga)
    return [f"{wait.step}: {wait}" for wait in one.waits]


OPEN = record("origin", Row(State.OPEN))


def test_the_origin_waits_for_the_event_that_its_first_step_not_begun_needs_and_from_whom() -> None:
    assert told(OPEN, heard=ALL) == ["origin: payment.charged from payments"]
    assert told(OPEN) == ["origin: payment.charged from payments: whether an agent of it runs is not known here"]


def test_a_service_that_is_not_there_is_named_with_when_it_was_last_heard() -> None:
    assert told(OPEN, heard={**ALL, "payments": Sign(NOW_MS - 240_000)}) == [
        "origin: payment.charged from payments: no live agent: the last one was heard 4 min ago"
    ]
    assert told(OPEN, heard={"shop": Sign(NOW_MS)}) == [
        "origin: payment.charged from payments: no live agent: none was ever heard of"
    ]


def test_a_service_further_back_that_is_not_there_is_named_too() -> None:
    (line,) = told(OPEN, heard={**ALL, "inventory": Sign(NOW_MS - 240_000)})
    assert line.startswith("origin: payment.charged from payments: before it, step 'reserve' of inventory: no live agent")


def test_an_owner_that_has_not_announced_the_definition_is_not_ready() -> None:
    (line,) = told(OPEN, heard=ALL, holders={FORM.definition: frozenset({"shop", "inventory"})})
    assert line == f"origin: payment.charged from payments: it has not announced definition {FORM.definition} yet"


CHARGE = PLAN.steps[1]
READY = Row(State.WAITING, done_in=CHARGE.all_in, attempt=2)


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        (
            READY._replace(parked=Parked.PARKED),
            {"error": "OSError: down"},
            f"charge: a person's word from payments: parked after attempt 2: OSError: down; saga-choreo steps show {OPEN.saga_id} charge",
        ),
        (READY._replace(parked=Parked.HUMAN, operator="ana"), {}, "charge: its end by hand from ana: 'ana' has taken it over"),
        (
            READY,
            {"error": "held back: its circuit breaker is open", "due_ms": NOW_MS + 7_000},
            "charge: its own run from payments: held back: its circuit breaker is open; tried again in 7 s",
        ),
        (
            READY,
            {"lease_ms": NOW_MS + 3_000, "due_ms": NOW_MS + 3_000},
            "charge: its own run from payments: attempt 2 is under way",
        ),
        (
            READY,
            {"due_ms": NOW_MS - 60_000},
            "charge: its own run from payments: due and not begun; its agents are down, at their limits, or without it",
        ),
        (
            Row(State.RUNNING, pending=True, done_in=CHARGE.all_in),
            {},
            "charge: the outside from payments: nobody has completed it: agent.complete_step(token, ...)",
        ),
        (Row(State.WAITING), {}, "charge: stock.reserved from inventory"),
        (
            Row(State.DONE, done_in=CHARGE.all_in, abort=True),
            {},
            "charge: the undo of 'ship' from shop",
        ),
        (
            Row(State.DONE, done_in=CHARGE.all_in),
            {},
            "charge: the end of the saga from shop: nothing is left to do here; its origin knows what is",
        ),
    ],
)
def test_what_a_step_waits_for(row: Row, fields: dict[str, Any], expected: str) -> None:
    assert told(record("charge", row, "payments", **fields), heard=ALL) == [expected]


def test_what_nobody_publishes_and_what_nobody_works_on_is_told_of_the_service_itself() -> None:
    heard = {**ALL, "payments": Sign(NOW_MS - 100_000)}
    mute = record("charge", Row(State.DONE, done_in=CHARGE.all_in), "payments", version=2)
    assert told(mute, heard=heard) == [
        "charge: the publication of what it did from payments: no live agent: the last one was heard 100 s ago"
    ]
    assert "the broker does not take it" in told(mute, heard=ALL)[0]
    due = record("charge", READY, "payments", due_ms=NOW_MS - 60_000)
    assert told(due, heard=heard) == ["charge: its own run from payments: no live agent: the last one was heard 100 s ago"]


def test_an_aborting_origin_waits_for_the_undo_of_its_first_steps() -> None:
    assert told(record("origin", Row(State.ABORTING, abort=True)), heard=ALL) == ["origin: the undo of 'reserve' from inventory"]


def test_a_saga_of_an_unknown_definition_says_so_and_an_ended_one_is_not_stuck() -> None:
    one = stuck_saga([OPEN], None, Known(now_ms=NOW_MS))
    assert one is not None
    assert str(one.waits[0]) == f"its definition from shop: definition {FORM.definition} is not known here"
    ended = replace(OPEN, row=Row(State.COMPLETED, outcome=Outcome.COMPLETED))
    assert stuck_saga([ended], PLAN, Known(now_ms=NOW_MS)) is None


def test_a_sign_of_life_can_be_read_and_is_silent_after_a_while() -> None:
    assert read_alive(alive_notice("payments", "a1", Sign(NOW_MS, 5_000))) == ("payments", "a1", Sign(NOW_MS, 5_000))
    assert life_of("payments", {"payments": Sign(NOW_MS - 30_000)}, NOW_MS) == ""
    assert life_of("payments", {"payments": Sign(NOW_MS - 40_000)}, NOW_MS).startswith("no live agent")
