"""What is kept beside the records, and the scans and reads over all of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from saga_choreo.errors import StoreConflict
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import ORIGIN, Resolution
from saga_choreo.model.states import Outcome, Parked, State
from saga_choreo.ports import AnnouncedMark, BusinessKey, Held, Quarantined, SagaFilter
from saga_choreo.testing.store_harness import SERVICE, AnyStore, Behaviour, StoreHarness, make_record, saga_id_of
from saga_choreo.testing.store_records import save, stored

__all__ = ["TABLE_BEHAVIOURS"]

_WORD = Resolution("take", "ana", "doing it by hand: “ü”", 1_790_000_000_000, 5, 1)


def _key(number: int, key: str = "ORDER-1") -> BusinessKey:
    return BusinessKey(
        service=SERVICE, choreography="order-processing", key=key, saga_id=saga_id_of(number), digest=f"digest-{number}"
    )


def _quarantined(number: int, service: str = SERVICE) -> Quarantined:
    return Quarantined(
        service=service,
        code="stale",
        detail="too old",
        channel="event.order.created",
        headers={"ce_type": "ü", "n": str(number)},
        body=bytes([number, 0, 255]),
        received_ms=1_000 + number,
        saga_id=str(saga_id_of(number)),
    )


def _held(number: int, definition: str) -> Held:
    return Held(service=SERVICE, definition=definition, channel="c", headers={"n": str(number)}, body=b"\x00b", received_ms=number)


async def _register(harness: StoreHarness) -> None:
    async with harness.store() as store:
        for number in (1, 2):
            async with store.transaction() as transaction:
                assert await transaction.register(_key(number)) == _key(1)
                assert await transaction.register(_key(9, "ORDER-2")) == _key(9, "ORDER-2")
                await transaction.commit()
        assert list(await store.key(SERVICE, "order-processing", "ORDER-1")) == [_key(1)]
        assert list(await store.key("", "", "ORDER-1")) == [_key(1)]
        assert list(await store.key("other", "", "ORDER-1")) == []


async def _register_race(harness: StoreHarness) -> None:
    async with harness.store() as store:

        async def start(number: int) -> BusinessKey:
            while True:
                try:
                    async with store.transaction() as transaction:
                        known = await transaction.register(_key(number))
                        await asyncio.sleep(0)
                        await transaction.commit()
                        return known
                except StoreConflict:
                    continue  # a store without locks says so to those who came second; bounded, since the key is there by then

        answers = await asyncio.gather(*(start(number) for number in range(1, 6)))
        assert len(set(answers)) == 1
        assert list(await store.key("", "", "ORDER-1")) == [answers[0]]


async def _counters(harness: StoreHarness) -> None:
    async with harness.store() as store:
        for _ in range(2):
            async with store.transaction() as transaction:
                await transaction.append(counters={(SERVICE, "done"): 2, ("other", "done"): 1, (SERVICE, "no_op"): 5})
                await transaction.commit()
        assert dict(await store.counters()) == {"done": 6, "no_op": 10}
        assert dict(await store.counters("other")) == {"done": 2}


async def _quarantine(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            await transaction.append(quarantined=[_quarantined(1), _quarantined(2), _quarantined(3, "other")])
            await transaction.commit()
        found = await store.quarantined(SERVICE)
        assert [replace(q, number=0) for q in found] == [_quarantined(2), _quarantined(1)], "the newest first, as they came"
        assert len({q.number for q in await store.quarantined()}) == 3
        assert len(await store.quarantined(limit=2)) == 2


async def _holding(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            await transaction.append(held=[_held(1, "aa"), _held(2, "bb"), _held(3, "aa"), _held(4, "cc")])
            await transaction.commit()
        found = await store.held(SERVICE, ["aa", "bb"], 10)
        assert [replace(h, number=0) for h in found] == [_held(1, "aa"), _held(2, "bb"), _held(3, "aa")]
        assert len(await store.held(SERVICE, ["aa", "bb"], 2)) == 2
        assert list(await store.held("other", ["aa"], 10)) == []
        async with store.transaction() as transaction:
            await transaction.append(unhold=[found[0].number, found[1].number])
            await transaction.commit()
        assert [h.received_ms for h in await store.held(SERVICE, ["aa", "bb", "cc"], 10)] == [3, 4]


async def _telling(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            await transaction.append(held=[_held(1, "aa"), _held(2, "bb"), _held(3, "aa")])
            await transaction.commit()
        late = await store.untold(SERVICE, 3, 10)
        assert [replace(h, number=0) for h in late] == [_held(1, "aa"), _held(2, "bb")], "only what came before that time"
        assert len(await store.untold(SERVICE, 9, 1)) == 1
        assert list(await store.untold("other", 9, 10)) == []
        await store.mark_told("other", [late[1].number])
        await store.mark_told(SERVICE, [late[0].number, 999_999])
        assert [h.received_ms for h in await store.untold(SERVICE, 9, 10)] == [2, 3]
        assert [h.told for h in await store.held(SERVICE, ["aa"], 10)] == [True, False], "telling of it takes nothing off hold"
        much_later = saga_id_at(1_000, bytes(10))
        assert await store.forget(SERVICE, much_later, 10) == 1, "what was told may be forgotten, what was not never"
        assert [h.received_ms for h in await store.held(SERVICE, ["aa", "bb"], 10)] == [2, 3]


async def _all_together(harness: StoreHarness) -> None:
    async with harness.store() as store:
        for commit in (False, True):
            async with store.transaction() as transaction:
                await transaction.register(_key(1))
                await transaction.save([make_record(1)])
                await transaction.append(quarantined=[_quarantined(1)], held=[_held(1, "aa")], counters={(SERVICE, "n"): 1})
                if commit:
                    await transaction.commit()
            kept = (
                len(await stored(store, 1)),
                len(await store.key("", "", "ORDER-1")),
                len(await store.quarantined()),
                len(await store.held(SERVICE, ["aa"], 9)),
                (await store.counters()).get("n", 0),
            )
            assert kept == (1 if commit else 0,) * 5


async def _due(harness: StoreHarness) -> None:
    async with harness.store() as store:
        assert await store.next_due_ms(SERVICE) is None
        times = {1: 30, 2: 10, 3: None, 4: 20, 5: 99}
        await save(store, *(make_record(n, due_ms=ms) for n, ms in times.items()), make_record(6, due_ms=1, service="other"))
        assert [k.saga_id for k in await store.due(SERVICE, 30, 10)] == [saga_id_of(n) for n in (2, 4, 1)]
        assert [k.saga_id for k in await store.due(SERVICE, 30, 2)] == [saga_id_of(n) for n in (2, 4)]
        assert [k.saga_id for k in await store.due(SERVICE, 30, 2, newest=True)] == [saga_id_of(n) for n in (1, 4)]
        assert list(await store.due(SERVICE, 9, 10)) == []
        assert await store.next_due_ms(SERVICE) == 10
        await save(store, make_record(2, version=2, due_ms=None))
        assert await store.next_due_ms(SERVICE) == 20


async def _unannounced(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(
            store,
            make_record(1, changed_ms=100),
            make_record(2, changed_ms=50),
            make_record(3, changed_ms=150),
            make_record(4, changed_ms=150, step=ORIGIN),
            make_record(5, changed_ms=250, step=ORIGIN),
            make_record(6, changed_ms=1, announced=1),
            make_record(7, changed_ms=1, service="other"),
        )
        assert [r.saga_id for r in await store.unannounced(SERVICE, 101, 200, 10)] == [saga_id_of(n) for n in (2, 1, 4)]
        assert [r.saga_id for r in await store.unannounced(SERVICE, 101, 200, 1)] == [saga_id_of(2)]
        assert [r.saga_id for r in await store.unannounced(SERVICE, 101, 200, 1, 1)] == [saga_id_of(1)]
        assert [r.saga_id for r in await store.unannounced(SERVICE, 101, 200, 10, 2)] == [saga_id_of(4)]
        assert [r.saga_id for r in await store.unannounced(SERVICE, 101, 200, 2, newest=True)] == [saga_id_of(n) for n in (4, 1)]
        assert list(await store.unannounced(SERVICE, 100, 0, 10)) == [make_record(2, changed_ms=50)]
        # An origin row that has gone on is no start any more.
        await save(store, make_record(8, changed_ms=160, step=ORIGIN))
        await save(store, make_record(8, changed_ms=160, step=ORIGIN, version=2))
        assert [r.saga_id for r in await store.unannounced(SERVICE, 101, 200, 10)] == [saga_id_of(n) for n in (2, 1, 4)]
        assert [r.saga_id for r in await store.unannounced(SERVICE, 161, 101, 10)] == [saga_id_of(n) for n in (2, 1, 3, 8)]


async def _mark(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, make_record(), make_record(1))
        await save(store, make_record(version=2))
        key = make_record().record_key
        for version, announced in ((1, 1), (2, 2), (1, 2)):
            await store.mark_announced(SERVICE, [AnnouncedMark(key, version), AnnouncedMark(make_record(8).record_key, 1)])
            assert [(r.version, r.announced) for r in await stored(store, 0)] == [(2, announced)]
        assert [r.saga_id for r in await store.unannounced(SERVICE, 9_999, 9_999, 10)] == [saga_id_of(1)]
        await store.mark_announced("other", [AnnouncedMark(make_record(1).record_key, 1)])
        assert [r.announced for r in await stored(store, 1)] == [0]


async def _forget_ended(harness: StoreHarness) -> None:
    async with harness.store() as store:
        for number in range(1, 6):
            origin = make_record(number, step=ORIGIN, state=State.COMPLETED, announced=1)
            step = make_record(number, state=State.DONE, outcome=Outcome.COMPLETED, announced=1)
            await save(store, origin, step)
        first = await store.forget(SERVICE, saga_id_of(5), 3)
        assert first == 3, "bounded by the limit"
        while await store.forget(SERVICE, saga_id_of(5), 3):
            pass
        assert [len(await stored(store, number)) for number in range(1, 6)] == [0, 0, 0, 0, 2]


async def _forget_keeps_open(harness: StoreHarness) -> None:
    async with harness.store() as store:
        done = {"state": State.DONE, "outcome": Outcome.COMPLETED, "announced": 1}
        kept = [
            make_record(1, **{**done, "outcome": Outcome.OPEN}),
            make_record(2, step=ORIGIN, state=State.OPEN, announced=1),
            make_record(3, step=ORIGIN, state=State.ABORTING, announced=1),
            make_record(4, **{**done, "state": State.COMPENSATING, "outcome": Outcome.ABORTED}),
            make_record(5, **{**done, "parked": Parked.PARKED}),
            make_record(6, **{**done, "announced": 0}),
            make_record(7, **done, service="other"),
        ]
        await save(store, *kept, make_record(8, **done))
        assert await store.forget(SERVICE, saga_id_of(100), 50) == 1
        assert [len(await stored(store, number)) for number in range(1, 9)] == [1] * 7 + [0]


async def _forget_beside(harness: StoreHarness) -> None:
    async with harness.store() as store:
        old = replace(_quarantined(1), received_ms=(saga_id_of(10).int >> 80) - 1)
        async with store.transaction() as transaction:
            await transaction.register(_key(1, "closed"))
            await transaction.register(_key(2, "open"))
            await transaction.save([make_record(2, step=ORIGIN, state=State.OPEN)])
            await transaction.append(quarantined=[old, replace(old, received_ms=old.received_ms + 1)])
            await transaction.commit()
        while await store.forget(SERVICE, saga_id_of(10), 1):
            pass
        assert [k.key for name in ("closed", "open") for k in await store.key("", "", name)] == ["open"]
        assert [q.received_ms for q in await store.quarantined()] == [old.received_ms + 1]


async def _sagas(harness: StoreHarness) -> None:
    async with harness.store() as store:
        for number in range(1, 5):
            await save(store, make_record(number), make_record(number, step=2), make_record(number, service="stock"))
        await save(store, make_record(5, choreography="returns"), make_record(6, service="stock"))
        assert await _listed(store, SagaFilter()) == [(6, 1), (5, 1), (4, 3), (3, 3), (2, 3), (1, 3)]
        assert await _listed(store, SagaFilter(service=SERVICE, limit=2)) == [(5, 1), (4, 2)]
        assert await _listed(store, SagaFilter(choreography="returns")) == [(5, 1)]
        assert await _listed(store, SagaFilter(before=saga_id_of(3), limit=1)) == [(2, 3)]
        await save(
            store, make_record(4, step=3, parked=Parked.HUMAN, resolution=_WORD), make_record(2, step=3, parked=Parked.PARKED)
        )
        assert await _listed(store, SagaFilter(parked=True)) == [(4, 4), (2, 4)]
        assert await _listed(store, SagaFilter(parked=True, service=SERVICE, before=saga_id_of(4))) == [(2, 3)]
        assert await _listed(store, SagaFilter(parked=True, service="stock")) == []
        kept = [record for record in await store.records(saga_id_of(4)) if record.step == 3]
        assert [record.resolution for record in kept] == [_WORD]
        assert [r.service for r in await store.records(saga_id_of(1))] == [SERVICE, SERVICE, "stock"]
        assert [r.step for r in await store.records(saga_id_of(1), SERVICE)] == [1, 2]


async def _listed(store: AnyStore, wanted: SagaFilter) -> list[tuple[int, int]]:
    return [(group[0].saga_id.int & 0xFFFF, len(group)) for group in await store.sagas(wanted)]


async def _definitions(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await store.remember("aa", b"first", ["payment", "stock"])
        await store.remember("aa", b"", ["order"])
        await store.remember("aa", b"first", ["stock"])
        await store.remember("bb", b"second", [])
        assert dict(await store.definitions()) == {"aa": b"first", "bb": b"second"}
        assert list(await store.holders("aa")) == ["order", "payment", "stock"]
        assert list(await store.holders("cc")) == []


async def _committed_only(harness: StoreHarness) -> None:
    async with harness.store() as writer, harness.store() as reader:
        await save(writer, make_record())
        async with writer.transaction() as transaction:
            await transaction.save([make_record(version=2), make_record(1)])
            await transaction.append(counters={(SERVICE, "n"): 1})
            assert [r.version for r in await stored(reader, 0)] == [1]
            assert [r.version for r in await stored(writer, 0)] == [1]
            assert list(await stored(reader, 1)) == []
            assert dict(await reader.counters()) == {}
            await transaction.commit()
        assert [r.version for r in await stored(reader, 0)] == [2]


async def _reopen(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, make_record())
    async with harness.store() as store:
        assert list(await stored(store, 0)) == [make_record()]


TABLE_BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("registering a business key again returns the first", _register),
    Behaviour("registering a business key at once from many sides has one answer", _register_race),
    Behaviour("counters add up over commits and services", _counters),
    Behaviour("quarantined messages come back as they came, newest first", _quarantine),
    Behaviour("held messages are found by definition, oldest first, until released", _holding),
    Behaviour("of a held message that waits for long a copy is told once", _telling),
    Behaviour("record, key, quarantine, held and counters are committed together or not at all", _all_together),
    Behaviour("due records come the longest waiting first", _due),
    Behaviour("unannounced records come oldest first, starts by their own bound", _unannounced),
    Behaviour("marking announced never lowers and is no change of version", _mark),
    Behaviour("forgetting is bounded and deletes ended sagas only", _forget_ended),
    Behaviour("forgetting keeps what is open, parked, undoing or unannounced", _forget_keeps_open),
    Behaviour("forgetting takes old keys and quarantine rows along", _forget_beside),
    Behaviour("sagas are listed newest first, filtered and paged", _sagas),
    Behaviour("definitions and their holders only grow", _definitions),
    Behaviour("readers see committed data only", _committed_only, ("two_clients",)),
    Behaviour("what was committed is there after a reopening", _reopen, ("two_clients",)),
)
