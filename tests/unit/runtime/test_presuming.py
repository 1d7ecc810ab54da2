"""Which messages are presumed to be the first of their saga here, so that nothing is claimed for them."""

from __future__ import annotations

from saga_choreo import Limits
from saga_choreo.errors import StoreConflict
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope
from saga_choreo.model.event import EventRef
from saga_choreo.ports import Delivery
from saga_choreo.runtime.operations import Begin, Claim, Commit
from saga_choreo.runtime.presuming import Presuming
from tests.unit.runtime.rig import NOW_MS, Rig, catalog_of, envelope, form


def _is_new(said: Envelope, *, attempt: int = 1, redelivered: bool = False) -> bool:
    known = catalog_of("inventory", form()).get(said.definition)
    assert known is not None
    delivery = Delivery(channel=said.channel, headers={}, body=b"", redelivered=redelivered, attempt=attempt, token="1")
    presuming = Presuming("inventory", 7 * 86_400.0)
    assert not presuming.is_new(said, known, delivery, NOW_MS), "nobody is known yet who starts such sagas"
    rig = Rig(name="inventory")
    rig.handle(_begun(99))
    presuming.saw(list(rig.records.values()))
    return presuming.is_new(said, known, delivery, NOW_MS)


def _begun(number: int = 0) -> Envelope:
    channel = Channel(ChannelKind.EVENT, "rig.begun")
    return envelope(form(), number, sender="shop", from_step="origin", event=EventRef("rig.begun"), channel=channel)


def test_the_event_that_the_service_waits_for_is_presumed_new_unless_it_comes_again() -> None:
    assert _is_new(_begun())
    assert not _is_new(_begun(), attempt=2)
    assert not _is_new(_begun(), redelivered=True)


def test_an_event_of_a_saga_that_somebody_else_claims_to_have_started_is_not_presumed_new() -> None:
    """No insert would find out that the origin's own record, which may be here, says something else."""
    assert not _is_new(_begun()._replace(origin="stranger"))


def test_an_event_that_makes_no_record_here_is_not_presumed_new() -> None:
    """No insert would find out that there is a record, with which the message disagrees, say."""
    assert not _is_new(envelope(form()))


def _one_a_part() -> Rig:
    rig = Rig(name="inventory", limits=Limits(fast_budget_s=0.25))
    rig.handle(_begun(99))  # now it knows who starts such sagas
    rig.records.clear()
    rig.seen.clear()
    rig.execute_ms = 300
    return rig


def test_what_had_no_turn_in_its_part_of_a_batch_is_still_presumed_new() -> None:
    rig = _one_a_part()
    rig.handle(*(_begun(number) for number in range(4)))
    assert len(rig.records) == len(rig.of(Commit)) == 4
    assert not rig.of(Claim)


def test_after_a_conflict_what_is_left_of_the_batch_is_claimed() -> None:
    rig = _one_a_part()
    rig.faults[Commit] = [None, StoreConflict("a record that is new here exists already")]
    rig.handle(*(_begun(number) for number in range(4)))
    assert len(rig.records) == 4
    sagas = [envelope(form(), number).saga_id for number in range(4)]
    assert {saga for claim in rig.of(Claim) for saga in claim.sagas} == set(sagas[1:])


def test_a_saga_of_which_a_part_is_done_is_claimed_for_what_comes_after_it() -> None:
    rig = _one_a_part()
    rig.handle(_begun(0), _begun(1), _begun(0))
    assert len(rig.records) == 2
    assert rig.of(Begin)
    assert {saga for claim in rig.of(Claim) for saga in claim.sagas} == {envelope(form(), 0).saga_id}
