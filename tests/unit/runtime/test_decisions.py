"""What answers and messages mean to records: settling, the workspace, arrivals, timers' arithmetic. By the hand-driven pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from saga_choreo import Backoff, Limits, OnExhausted, Retry
from saga_choreo.codec.wire import decode
from saga_choreo.core.facts import Resolved
from saga_choreo.core.graph import plan_of
from saga_choreo.errors import StoreUnavailable
from saga_choreo.model.envelope import Channel, ChannelKind, MessageKind
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State
from saga_choreo.ports import Delivery
from saga_choreo.runtime.arrivals import Arrival
from saga_choreo.runtime.declare.results import Handled
from saga_choreo.runtime.letters import letter_of, message_of
from saga_choreo.runtime.operations import Broke, Commit, Executed, Overran, Ran, Rejected, Save
from saga_choreo.runtime.saying import everything
from saga_choreo.runtime.timing import Limits as RuntimeLimits
from saga_choreo.runtime.timing import deadline_of, due_of, nudge_after_ms
from tests.unit.runtime.rig import NOW_MS, ONCE, Rig, envelope, form

VETO = Retry(attempts=1, on_exhausted=OnExhausted.VETO)
ABORT: dict[str, Any] = {
    "kind": MessageKind.ABORT, "channel": Channel(ChannelKind.CONTROL, "payment"), "from_step": "confirm", "event": None,
    "payload": b"", "cause": Cause.REFUSED, "sender": "shop",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "answer", "state", "parked"),
    [
        ({}, {}, Rejected("no"), State.TOMB, Parked.NO),
        ({"optional": True}, {}, Rejected("no"), State.SKIPPED, Parked.NO),
        ({"retriable": True, "undo": False}, {}, Rejected("no"), State.WAITING, Parked.NO),
        ({"retriable": True, "undo": False}, {"retry": ONCE}, Rejected("no"), State.WAITING, Parked.PARKED),
        ({}, {}, Broke("down"), State.WAITING, Parked.NO),
        ({}, {"retry": ONCE}, Broke("down"), State.WAITING, Parked.PARKED),
        ({}, {}, Broke("too large", final=True), State.WAITING, Parked.PARKED),
        ({}, {"retry": VETO}, Broke("down"), State.TOMB, Parked.NO),
        ({"optional": True}, {"retry": VETO}, Broke("down"), State.SKIPPED, Parked.NO),
        ({"retriable": True, "undo": False}, {"retry": VETO}, Broke("down"), State.WAITING, Parked.PARKED),
        ({}, {"retry": ONCE}, Overran(), State.WAITING, Parked.NO),
    ],
)
def test_a_fast_answer_leaves_its_step_as_its_kind_and_policy_say(
    kind: dict[str, bool], options: dict[str, Any], answer: Executed, state: State, parked: Parked
) -> None:
    rig = Rig(_tolerant(kind), options={"charge": options})
    rig.answers = [answer]
    rig.handle(envelope(rig.choreography))
    row = rig.record("charge").row
    assert (row.state, row.parked) == (state, parked)


def _tolerant(kind: dict[str, bool]) -> Any:
    """Well-formed also with a step that cannot be undone: what follows it never refuses."""
    choreography = form(**kind)
    if kind.get("retriable"):
        steps = [replace(one, retriable=True) if one.name != "reserve" else one for one in choreography.steps]
        steps = [replace(one, read_only=True) if one.name == "charge" else one for one in steps]
        choreography = replace(choreography, steps=tuple(steps))
    return choreography


@pytest.mark.parametrize(
    ("kind", "options", "answer", "state", "parked", "key_no"),
    [
        ({}, {}, Ran(Handled({0: b"{}"}, 1)), State.DONE, Parked.NO, 0),
        ({}, {}, Ran(Handled({}, 0, pending=True)), State.RUNNING, Parked.NO, 0),
        ({}, {}, Rejected("no"), State.TOMB, Parked.NO, 0),
        ({"retriable": True, "undo": False}, {}, Rejected("no"), State.RUNNING, Parked.NO, 1),
        ({}, {}, Broke("unknown"), State.RUNNING, Parked.NO, 0),
        ({}, {"retry": VETO}, Broke("unknown"), State.RUNNING, Parked.PARKED, 0),
        ({}, {}, Overran(), State.RUNNING, Parked.NO, 0),
    ],
)
def test_an_answer_from_outside_leaves_its_step_as_its_kind_and_policy_say(
    kind: dict[str, bool], options: dict[str, Any], answer: Executed, state: State, parked: Parked, key_no: int
) -> None:
    rig = Rig(_tolerant({"external": True, **kind}), options={"charge": options})
    rig.handle(envelope(rig.choreography))
    assert rig.record("charge").row.state is State.RUNNING
    rig.answers = [answer]
    rig.work("charge")
    record = rig.record("charge")
    assert (record.row.state, record.row.parked, record.row.key_no) == (state, parked, key_no)
    assert record.row.attempt == 1
    assert record.lease_ms is None
    if isinstance(answer, Overran):
        assert record.error == "timed out"


def undoing(undo: dict[str, Any] | None = None, **kind: Any) -> Rig:
    """`charge` and `book` are done; their undo is asked for, and `book`'s has happened."""
    rig = Rig(form(**kind), undo=undo or {})
    rig.handle(envelope(rig.choreography))
    if kind.get("external"):
        rig.work("charge")
    return rig


