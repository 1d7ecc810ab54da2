"""Judges of the simulator that look at one thing each: they see what is wrong, and let pass what is right."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from saga_choreo.core.graph import plan_of
from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.model.envelope import Channel, ChannelKind
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record, Resolution, Row
from saga_choreo.model.retry import Retry
from saga_choreo.model.states import Parked, State
from saga_choreo.ports.broker import Outgoing
from saga_choreo.ports.store import Held, Quarantined
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.blocked import Blocked
from saga_choreo.testing.simulator.copies import Copies
from saga_choreo.testing.simulator.errors import ERRORS, policy_for
from saga_choreo.testing.simulator.ledger import Ledger, descendants_of
from saga_choreo.testing.simulator.overlaps import Overlaps
from saga_choreo.testing.simulator.settings import Settings
from saga_choreo.testing.simulator.times import Times
from saga_choreo.testing.simulator.words import Words, possible_words, wrong_words
from saga_choreo.testing.simulator.world import World

PLAN = plan_of(
    Choreography("judged")
    .starts_with("saga.begun")
    .step(ChoreographyStep("pay", owner="payment").on_event("saga.begun").kind(external=True))
)
SAGA = saga_id_at(1_767_225_600_000, bytes(10))
RUNNING = Row(state=State.RUNNING, done_in=1)


def _record(row: Row = RUNNING, **changes: Any) -> Record:
    known = {
        "service": "payment",
        "saga_id": SAGA,
        "definition": PLAN.definition,
        "step": 0,
        "choreography": "judged",
        "origin": "web",
    }
    return Record(row=row, **(known | {"changed_ms": 1_767_225_600_000} | changes))


def _judged(judge: Any, old: Record | None, new: Record) -> None:
    judge.committed(Ledger(0, _record(), PLAN, descendants_of(PLAN)), old, new)


def _times(world: World) -> Times:
    return Times(world, {(PLAN.definition, 0): StepOptions()}, Limits(lease_s=4.0))


AT = 1_767_225_600_000
CLAIMED = _record(RUNNING._replace(attempt=1), lease_ms=AT + 4000, due_ms=AT + 4000)


@pytest.mark.parametrize(
    ("new", "is_right"),
    [
        (_record(RUNNING._replace(attempt=2), lease_ms=AT + 13_000, due_ms=AT + 13_000, changed_ms=AT + 5000), True),
        (_record(RUNNING._replace(attempt=2), lease_ms=AT + 8500, due_ms=AT + 8500, changed_ms=AT + 500), False),
        (_record(RUNNING._replace(attempt=2), lease_ms=AT + 9000, due_ms=AT + 9000, changed_ms=AT + 5000), False),
        (_record(RUNNING._replace(attempt=1, abort=True), lease_ms=AT + 4000, due_ms=AT + 4000, changed_ms=AT + 500), True),
        (_record(RUNNING._replace(attempt=1, abort=True), lease_ms=AT + 4000, due_ms=AT + 500, changed_ms=AT + 500), False),
        (_record(RUNNING._replace(attempt=1), lease_ms=AT + 3000, due_ms=AT + 3000, changed_ms=AT + 500), False),
        (_record(RUNNING._replace(attempt=1), changed_ms=AT + 500), False),
        (_record(RUNNING._replace(attempt=1), changed_ms=AT + 500, error="ValueError: no"), True),
    ],
    ids=[
        "taken over",
        "too early",
        "lease too short",
        "told meanwhile",
        "woken by it",
        "shortened",
        "counts for nothing",
        "failed",
    ],
)
def test_a_lease_is_kept_and_taken_over_when_it_ends(new: Record, is_right: bool) -> None:
    world = World(1, Settings())
    judge = _times(world)
    _judged(judge, _record(), CLAIMED)
    _judged(judge, CLAIMED, new)
    assert (not world.violations) is is_right


def test_a_repeated_announcement_waits_longer_each_time() -> None:
    world = World(1, Settings())
    said = _record(RUNNING._replace(abort=True), nudges=1, due_ms=AT)
    _judged(_times(world), said, _record(said.row, nudges=2, due_ms=AT + 120_000))
    assert not world.violations
    _judged(_times(world), said, _record(said.row, nudges=2, due_ms=AT + 30_000))
    assert "repeats announcement 2" in world.violations[0].text


def _word(verb: str, operator: str = "ana") -> Resolution:
    return Resolution(verb, operator, "", AT, 1, 1)


@pytest.mark.parametrize(
    ("before", "after", "word", "is_right"),
    [
        (RUNNING._replace(parked=Parked.PARKED), RUNNING, _word("retry"), True),
        (RUNNING._replace(parked=Parked.PARKED), RUNNING, None, False),
        (RUNNING._replace(parked=Parked.PARKED, attempt=3), RUNNING._replace(attempt=2), _word("retry"), False),
        (RUNNING, RUNNING, _word("retry"), False),
        (Row(parked=Parked.HUMAN, operator="ana"), Row(state=State.DONE), _word("done"), True),
        (Row(parked=Parked.HUMAN, operator="ana"), Row(state=State.DONE), _word("done", "ben"), False),
        (Row(parked=Parked.HUMAN, operator="ana"), Row(state=State.DONE), None, False),
    ],
    ids=["retry", "by itself", "attempts left over", "not parked", "done", "somebody else", "out of hands"],
)
def test_only_people_decide_what_waits_for_them(before: Row, after: Row, word: Resolution | None, is_right: bool) -> None:
    world = World(1, Settings())
    _judged(Words(world), _record(before), _record(after, resolution=word))
    assert (not world.violations) is is_right


@pytest.mark.parametrize("parked", [Parked.PARKED, Parked.HUMAN])
@pytest.mark.parametrize("state", [State.WAITING, State.RUNNING, State.COMPENSATING])
def test_a_wrong_word_is_never_a_possible_one(state: State, parked: Parked) -> None:
    row = Row(state=state, parked=parked)
    assert not possible_words(row, PLAN.steps[0]) & set(wrong_words(row))


def _stray(code: str = "stale") -> tuple[Quarantined, Outgoing]:
    headers = {"ce-id": "1", "x-other": "2"}
    row = Quarantined(service="payment", code=code, detail="", channel="event.paid", headers=headers, body=b"{}", received_ms=AT)
    why = {"saga-quarantine-code": code, "saga-quarantine-service": "payment"}
    return row, Outgoing(Channel(ChannelKind.DLQ), "", {"ce-id": "1"} | why, b"{}", must_route=False)


class _Shelf:
    service = "payment"

    def __init__(self, *rows: Quarantined) -> None:
        self.quarantined = [*rows]
        self.held: dict[int, Held] = {}


@pytest.mark.parametrize(("rows", "copies", "is_right"), [(1, 1, True), (2, 2, True), (1, 0, False), (1, 2, False), (0, 1, False)])
def test_of_each_message_in_quarantine_there_is_one_copy(rows: int, copies: int, is_right: bool) -> None:
    world = World(1, Settings())
    judge, (row, copy) = Copies(world), _stray()
    for _ in range(copies):
        judge.hear(copy)
    judge.judge([_Shelf(*[row] * rows)])
    assert (not world.violations) is is_right


def test_a_copy_may_be_missing_where_the_agent_died_meanwhile() -> None:
    world = World(1, Settings())
    world.faults.happened.append((("crash", 1), 2.0))
    Copies(world).judge([_Shelf(_stray()[0])])
    assert not world.violations


def test_policies_of_classes_of_errors_count_as_a_step_has_them() -> None:
    special = {ConnectionError: Retry.never(), OSError: Retry.forever(), Exception: Retry(attempts=7)}
    for count in range(4):
        retry = Retry(on=dict(list(special.items())[:count]))
        for kind in ERRORS:
            assert policy_for(retry, f"{kind.__name__}: simulated") == retry.of(kind)
        assert policy_for(retry, "timed out") == retry.of(TimeoutError)
        assert policy_for(retry, "refused, though declared retriable: no") is retry


def test_a_step_that_holds_up_a_batch_is_run_once_more_alone() -> None:
    world = World(1, Settings())
    judge, batch = Blocked(world), object()
    judge.noted(_record(), batch)
    judge.noted(_record(), batch)
    judge.noted(_record(), object())
    assert not world.violations
    judge.noted(_record(), batch)
    assert world.violations[0].code == "L7"


def test_calls_of_one_step_overlap_only_where_a_lease_could_not_be_renewed() -> None:
    world, key = World(1, Settings()), _record().record_key
    judge = Overlaps(world)
    judge.ended(judge.began(key))
    first = judge.began(key)
    judge.began(key._replace(saga_id=UUID(int=1)))
    world.faults.happened.append((("store_error", 1), 2.0))
    second = judge.began(key)
    assert not world.violations
    judge.ended(first)
    judge.ended(second)
    world.now_ns = 60_000_000_000
    judge.began(key)
    judge.began(key)
    assert world.violations[0].code == "LEASE"
