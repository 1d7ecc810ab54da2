"""Which messages are presumed to be the first of their saga here, so that nothing is claimed for them."""

from __future__ import annotations

from saga_choreo.model.envelope import Channel, ChannelKind, Envelope
from saga_choreo.model.event import EventRef
from saga_choreo.ports import Delivery
from saga_choreo.runtime.presuming import Presuming
from tests.unit.runtime.rig import NOW_MS, catalog_of, envelope, form


def _is_new(said: Envelope, *, attempt: int = 1, redelivered: bool = False) -> bool:
    known = catalog_of("inventory", form()).get(said.definition)
    assert known is not None
    delivery = Delivery(channel=said.channel, headers={}, body=b"", redelivered=redelivered, attempt=attempt, token="1")
    return Presuming("inventory", 7 * 86_400.0).is_new(said, known, delivery, NOW_MS)


def _begun() -> Envelope:
    channel = Channel(ChannelKind.EVENT, "rig.begun")
    return envelope(form(), sender="shop", from_step="", event=EventRef("rig.begun"), channel=channel)


def test_the_event_that_the_service_waits_for_is_presumed_new_unless_it_comes_again() -> None:
    assert _is_new(_begun())
    assert not _is_new(_begun(), attempt=2)
    assert not _is_new(_begun(), redelivered=True)


def test_an_event_that_makes_no_record_here_is_not_presumed_new() -> None:
    """No insert would find out that there is a record, with which the message disagrees, say."""
    assert not _is_new(envelope(form()))