def aborted(rig: Rig, *answers: Executed) -> None:
    clear = {**ABORT, "kind": MessageKind.CLEAR, "to_step": "book", "cause": Cause.NONE}
    rig.answers = list(answers)
    rig.seen.clear()
    rig.handle(envelope(rig.choreography, **ABORT), envelope(rig.choreography, **clear))


def test_an_undo_follows_the_local_edge_back_in_the_same_commit_and_tells_the_predecessor() -> None:
    rig = undoing()
    aborted(rig, Ran(undo_result=None), Ran(undo_result=b'{"refund":1}'))
    assert rig.record("book").row.state is rig.record("charge").row.state is State.COMPENSATED
    assert len(rig.of(Save)) == 1
    said = rig.said()
    assert [one.to_step for one in said if one.kind is MessageKind.CLEAR] == ["reserve"]
    # `book` returned nothing, so nothing is told of its undoing.
    assert [(one.event.name, one.payload) for one in said if one.kind is MessageKind.UNDONE and one.event] == [
        ("one.undone", b'{"refund":1}')
    ]


@pytest.mark.parametrize(("answer", "error"), [(Broke("down"), "down"), (Rejected("no"), "no"), (Overran(), "overran")])
def test_an_undo_that_fails_at_first_is_retried_in_the_slow_lane(answer: Executed, error: str) -> None:
    rig = undoing()
    aborted(rig, answer)
    record = rig.record("book")
    assert record.row.state is State.COMPENSATING
    assert error in record.error
    rig.answers = [Overran(), Ran(), Ran()]
    rig.work("book", after_ms=60_000)
    assert rig.record("book").error == "timed out"
    rig.work("book", after_ms=60_000)
    assert rig.record("book").row.state is State.COMPENSATED
    rig.work("charge")  # in a transaction of its own, due at once
    assert rig.record("charge").row.state is State.COMPENSATED


@pytest.mark.parametrize(("go_on", "parked"), [(False, Parked.PARKED), (True, Parked.PASSED)])
def test_an_undo_that_gives_up_is_parked_or_passed_by(go_on: bool, parked: Parked) -> None:
    rig = undoing({"retry": ONCE, "on_park_continue": go_on})
    aborted(rig, Broke("down"))
    rig.answers = [Broke("down")]
    rig.work("book", after_ms=60_000)
    record = rig.record("book")
    assert (record.row.parked, record.row.debt) == (parked, go_on)
    if go_on:
        rig.work("charge")  # in a transaction of its own, due at once
    assert rig.record("charge").row.state is (State.COMPENSATED if go_on else State.DONE)


@pytest.mark.parametrize(("go_on", "parked"), [(False, Parked.PARKED), (True, Parked.PASSED)])
def test_undo_attempts_that_died_end_as_their_policy_says(go_on: bool, parked: Parked) -> None:
    rig = undoing({"retry": ONCE, "on_park_continue": go_on})
    aborted(rig, Broke("down"))
    rig.change("book", attempt=1)
    rig.work("book", after_ms=60_000)
    assert rig.record("book").row.parked is parked


@pytest.mark.parametrize("answer", [Overran(), Broke("down")])
def test_an_answer_whose_commit_was_not_known_to_have_happened_is_settled_once(answer: Executed) -> None:
    rig = Rig(form(external=True), options={"charge": {"retry": Retry(delay_s=30.0, backoff=Backoff.FIXED)}}, did_commit=True)
    rig.handle(envelope(rig.choreography))
    rig.answers = [answer]
    rig.faults[Commit] = [None, StoreUnavailable("the connection was lost during the commit")]
    rig.work("charge")
    record = rig.record("charge")
    assert record.due_ms == rig.now_ms + 30_000, "the wait that its policy asks for"
    assert "fast lane" not in record.error
    assert record.version == 3


