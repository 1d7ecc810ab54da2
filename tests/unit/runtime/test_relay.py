"""The relay's scan: what it finds, it publishes, and what cannot be published does not hide the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from saga_choreo.errors import BrokerUnavailable, PublishRefused
from saga_choreo.memory.store import MemoryStore
from saga_choreo.model.envelope import Channel, ChannelKind
from saga_choreo.model.record import Record
from saga_choreo.ports import Broker, Outgoing
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.operations import Publication
from saga_choreo.runtime.relay import Relay
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.store_harness import SERVICE, make_record

_CHANNEL = Channel(ChannelKind.EVENT, "order.placed")


class _Picky:
    """Only the publishing side of a broker: refuses the sagas with these keys for good, or is away."""

    def __init__(self, refused: Sequence[str]) -> None:
        self.refused = set(refused)
        self.is_away = False
        self.asked = 0

    async def publish(self, messages: Sequence[Outgoing]) -> list[Exception | None]:
        self.asked += len(messages)
        if self.is_away:
            return [BrokerUnavailable("away") for _ in messages]
        return [PublishRefused("too large") if message.key in self.refused else None for message in messages]


class _Rig:
    def __init__(self, store: MemoryStore, broker: _Picky) -> None:
        self.relay = Relay(SERVICE, cast("Broker", broker), store, SystemClock(), Limits())

    async def republish(self, records: Sequence[Record]) -> None:
        letters = [Outgoing(_CHANNEL, str(record.saga_id), {}, b"{}") for record in records]
        await self.relay.publish(
            [Publication(one.record_key, one.version, (letter,)) for one, letter in zip(records, letters, strict=True)]
        )

    async def round(self) -> bool | None:
        """Scans until one says that there is no more."""
        while found := await self.relay.scan(self.republish):
            pass
        return found


def _with_records(count: int, scenario: Any) -> None:
    async def inside() -> None:
        store = MemoryStore(f"memory://relay-{count}")
        await store.open()
        async with store.transaction() as transaction:
            await transaction.save([make_record(number, changed_ms=number + 1) for number in range(count)])
            await transaction.commit()
        await cast("Coroutine[Any, Any, None]", scenario(store))
        await store.close()

    asyncio.run(inside())


def test_records_that_are_refused_do_not_hide_those_behind_them() -> None:
    async def scenario(store: MemoryStore) -> None:
        stuck = [str(make_record(number).saga_id) for number in range(600)]
        rig = _Rig(store, _Picky(stuck))
        await rig.round()
        left = await store.unannounced(SERVICE, 9_999, 9_999, 2_000)
        assert [str(record.saga_id) for record in left] == stuck

    _with_records(1_000, scenario)


def test_what_is_new_does_not_wait_behind_a_long_backlog() -> None:
    async def scenario(store: MemoryStore) -> None:
        rig = _Rig(store, _Picky([]))
        assert await rig.relay.scan(rig.republish) is True
        await rig.relay.flush()
        left = {record.saga_id for record in await store.unannounced(SERVICE, 9_999, 9_999, 2_000)}
        assert len(left) == 900 - 256
        assert not left & {make_record(number).saga_id for number in (0, 899)}

    _with_records(900, scenario)


def test_a_long_backlog_is_published_once_each() -> None:
    async def scenario(store: MemoryStore) -> None:
        broker = _Picky([])
        assert await _Rig(store, broker).round() is False
        assert broker.asked == 2_100
        assert list(await store.unannounced(SERVICE, 9_999, 9_999, 3_000)) == []

    _with_records(2_100, scenario)


def test_a_broker_that_is_away_is_asked_for_one_page_and_then_left_alone_for_a_while() -> None:
    async def scenario(store: MemoryStore) -> None:
        broker = _Picky([])
        rig = _Rig(store, broker)
        broker.is_away = True
        assert await rig.round() is None
        assert broker.asked == 256
        broker.is_away = False
        assert await rig.round() is False
        assert list(await store.unannounced(SERVICE, 9_999, 9_999, 2_000)) == []

    _with_records(700, scenario)


def test_a_start_that_its_caller_is_about_to_publish_is_left_to_that_for_a_second() -> None:
    async def scenario(store: MemoryStore) -> None:
        rig = _Rig(store, _Picky([]))
        mine, other = make_record(0), make_record(1)
        rig.relay.expect(mine.record_key)
        await rig.round()
        assert [record.saga_id for record in await store.unannounced(SERVICE, 9_999, 9_999, 10)] == [mine.saga_id]
        assert not rig.relay.covers(other)  # it is written down
        await asyncio.sleep(1.05)
        await rig.round()
        assert not await store.unannounced(SERVICE, 9_999, 9_999, 10)

    _with_records(2, scenario)


def test_what_is_expected_is_forgotten_with_the_next_that_is() -> None:
    async def scenario(store: MemoryStore) -> None:
        relay = _Rig(store, _Picky([])).relay
        for number in range(3):
            relay.expect(make_record(number).record_key)
        await asyncio.sleep(1.05)
        relay.expect(make_record(3).record_key)
        assert list(relay._expected) == [make_record(3).record_key]

    _with_records(1, scenario)
