"""What this process knows to be published: noted once, marked when it has grown old, and never more than there is."""

from __future__ import annotations

from uuid import UUID

from saga_choreo.model.envelope import Channel, ChannelKind
from saga_choreo.model.record import RecordKey
from saga_choreo.ports import AnnouncedMark, Outgoing
from saga_choreo.runtime.announcing import LOOKS, Announcing
from saga_choreo.runtime.operations import Publication

_LETTER = Outgoing(Channel(ChannelKind.OUTCOME), "", {}, b"")


def _key(number: int) -> RecordKey:
    return RecordKey(UUID(int=number), "d" * 32, 0)


def _publish(announcing: Announcing, *numbers: int, version: int = 1) -> None:
    some = [Publication(_key(number), version, (_LETTER,)) for number in numbers]
    announcing.begin(some)
    announcing.end(some)
    announcing.confirm(some, [None] * len(some))


def test_what_is_published_is_marked_when_it_has_grown_old_and_until_it_is_written() -> None:
    announcing = Announcing()
    _publish(announcing, 1)
    assert [announcing.old_marks() for _ in range(LOOKS - 3)] == [[]] * (LOOKS - 3)
    _publish(announcing, 2)
    mark = AnnouncedMark(_key(1), 1)
    assert announcing.old_marks() == [mark]
    assert announcing.old_marks() == [mark], "it was not written"
    announcing.written([mark])
    assert announcing.old_marks() == []
    assert announcing.marks() == [AnnouncedMark(_key(2), 1)]


def test_a_mark_is_of_the_version_that_was_published_last() -> None:
    announcing = Announcing()
    _publish(announcing, 1)
    _publish(announcing, 1, version=2)
    for _ in range(LOOKS - 3):
        announcing.old_marks()
    assert announcing.old_marks() == [AnnouncedMark(_key(1), 2)]
    announcing.written([AnnouncedMark(_key(1), 1)])
    assert announcing.old_marks() == [AnnouncedMark(_key(1), 2)], "that was written of an earlier one"


def test_nothing_piles_up_where_everything_is_written_at_once_and_nobody_asks_for_what_is_old() -> None:
    announcing = Announcing()
    for number in range(20_000):
        _publish(announcing, number)
        if number % 3 == 2:
            announcing.written(announcing.marks())
    assert len(announcing.known) < 3
    assert sum(map(len, announcing._recent)) < 2_000
    _publish(announcing, 7)
    for _ in range(LOOKS - 3):
        announcing.old_marks()
    assert AnnouncedMark(_key(7), 1) in announcing.old_marks(), "and what is known is still there"