@pytest.mark.parametrize("go_on", [False, True])
def test_an_undo_that_a_person_has_tried_again_has_all_its_time_again(go_on: bool) -> None:
    policy = Retry(attempts=None, max_time_s=60.0)
    rig = undoing({"retry": policy, "on_park_continue": go_on})
    aborted(rig, Broke("down"))
    rig.answers = [Broke("down"), Broke("down")]
    rig.work("book", after_ms=1_000)
    rig.work("book", after_ms=120_000)
    assert rig.record("book").row.parked is (Parked.PASSED if go_on else Parked.PARKED)
    rig.answers = [Broke("still down")]
    rig.drive(rig.pipeline.command(rig.key("book").saga_id, rig.key("book").step, Resolved("retry", "ann"), runs=False))
    rig.work("book", after_ms=1_000)
    record = rig.record("book")
    assert (record.error, record.row.parked) == ("still down", Parked.NO)


def test_an_undo_delivered_too_often_goes_on_in_the_slow_lane() -> None:
    rig = undoing()
    clear = {**ABORT, "kind": MessageKind.CLEAR, "to_step": "book", "cause": Cause.NONE}
    rig.handle(envelope(rig.choreography, **ABORT), envelope(rig.choreography, **clear), attempt=9)
    assert rig.record("book").row.state is State.DONE
    rig.work("book")
    assert rig.record("book").row.state is State.COMPENSATED


def test_a_change_with_nothing_to_say_is_announced_as_it_is() -> None:
    rig = Rig()
    rig.answers = [Broke("down")]
    rig.handle(envelope(rig.choreography))
    record = rig.record("charge")
    assert record.announced == record.version == 1
    assert not rig.publications()


def test_everything_is_said_again_when_earlier_words_are_not_known_to_be_published() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    rig.seen.clear()
    aborted(rig, Ran(), Ran())
    kinds = {(one.kind, one.event.name if one.event else "") for one in rig.said()}
    assert (MessageKind.DONE, "one.done") in kinds
    assert (MessageKind.CLEAR, "") in kinds
    assert rig.record("charge").announced == 0


def test_only_what_is_new_is_said_when_earlier_words_are_known_to_be_published() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    rig.announced.update({key: record.version for key, record in rig.records.items()})
    rig.seen.clear()
    aborted(rig, Ran(), Ran())
    assert {one.kind for one in rig.said()} == {MessageKind.CLEAR}
    assert rig.record("charge").announced == 1


@pytest.mark.parametrize("changes", [{"origin": "mallory"}, {"deadline_ms": NOW_MS + 1}])
def test_a_message_that_disagrees_about_its_saga_is_quarantined(changes: dict[str, Any]) -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    before = dict(rig.records)
    rig.seen.clear()
    rig.handle(envelope(rig.choreography, **{**ABORT, **changes}))
    assert [one.code for save in rig.of(Save) for one in save.quarantined] == ["inapplicable"]
    assert rig.records == before


def test_each_message_that_cannot_be_applied_is_put_aside_with_its_reason_and_acknowledged() -> None:
    rig = Rig()
    garbage = Delivery(Channel(ChannelKind.EVENT, "stock.reserved"), {}, b"?")
    far = saga_id_at(NOW_MS + 86_400_000, bytes(10))
    old = saga_id_at(NOW_MS - 30 * 86_400_000, bytes(10))
    arrivals = [
        Arrival.of(garbage),
        *rig.arrive(
            envelope(rig.choreography, saga_id=far),
            envelope(rig.choreography, saga_id=old),
            envelope(rig.choreography, from_step="nobody"),
            envelope(rig.choreography, from_step="book"),
            envelope(rig.choreography, kind=MessageKind.CLEAR, to_step="nobody", event=None, payload=b"", channel=ABORT["channel"]),
        ),
    ]
    rig.drive(rig.pipeline.handle(arrivals))
    (save,) = rig.of(Save)
    codes = [one.code for one in save.quarantined]
    assert codes[1:] == ["from_the_future", "stale", "inapplicable", "inapplicable", "inapplicable"]
    assert save.counters == {("payment", "quarantined"): 6}
    assert len(rig.loose()) == len(rig.acked()) == 6
    assert {letter.headers["saga-quarantine-code"] for letter in rig.loose()} == set(codes)


