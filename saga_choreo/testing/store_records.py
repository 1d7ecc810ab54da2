"""How records are kept: every column, versions, claims, conflicts, rollback and savepoints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from saga_choreo.errors import SagaError, StoreConflict
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State
from saga_choreo.ports import AnnouncedMark
from saga_choreo.testing.store_harness import SERVICE, AnyStore, Behaviour, StoreHarness, make_record, saga_id_of

__all__ = ["RECORD_BEHAVIOURS", "save", "stored"]


async def save(store: AnyStore, *records: Record) -> None:
    """Save in a transaction of its own."""
    async with store.transaction() as transaction:
        await transaction.save(records)
        await transaction.commit()


async def stored(store: AnyStore, number: int) -> Sequence[Record]:
    return await store.records(saga_id_of(number))


def _full_record() -> Record:
    row = Row(
        state=State.COMPENSATING,
        parked=Parked.HUMAN,
        pending=True,
        abort=True,
        vetoer=True,
        debt=True,
        key_no=3,
        done_in=1 << 63,
        skip_in=(1 << 64) - 1,
        clear_in=(1 << 63) | 1,
        choice=1 << 62,
        cancel=Cancel.ASKED | Cancel.HEARD,
        cause=Cause.TIMED_OUT,
        attempt=7,
        outcome=Outcome.ABORTED,
        operator="ana",
    )
    return replace(
        make_record(),
        row=row,
        key="ORDER-ü-7712",
        deadline_ms=1_900_000_000_000,
        inputs={0: b"{}", 63: b"\x00\xff"},
        results={2: b'{"a":1}'},
        kept=b"",
        undo_result=b"undone",
        reason="card declined 'x'",
        error="line\nline",
        trace="00-abc-def-01",
        due_ms=5,
        lease_ms=6,
        tried_since_ms=4,
        lock="customer:ü-1",
        nudges=2,
        announced=1,
    )


async def _round_trip(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, _full_record())
        assert list(await stored(store, 0)) == [_full_record()]
        changed = replace(make_record(), version=2, announced=2)
        await save(store, changed)
        assert list(await stored(store, 0)) == [changed], "a change writes every column, back to its default too"


async def _new_record_twice(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, make_record())
        await _conflicts(store, make_record(reason="second"))
        assert (await stored(store, 0))[0].reason == ""


async def _old_version(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, make_record())
        await save(store, make_record(version=2))
        await _conflicts(store, make_record(version=2, reason="late"))
        await _conflicts(store, make_record(version=4, reason="early"))
        await _conflicts(store, make_record(5, version=2))
        assert [r.version for r in await stored(store, 0)] == [2]
        assert list(await stored(store, 5)) == []


async def _conflicts(store: AnyStore, record: Record) -> None:
    try:
        await save(store, record)
    except StoreConflict:
        return
    raise AssertionError(f"version {record.version} of {record.record_key} was saved although it does not follow the stored one")


async def _conflict_undoes_all(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, make_record())
        async with store.transaction() as transaction:
            await transaction.append(counters={(SERVICE, "n"): 1})
            await _expect_conflict(transaction.save([make_record(1), make_record(2), make_record(0)]))
            await _expect_conflict(transaction.commit())
        assert list(await stored(store, 1)) == []
        assert dict(await store.counters()) == {}


async def _expect_conflict(work: object) -> None:
    try:
        await work  # type: ignore[misc]  # any awaitable
    except StoreConflict:
        return
    raise AssertionError("StoreConflict was not raised")


async def _rollback(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            await transaction.save([make_record()])
            await transaction.append(counters={(SERVICE, "n"): 1})
        try:
            async with store.transaction() as transaction:
                await transaction.save([make_record(1)])
                raise LookupError("the handler failed")
        except LookupError:
            pass
        assert list(await stored(store, 0)) == []
        assert list(await stored(store, 1)) == []
        assert dict(await store.counters()) == {}


async def _claim(harness: StoreHarness) -> None:
    async with harness.store() as store:
        mine = [make_record(2), make_record(1, step=3), make_record(1, step=ORIGIN), make_record(1, definition="c" * 64)]
        await save(store, *mine, make_record(1, service="other"), make_record(3))
        async with store.transaction() as transaction:
            claimed = await transaction.claim(SERVICE, [saga_id_of(n) for n in (2, 1, 9, 1)])
            assert list(claimed) == sorted(mine, key=lambda r: r.record_key)
            assert list(await transaction.claim(SERVICE, [])) == []


async def _claim_sees_own(harness: StoreHarness) -> None:
    async with harness.store() as store, store.transaction() as transaction:
        await transaction.save([make_record()])
        assert list(await transaction.claim(SERVICE, [saga_id_of(0)])) == [make_record()]


async def _serialised(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, make_record())
        done = await asyncio.gather(*(_raise_attempt(store) for _ in range(20)))
        record = (await stored(store, 0))[0]
        assert record.row.attempt == sum(done), "an update was lost"
        assert record.version == 1 + sum(done)


async def _raise_attempt(store: AnyStore) -> int:
    try:
        async with store.transaction() as transaction:
            (record,) = await transaction.claim(SERVICE, [saga_id_of(0)])
            await asyncio.sleep(0)
            row = record.row._replace(attempt=record.row.attempt + 1)
            await transaction.save([replace(record, row=row, version=record.version + 1)])
            await transaction.commit()
    except StoreConflict:
        return 0
    return 1


async def _one_insert_wins(harness: StoreHarness) -> None:
    await _insert_twice(harness, claim_first=True)


async def _one_blind_insert_wins(harness: StoreHarness) -> None:
    await _insert_twice(harness, claim_first=False)


async def _insert_twice(harness: StoreHarness, *, claim_first: bool) -> None:
    async with harness.store() as store:

        async def insert(reason: str) -> str:
            try:
                async with store.transaction() as transaction:
                    if claim_first:
                        await transaction.claim(SERVICE, [saga_id_of(0)])
                    await asyncio.sleep(0)
                    await transaction.save([make_record(reason=reason)])
                    await asyncio.sleep(0)
                    await transaction.commit()
            except StoreConflict:
                return ""
            return reason

        winners = [reason for reason in await asyncio.gather(insert("a"), insert("b")) if reason]
        assert len(winners) == 1
        assert [r.reason for r in await stored(store, 0)] == winners


async def _two_clients(harness: StoreHarness) -> None:
    async with harness.store() as first, harness.store() as second:
        await save(first, make_record())
        assert list(await stored(second, 0)) == [make_record()]
        await save(second, make_record(version=2))
        await _conflicts(first, make_record(version=2))


async def _crossed_claims(harness: StoreHarness) -> None:
    """Two transactions that claim the same sagas in opposite order end, both or one of them."""
    async with harness.store() as store:
        await save(store, make_record(1), make_record(2))

        async def both(first: int, second: int) -> bool:
            try:
                async with store.transaction() as transaction:
                    await transaction.claim(SERVICE, [saga_id_of(first)])
                    await asyncio.sleep(0.01)
                    await transaction.claim(SERVICE, [saga_id_of(second)])
                    await transaction.commit()
            except StoreConflict:
                return False
            return True

        async with asyncio.timeout(20):
            assert any(await asyncio.gather(both(1, 2), both(2, 1)))


async def _announced_never_lower(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await save(store, make_record())
        await save(store, make_record(version=2))
        await store.mark_announced(SERVICE, [AnnouncedMark(make_record().record_key, 2)])
        await save(store, make_record(version=3, announced=1))
        assert [(r.version, r.announced) for r in await stored(store, 0)] == [(3, 2)]


async def _savepoint(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            await transaction.save([make_record(1)])
            try:
                async with transaction.savepoint():
                    await transaction.save([make_record(2)])
                    await transaction.append(counters={(SERVICE, "inside"): 1})
                    raise LookupError("refused")
            except LookupError:
                pass
            async with transaction.savepoint():
                await transaction.save([make_record(3)])
            await transaction.append(counters={(SERVICE, "outside"): 1})
            await transaction.commit()
        assert [len(await stored(store, number)) for number in (1, 2, 3)] == [1, 0, 1]
        assert dict(await store.counters()) == {"outside": 1}


async def _nested_savepoints(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            try:
                async with transaction.savepoint():
                    await transaction.save([make_record(1)])
                    async with transaction.savepoint():
                        await transaction.save([make_record(2)])
                    raise LookupError("the outer one fails")
            except LookupError:
                pass
            async with transaction.savepoint():
                try:
                    async with transaction.savepoint():
                        await transaction.save([make_record(3)])
                        raise LookupError("the inner one fails")
                except LookupError:
                    pass
                await transaction.save([make_record(4)])
            await transaction.commit()
        assert [len(await stored(store, number)) for number in (1, 2, 3, 4)] == [0, 0, 0, 1]


async def _over(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            await transaction.save([make_record()])
            await transaction.commit()
            await _refused(transaction.save([make_record(1)]))
            await _refused(transaction.commit())
        await _refused(transaction.append(counters={(SERVICE, "n"): 1}))
        assert list(await stored(store, 1)) == []


async def _refused(work: object) -> None:
    try:
        await work  # type: ignore[misc]  # any awaitable
    except SagaError:
        return
    raise AssertionError("a transaction that is over could still be used")


async def _large_batch(harness: StoreHarness) -> None:
    async with harness.store() as store:
        batch = [make_record(n, inputs={0: b"x" * 65_536} if n % 100 == 0 else {}) for n in range(1_000)]
        await save(store, *batch)
        async with store.transaction() as transaction:
            claimed = await transaction.claim(SERVICE, [record.saga_id for record in reversed(batch)])
            assert list(claimed) == batch
            await transaction.save([replace(record, version=2) for record in claimed])
            await transaction.commit()
        assert [r.version for r in await stored(store, 999)] == [2]


async def _empty_commit(harness: StoreHarness) -> None:
    async with harness.store() as store:
        async with store.transaction() as transaction:
            await transaction.save([])
            await transaction.append()
            await transaction.commit()
        assert list(await store.records(saga_id_of(0))) == []


RECORD_BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("every column comes back as it was saved, masks with bit 63 included", _round_trip),
    Behaviour("a new record that exists already is a conflict", _new_record_twice),
    Behaviour("a version that does not follow the stored one is a conflict", _old_version),
    Behaviour("a conflict leaves nothing of its transaction", _conflict_undoes_all),
    Behaviour("a rollback leaves nothing", _rollback),
    Behaviour("a claim returns the service's records of these sagas in key order", _claim),
    Behaviour("a claim sees what its own transaction has saved", _claim_sees_own),
    Behaviour("transactions on one saga are serialised or conflict, never both kept", _serialised),
    Behaviour("of two inserts of the same record one wins", _one_insert_wins),
    Behaviour("of two inserts that claimed nothing one wins", _one_blind_insert_wins),
    Behaviour("two clients see and respect each other's commits", _two_clients, ("two_clients",)),
    Behaviour("crossed claims end", _crossed_claims),
    Behaviour("saving a record never lowers what is announced", _announced_never_lower),
    Behaviour("a savepoint undoes only its own records and counters", _savepoint),
    Behaviour("nested savepoints undo what is inside them", _nested_savepoints),
    Behaviour("a transaction that is over refuses further use", _over),
    Behaviour("a thousand records with payloads go through one transaction", _large_batch),
    Behaviour("a transaction that does nothing commits", _empty_commit),
)
