"""A saga's end that this very process has recorded: its OUTCOME comes back, and nothing is asked of the store for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saga_choreo.core.origin import opened
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Outcome
from saga_choreo.ports import Completion
from saga_choreo.runtime.operations import Ack, Begin, Claim, Complete, Save
from tests.unit.runtime.rig import NOW_MS, Rig, envelope, form


def _origin(number: int) -> Record:
    said = envelope(form(), number)
    return Record(
        service="shop",
        saga_id=said.saga_id,
        definition=said.definition,
        step=ORIGIN,
        row=opened(),
        choreography=said.choreography,
        origin="shop",
        version=1,
        announced=1,
        changed_ms=NOW_MS,
    )


def _outcome(number: int, **changes: Any) -> Envelope:
    fields: dict[str, Any] = {
        "kind": MessageKind.OUTCOME,
        "outcome": Outcome.COMPLETED,
        "payload": b"",
        "event": None,
        "from_step": "",
    }
    return envelope(form(), number, sender="shop", channel=Channel(ChannelKind.OUTCOME), **{**fields, **changes})


def _ended(number: int = 0) -> Rig:
    """The last step of the saga is the shop's own, and has just run."""
    rig = Rig(name="shop", tells=False)
    origin = _origin(number)
    rig.records[origin.record_key] = origin
    booked = EventRef("two.done")
    channel = Channel(ChannelKind.EVENT, booked.name)
    rig.handle(envelope(form(), number, sender="payment", from_step="book", event=booked, channel=channel))
    assert {record.row.outcome for record in rig.records.values()} == {Outcome.COMPLETED}
    rig.seen.clear()
    return rig


def _asked(rig: Rig) -> list[Completion]:
    return [end for complete in rig.of(Complete) for end in complete.ends]


def test_its_outcome_is_acknowledged_without_a_look_into_the_store() -> None:
    rig = _ended()
    (arrival,) = rig.handle(_outcome(0))
    assert not _asked(rig)
    assert not rig.of(Claim)
    assert [ack.deliveries for ack in rig.of(Ack)] == [[arrival.delivery]]
    assert len(rig.of(Begin)) == 1  # which nothing follows: a store begins with the first that is asked of it


def test_one_that_means_another_saga_or_comes_much_later_is_looked_at() -> None:
    for outcome, later_ms in ((_outcome(1), 0), (_outcome(0, deadline_ms=NOW_MS + 5_000), 0), (_outcome(0), 60_001)):
        rig = _ended()
        rig.now_ms += later_ms
        rig.handle(outcome)
        assert [end.key.saga_id for end in _asked(rig)] == [outcome.saga_id]


def test_a_bad_end_is_applied_as_ever() -> None:
    rig = _ended()
    rig.handle(_outcome(0, outcome=Outcome.ABORTED))
    assert [list(claim.sagas) for claim in rig.of(Claim)] == [[envelope(form(), 0).saga_id]]


def test_an_end_that_was_recorded_without_all_there_can_be_is_looked_at() -> None:
    rig = Rig(name="shop", tells=False)
    done = replace(_origin(0), row=opened()._replace(outcome=Outcome.COMPLETED))
    rig.pipeline._ended.saw([done], NOW_MS)
    rig.handle(_outcome(0))
    assert len(_asked(rig)) == 1


def test_a_forged_end_beside_the_good_one_is_put_aside_whichever_comes_first() -> None:
    good, forged = _outcome(0), _outcome(0, deadline_ms=NOW_MS + 5_000)
    for ends in ([good, forged], [forged, good]):
        rig = _ended()
        rig.handle(*ends)
        assert [aside.code for save in rig.of(Save) for aside in save.quarantined] == ["inapplicable"]
        assert sum(len(ack.deliveries) for ack in rig.of(Ack)) == 2
