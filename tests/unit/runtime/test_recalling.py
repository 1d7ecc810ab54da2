"""Records as this process has committed them last: what comes next is applied to them without a claim, and a wrong guess is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.memory.store import MemoryStore
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.record import Row
from saga_choreo.model.states import State
from saga_choreo.ports import AnnouncedMark
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.epochs import Epochs
from saga_choreo.runtime.operations import Claim, Pause
from saga_choreo.runtime.presuming import Presuming, in_hands
from tests.unit.runtime.rig import NOW_MS, Rig, envelope, form

_SAGA = envelope(form()).saga_id


def _abort(**changes: Any) -> Envelope:
    """The shop refuses: what payment has done is to be undone."""
    fields: dict[str, Any] = {"kind": MessageKind.ABORT, "sender": "shop", "from_step": "confirm", "event": None, "payload": b""}
    return envelope(form(), channel=Channel(ChannelKind.CONTROL, "payment"), **{**fields, **changes})


def _done() -> Rig:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    rig.seen.clear()
    return rig


def _claimed(rig: Rig) -> list[UUID]:
    return [saga for claim in rig.of(Claim) for saga in claim.sagas]


def _is_aborted(rig: Rig) -> bool:
    return all(record.row.abort for record in rig.records.values())


def test_what_comes_next_is_applied_without_a_claim() -> None:
    rig = _done()
    rig.handle(_abort())
    assert _is_aborted(rig)
    assert not _claimed(rig)


def test_what_somebody_has_changed_meanwhile_is_found_out_and_claimed() -> None:
    rig = _done()
    key = rig.key("book")
    other = rig.records[key]
    rig.records[key] = replace(other, version=other.version + 1, reason="somebody was here")
    rig.handle(_abort())
    assert _is_aborted(rig)
    assert _claimed(rig) == [_SAGA]
    assert rig.records[key].reason == "somebody was here"
    assert rig.records[key].version == other.version + 2
    rig.seen.clear()
    rig.handle(_abort(from_step="book", sender="payment"))
    assert _claimed(rig) == [_SAGA], "after a wrong guess everything is claimed for a while"


def test_what_would_change_nothing_is_acknowledged_only_when_the_store_agrees() -> None:
    rig = _done()
    rig.handle(envelope(rig.choreography))
    assert _claimed(rig) == [_SAGA]
    rig.seen.clear()
    key = rig.key("charge")
    rig.records[key] = replace(rig.records[key], version=rig.records[key].version + 1, row=Row(), inputs={})
    rig.handle(envelope(rig.choreography))
    assert rig.records[key].row.state is State.DONE, "by what this process knew it was a duplicate"


def test_with_company_or_of_a_message_that_comes_again_everything_is_claimed() -> None:
    rig = _done()
    rig.is_alone = False
    rig.handle(_abort())
    assert _claimed(rig) == [_SAGA]
    for again in ({"attempt": 2}, {"reannounced": True}):
        rig = _done()
        attempt = again.pop("attempt", 1)
        rig.handle(_abort(**again), attempt=int(attempt))
        assert _claimed(rig) == [_SAGA]


def test_records_are_recalled_once_and_for_a_minute() -> None:
    rig = _done()
    records = list(rig.records.values())
    presuming = Presuming("payment", 7 * 86_400.0, lambda: True)
    presuming.keep([records], NOW_MS)
    assert presuming.recall(_SAGA, NOW_MS + 59_999) == records
    assert not presuming.recall(_SAGA, NOW_MS)
    presuming.keep([records], NOW_MS)
    assert not presuming.recall(_SAGA, NOW_MS + 60_000)
    presuming.keep([records], NOW_MS)
    assert not presuming.recall(_SAGA, NOW_MS - 1), "the clock was set back"


def test_after_a_lost_store_nothing_is_recalled() -> None:
    """A commit that a failover took back may have been made once more, with the same version and another content."""
    rig = _done()
    epochs = Epochs("payment", "a1", MemoryStore("memory://"), MemoryBroker("memory://"), SystemClock(), 5.0, rig.presuming.forget)
    epochs.doubt()
    rig.handle(_abort())
    assert _claimed(rig) == [_SAGA]
    assert _is_aborted(rig)


def test_a_saga_that_has_ended_holds_a_lock_or_carries_much_is_not_kept() -> None:
    rig = _done()
    first, second = rig.records.values()
    for heavy in (replace(first, lock="stock"), replace(first, kept=bytes(5_000)), replace(first, inputs={0: bytes(5_000)})):
        presuming = Presuming("payment", 7 * 86_400.0, lambda: True)
        presuming.keep([[heavy, second]], NOW_MS)
        assert not presuming.recall(_SAGA, NOW_MS)


def test_timers_and_people_take_the_record_from_the_store_and_what_is_known_is_dropped() -> None:
    rig = _done()
    rig.work("charge")
    rig.seen.clear()
    rig.handle(_abort())
    assert _claimed(rig) == [_SAGA]


def test_what_is_written_down_as_published_is_not_said_again() -> None:
    rig = _done()
    marks = [AnnouncedMark(record.record_key, record.version) for record in rig.records.values()]
    for mark in marks:
        rig.records[mark.key] = rig.records[mark.key].but(announced=mark.version)
    rig.presuming.marked(marks)
    rig.handle(_abort())
    assert not any(one.kind is MessageKind.DONE for one in rig.said())
    assert {record.row.state for record in rig.records.values()} <= {State.DONE, State.COMPENSATED}


def test_what_was_committed_after_the_mark_is_not_taken_for_published() -> None:
    rig = _done()
    book = rig.records[rig.key("book")]
    newer = replace(book, version=book.version + 1, announced=0)
    rig.presuming.keep([[newer]], NOW_MS)
    rig.presuming.marked([AnnouncedMark(newer.record_key, newer.version - 1)])
    assert [record.announced for record in rig.presuming.recall(_SAGA, NOW_MS)] == [newer.version - 1]


def test_a_batch_waits_for_another_that_has_the_same_saga_in_its_hands() -> None:
    rig = Rig()
    assert rig.presuming.hold({_SAGA})
    steps = rig.pipeline.handle(rig.arrive(envelope(rig.choreography)))
    assert isinstance(next(steps), Pause)
    assert isinstance(steps.send(None), Pause)
    rig.presuming.let_go({_SAGA})
    rig.drive(_after(steps))
    assert len(rig.records) == 2
    assert rig.presuming.hold({_SAGA}), "it has let go"


def test_a_batch_does_not_wait_for_ever_and_lets_go_of_nothing_it_does_not_hold() -> None:
    rig = Rig()
    assert rig.presuming.hold({_SAGA})
    rig.handle(envelope(rig.choreography))
    assert len(rig.of(Pause)) == 100
    assert len(rig.records) == 2
    assert not rig.presuming.hold({_SAGA})


def test_what_a_batch_has_done_is_free_while_it_goes_on_with_the_rest() -> None:
    rig = Rig()
    rig.execute_ms = 300
    free: list[bool] = []

    def look() -> None:
        free.append(rig.presuming.hold({_SAGA}))
        if free[-1]:
            rig.presuming.let_go({_SAGA})

    rig.meanwhile = look
    rig.handle(envelope(rig.choreography), envelope(rig.choreography, 1))
    assert free == [False, False, True, True]


def test_hands_are_free_after_a_batch_that_was_given_up() -> None:
    rig = Rig()
    steps = rig.pipeline.handle(rig.arrive(envelope(rig.choreography)))
    next(steps)
    assert not rig.presuming.hold({_SAGA})
    steps.close()
    assert rig.presuming.hold({_SAGA})
    assert list(in_hands(rig.presuming, set())) == []


def _after(steps: Any) -> Any:
    """What is left of a generator that has been begun."""
    yield from steps