def test_a_message_of_an_unknown_definition_is_held_and_later_applied_once() -> None:
    rig = Rig()
    unknown = envelope(rig.choreography, definition="0" * 32)
    rig.handle(unknown)
    (save,) = rig.of(Save)
    (held,) = save.held
    assert held.definition == "0" * 32
    rig.seen.clear()
    rig.drive(rig.pipeline.handle([Arrival(Channel(ChannelKind.EVENT, "stock.reserved"), held.headers, held.body, held_number=7)]))
    assert not rig.of(Save)  # still unknown: it stays where it is
    good = rig.arrive(envelope(rig.choreography))[0]
    rig.drive(rig.pipeline.handle([Arrival(good.channel, good.headers, good.body, held_number=8)]))
    assert rig.of(Save)[0].unhold == [8]
    assert not rig.acked()


def outcome(rig: Rig, which: Outcome = Outcome.COMPLETED) -> Any:
    said = {"kind": MessageKind.OUTCOME, "outcome": which, "channel": Channel(ChannelKind.OUTCOME), "event": None}
    return envelope(rig.choreography, **{**said, "from_step": "origin", "payload": b"", "sender": "shop"})


def test_a_finished_record_answers_a_repeated_announcement_with_the_outcome() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    rig.handle(outcome(rig))
    assert rig.record("charge").due_ms is None
    rig.seen.clear()
    rig.handle(envelope(rig.choreography, reannounced=True))
    assert [str(letter.channel) for letter in rig.loose()] == ["control.inventory"]
    rig.seen.clear()
    rig.handle(envelope(rig.choreography))
    assert not rig.loose()


def test_an_outcome_that_contradicts_what_happened_is_counted_and_changes_nothing() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    before = rig.record("charge")
    rig.seen.clear()
    rig.handle(outcome(rig, Outcome.ABORTED))
    assert rig.of(Save)[0].counters == {("payment", "contradictions"): 1}
    assert rig.record("charge") == before


def test_letters_carry_messages_there_and_back() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    plan = plan_of(rig.choreography)
    for record in rig.records.values():
        for message in everything(record, plan):
            letter = letter_of(message, record, plan, 1)
            assert letter is not None
            back = message_of(decode(letter.channel, letter.headers, letter.body), plan)
            assert back == message._replace(service="")


def record_with(row: Any, **changes: Any) -> Record:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    record = rig.record("charge")
    return replace(record, row=record.row._replace(**row), **changes)


def test_when_a_record_is_due() -> None:
    rig = Rig()
    plan = plan_of(rig.choreography)
    charge = plan.steps[rig.key("charge").step]
    limits = RuntimeLimits()

    def due(row: dict[str, Any], retry_at: int | None = None, with_limits: Limits = limits, **changes: Any) -> int | None:
        return due_of(record_with(row, **changes), charge, with_limits, NOW_MS, 0.5, retry_at)

    waiting = {"state": State.WAITING}
    assert due({"outcome": Outcome.COMPLETED}) is None
    assert due(waiting) == NOW_MS
    assert due(waiting, NOW_MS + 5) == NOW_MS + 5
    assert due(waiting, NOW_MS + 50, deadline_ms=NOW_MS + 7) == NOW_MS + 7
    assert due({**waiting, "parked": Parked.PARKED}) == NOW_MS + 30_000  # to say again that it is parked
    assert due({**waiting, "parked": Parked.HUMAN}, deadline_ms=NOW_MS - 1) == NOW_MS - 1
    heard = {**waiting, "parked": Parked.HUMAN, "cancel": Cancel.HEARD}
    assert due(heard, deadline_ms=NOW_MS - 1) == NOW_MS + 30_000  # not for ever at once
    assert due({"state": State.RUNNING, "pending": True}, deadline_own_ms=NOW_MS - 1) is None  # no event for its deadline
    late = replace(charge, deadline_choice=2)
    assert due_of(record_with({"state": State.RUNNING, "pending": True}, deadline_own_ms=9), late, limits, NOW_MS, 0.5, None) == 9
    assert due({}) == NOW_MS + 30_000
    assert due({}, with_limits=replace(limits, reannounce=False)) is None
    assert deadline_of(record_with({"state": State.DONE}, deadline_ms=1), charge) is None
    assert nudge_after_ms(30, limits, 0.5) == 3_600_000


def test_why_an_optional_step_was_skipped_is_not_told_as_the_reason_of_what_follows_it() -> None:
    rig = Rig(form(optional=True))
    rig.answers = [Rejected("no thanks")]
    rig.handle(envelope(rig.choreography))
    assert (rig.record("charge").reason, rig.record("book").row.state, rig.record("book").reason) == (
        "no thanks",
        State.SKIPPED,
        "",
    )
    rig.handle(envelope(rig.choreography, **{**ABORT, "reason": "card declined"}))
    assert rig.record("book").reason == "card declined"
