"""How sagas begin and end in a store: with their key, and many of them at once."""

from __future__ import annotations

from dataclasses import replace

from saga_choreo.model.record import ORIGIN, Completion, Record, Resolution, completed
from saga_choreo.model.states import Outcome, State
from saga_choreo.ports import AnnouncedMark, BusinessKey
from saga_choreo.testing.store_harness import SERVICE, AnyStore, Behaviour, StoreHarness, make_record, saga_id_of
from saga_choreo.testing.store_records import save, stored

__all__ = ["SAGA_BEHAVIOURS"]

_NOW_MS = 9_000


def _key(number: int) -> BusinessKey:
    return BusinessKey(service=SERVICE, choreography="order-processing", key="ORDER-1", saga_id=saga_id_of(number), digest="d")


async def _register_with_record(harness: StoreHarness) -> None:
    async with harness.store() as store:
        for number in (1, 2):
            async with store.transaction() as transaction:
                there = await transaction.register(_key(number), make_record(number, step=ORIGIN, key="ORDER-1"))
                assert there == _key(1)
                await transaction.commit()
        assert list(await stored(store, 1)) == [make_record(1, step=ORIGIN, key="ORDER-1")]
        assert list(await stored(store, 2)) == []


async def _register_with_record_rolled_back(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            await transaction.register(_key(1), make_record(1, step=ORIGIN, key="ORDER-1"))
        assert list(await stored(store, 1)) == []
        assert list(await store.key("", "", "ORDER-1")) == []


async def _join_register(harness: StoreHarness) -> None:
    """Twice on one connection: a store may look at a connection it has not seen before, and trust it later."""
    assert harness.own_connection is not None
    async with harness.store() as store:
        await harness.prepare(store)
        async with harness.own_connection() as own:
            for number, answer in ((1, 1), (2, 1)):
                joined = store.join(own.raw)
                assert await joined.register(_key(number), make_record(number, step=ORIGIN)) == _key(answer)
                await joined.commit()
            await own.commit()
        assert list(await stored(store, 1)) == [make_record(1, step=ORIGIN)]
        assert list(await stored(store, 2)) == []


async def _origins(harness: StoreHarness) -> None:
    async with harness.store() as store:
        mine = [make_record(number, step=step) for number in (1, 2, 3) for step in (ORIGIN, 1)]
        await save(store, *mine, make_record(4, step=ORIGIN, service="other"), make_record(5))
        found = await store.origins(SERVICE, [saga_id_of(number) for number in (3, 1, 4, 5, 6)])
        assert sorted(found, key=lambda record: record.saga_id) == [make_record(1, step=ORIGIN), make_record(3, step=ORIGIN)]
        assert list(await store.origins(SERVICE, [])) == []


async def _open(harness: StoreHarness) -> None:
    """Of two services; sagas 1 and 5 have ended, 2 rests, 3 and 4 have timers, of which 4 rests at the other service too."""
    ended = {"state": State.DONE, "outcome": Outcome.COMPLETED}
    made = [make_record(1, **ended), make_record(1, step=ORIGIN, state=State.COMPLETED, outcome=Outcome.COMPLETED)]
    made += [make_record(2), make_record(2, step=2, **ended), make_record(5, **ended), make_record(5, service="other", **ended)]
    made += [make_record(3, due_ms=9), make_record(3, step=2, due_ms=7), make_record(3, step=3), make_record(4, due_ms=1)]
    made += [make_record(4, service="other", state=State.RUNNING, pending=True), make_record(6, service="other", due_ms=4)]
    async with harness.store() as store:
        assert await store.open_sagas(SERVICE, None, 5) == ([], None)
        await save(store, *made)
        for service, timed, resting in ((SERVICE, [3, 4], [2, 3]), ("other", [6], [4]), ("", [3, 4, 6], [2, 3, 4])):
            for is_resting, numbers in ((False, timed), (True, resting)):
                for limit in (1, 2, 50):
                    groups = await _all_open(store, service, limit, resting=is_resting)
                    assert groups == [list(await store.records(saga_id_of(number), service)) for number in numbers]
        page = await store.open_sagas(SERVICE, saga_id_of(3), 1)
        assert ([group[0].saga_id for group in page.groups], page.looked_to) == ([saga_id_of(4)], saga_id_of(4))
        page = await store.open_sagas(SERVICE, None, 1, resting=True)
        assert (page.groups, page.looked_to) == ([], saga_id_of(1)), "an ended one was looked at"
        assert await store.open_sagas(SERVICE, saga_id_of(4), 50) == ([], None)


async def _all_open(store: AnyStore, service: str, limit: int, *, resting: bool) -> list[list[Record]]:
    found, after = list[list[Record]](), None
    for _ in range(20):
        page = await store.open_sagas(service, after, limit, resting=resting)
        found += map(list, page.groups)
        after = page.looked_to
        if after is None:
            return found
    raise AssertionError(f"pages of {limit} do not come to an end")


def _done(number: int, step: int = 1, **changes: object) -> Record:
    full = {"inputs": {0: b"{}"}, "results": {0: b"{}"}, "kept": b"{}", "due_ms": 5, "nudges": 2, "choice": 1, "announced": 1}
    return make_record(number, **{"state": State.DONE, "step": step, **full, **changes})


_WORD = Resolution("done", "ops@example.org", "called the bank", 3, 1, 1)


def _ends(record: Record, told: int = 0, *, heard: bool = False) -> Completion:
    return Completion(record.record_key, record.origin, record.deadline_ms, told, heard)


async def _complete(harness: StoreHarness) -> None:
    plain = [
        _done(1),
        _done(2, state=State.SKIPPED),
        _done(2, 2, deadline_ms=77),
        _done(3, announced=0),
        _done(4, error="E", attempt=2),
        _done(5, announced=0),
        _done(6, resolution=_WORD),
    ]
    async with harness.store() as store:
        await save(store, *plain)
        await store.mark_announced(SERVICE, [AnnouncedMark(record.record_key, record.announced) for record in plain])
        ends = [_ends(record, told=1) for record in plain[:5]] + [_ends(record, heard=True) for record in plain[5:]]
        async with store.transaction() as transaction:
            ended = await transaction.complete(SERVICE, ends, _NOW_MS)
            await transaction.commit()
        assert set(ended) == {saga_id_of(number) for number in range(1, 7)}
        for record, end in zip(plain, ends, strict=True):
            after = completed(record, end, _NOW_MS)
            assert after is not None
            assert after in await stored(store, record.saga_id.int & 0xFFFF)
            assert (after.row.outcome, after.version, after.announced) == (Outcome.COMPLETED, 2, 2)


async def _complete_not(harness: StoreHarness) -> None:
    """What has more to it stays as it is, and its saga is left to the caller."""
    others = [
        _done(1, state=State.WAITING),
        _done(2, state=State.RUNNING),
        _done(3, abort=True),
        _done(4, lock="customer:7"),
        _done(5, announced=0),
        _done(6, origin="somebody"),
        _done(7, deadline_ms=99),
        _done(8, state=State.DONE, outcome=Outcome.ABORTED),
        _done(9, service="other"),
        _done(10, announced=0, resolution=_WORD),
    ]
    ends = [_ends(_done(number), heard=number == 10) for number in range(1, 12)]
    async with harness.store() as store:
        await save(store, *others)
        marks = [AnnouncedMark(record.record_key, 1) for record in others if record.announced]
        await store.mark_announced(SERVICE, marks)
        async with store.transaction() as transaction:
            assert set(await transaction.complete(SERVICE, ends, _NOW_MS)) == set()
            await transaction.commit()
        for record in others:
            assert [replace(one, announced=record.announced) for one in await stored(store, record.saga_id.int & 0xFFFF)] == [
                record
            ]


async def _complete_in_part(harness: StoreHarness) -> None:
    half, whole = [_done(1), _done(1, 2, state=State.WAITING)], [_done(2), _done(2, ORIGIN, state=State.COMPLETED)]
    whole[1] = replace(whole[1], row=whole[1].row._replace(outcome=Outcome.COMPLETED))
    async with harness.store() as store:
        await save(store, *half, *whole, _done(3))
        await store.mark_announced(SERVICE, [AnnouncedMark(record.record_key, 1) for record in (*half, *whole, _done(3))])
        ends = [_ends(record) for record in (half[0], half[1], whole[0], _done(3), _done(3, 2))]
        for _ in range(2):  # told twice, the second changes nothing
            async with store.transaction() as transaction:
                assert set(await transaction.complete(SERVICE, ends, _NOW_MS)) == {saga_id_of(2)}
                await transaction.commit()
            async with store.transaction() as transaction:  # somebody else's saga: it has ended, but not by this
                others = [_ends(replace(whole[0], origin="somebody")), _ends(replace(whole[0], deadline_ms=9))]
                assert [set(await transaction.complete(SERVICE, [end], _NOW_MS)) for end in others] == [set(), set()]
        assert [record.version for record in await stored(store, 1)] == [2, 1]
        assert [record.version for record in await stored(store, 2)] == [1, 2]
        assert [record.version for record in await stored(store, 3)] == [2], "its other record is not there"


async def _complete_rolled_back(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, _done(1))
        await store.mark_announced(SERVICE, [AnnouncedMark(_done(1).record_key, 1)])
        async with store.transaction() as transaction:
            await transaction.complete(SERVICE, [_ends(_done(1))], _NOW_MS)
        assert list(await stored(store, 1)) == [_done(1)]


SAGA_BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("a new key takes its saga's first record along, a known one does not", _register_with_record),
    Behaviour("a start that is rolled back leaves neither key nor record", _register_with_record_rolled_back),
    Behaviour("a start in the caller's transaction has one answer, again and again", _join_register, ("join",)),
    Behaviour("the origin rows of many sagas come in one look", _origins),
    Behaviour("open sagas are listed oldest first, page by page, those with a timer and those without", _open),
    Behaviour("the good end of many sagas is recorded at once, as it would be one by one", _complete),
    Behaviour("a good end leaves alone what has more to it", _complete_not),
    Behaviour("a saga that has ended in part only is left to the caller", _complete_in_part),
    Behaviour("an end that is rolled back leaves nothing", _complete_rolled_back),
)
