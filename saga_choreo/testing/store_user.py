"""The user's own writes beside the records: one transaction, one savepoint, one fate. And joining the caller's."""

from __future__ import annotations

import asyncio

from saga_choreo.errors import ConfigurationError, SagaError, StoreConflict, StoreVersionError
from saga_choreo.ports import BusinessKey, UserTx
from saga_choreo.testing.store_harness import NOTES, SERVICE, Behaviour, StoreHarness, make_record, saga_id_of
from saga_choreo.testing.store_records import save, stored

__all__ = ["USER_BEHAVIOURS"]


async def _together(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await harness.prepare(store)
        for commit in (False, True):
            async with store.transaction() as transaction:
                await harness.note(store, transaction, "charged")
                await transaction.save([make_record()])
                await transaction.append(counters={(SERVICE, "n"): 1})
                if commit:
                    await transaction.commit()
            assert await harness.notes(store) == ["charged"] * commit
            assert len(await stored(store, 0)) == commit
            assert (await store.counters()).get("n", 0) == commit


async def _savepoint(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await harness.prepare(store)
        async with store.transaction() as transaction:
            await harness.note(store, transaction, "before")
            try:
                async with transaction.savepoint():
                    await harness.note(store, transaction, "inside")
                    await transaction.save([make_record(1)])
                    raise LookupError("refused")
            except LookupError:
                pass
            async with transaction.savepoint():
                await harness.note(store, transaction, "after")
            await transaction.commit()
        assert await harness.notes(store) == ["before", "after"]
        assert len(await stored(store, 1)) == 0


async def _cancelled(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await harness.prepare(store)
        inside = asyncio.Event()

        async def handler() -> None:
            async with store.transaction() as transaction, transaction.savepoint():
                await harness.note(store, transaction, "lost")
                await transaction.save([make_record()])
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(handler())
        await inside.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        await save(store, make_record(1))
        assert await harness.notes(store) == []
        assert len(await stored(store, 0)) == 0


async def _conflict(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await harness.prepare(store)
        await save(store, make_record())
        try:
            async with store.transaction() as transaction:
                await harness.note(store, transaction, "lost")
                await transaction.save([make_record()])
                await transaction.commit()
        except StoreConflict:
            pass
        assert await harness.notes(store) == []


async def _late_use(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await harness.prepare(store)
        async with store.transaction() as transaction:
            user = transaction.user
            await harness.note(store, transaction, "kept")
            await transaction.commit()
        try:
            await harness.note(store, transaction, "late")
        except SagaError:
            pass
        else:
            raise AssertionError("the user's side of a transaction that is over could still be written to")
        assert user is not None
        assert await harness.notes(store) == ["kept"]


async def _wrong_statement(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await harness.prepare(store)
        async with store.transaction() as transaction:
            await harness.note(store, transaction, "first")
            try:
                async with transaction.savepoint():
                    await harness.note(store, transaction, "undone")
                    await transaction.user.execute("no such statement")
            except StoreConflict:
                raise
            except Exception:  # noqa: BLE001, S110  (each driver has its own error; that it passes through is the point)
                pass
            await harness.note(store, transaction, "second")
            await transaction.commit()
        assert await harness.notes(store) == ["first", "second"]


async def _fetching(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await harness.prepare(store)
        sign = store.features.placeholder
        async with store.transaction() as transaction:
            user = transaction.user
            await user.executemany(f"INSERT INTO {NOTES} VALUES ({sign})", [("a",), ("b",)])  # noqa: S608  (constants)
            select = f"SELECT text, 1 FROM {NOTES} WHERE text >= {sign} ORDER BY text"  # noqa: S608  (constants)
            assert [tuple(row) for row in await user.fetch(select, "a")] == [("a", 1), ("b", 1)]
            first = await user.fetchrow(select, "b")
            assert first is not None
            assert tuple(first) == ("b", 1)
            assert await user.fetchval(select, "a") == "a"
            assert await user.fetchrow(select, "z") is None
            assert await user.fetchval(select, "z") is None
            assert await user.fetchval(f"INSERT INTO {NOTES} VALUES ({sign}) RETURNING text", "c") == "c"  # noqa: S608  (constants)
            await transaction.commit()
        assert await harness.notes(store) == ["a", "b", "c"]


async def _ending_refused(harness: StoreHarness) -> None:
    async with harness.store() as store:
        await harness.prepare(store)
        words = (
            "COMMIT",
            "rollback",
            "BEGIN",
            "END",
            "SAVEPOINT mine",
            "/* x */ commit",
            f"INSERT INTO {NOTES} VALUES ('a'); COMMIT",  # noqa: S608  (a constant)
        )
        async with store.transaction() as transaction:
            await transaction.save([make_record()])
            for word in words:
                await _refuses(transaction.user, word)
        assert len(await stored(store, 0)) == 0, "the record was committed by a user's statement"
        assert await harness.notes(store) == []


async def _refuses(user: UserTx, statement: str) -> None:
    try:
        await user.execute(statement)
    except ConfigurationError:
        return
    raise AssertionError(f"{statement!r} was let through inside a step's transaction")


async def _waits_for_writer(harness: StoreHarness) -> None:
    """A transaction that has not begun holds nothing; one that waits does not stop the event loop."""
    async with harness.store() as first, harness.store() as second:
        await harness.prepare(first)
        async with second.transaction() as idle:
            await save(first, make_record())
            beats = 0

            async def late() -> None:
                await idle.save([make_record(1)])
                await idle.commit()

            async with first.transaction() as holder:
                await holder.save([make_record(2)])
                task = asyncio.create_task(late())
                while beats < 50:
                    await asyncio.sleep(0.001)
                    beats += 1
                assert not task.done()
                await holder.commit()
            await task
        assert [len(await stored(first, n)) for n in (0, 1, 2)] == [1, 1, 1]


async def _join_rollback(harness: StoreHarness) -> None:
    assert harness.own_connection is not None
    async with harness.store() as store:
        await harness.prepare(store)
        async with harness.own_connection() as own:
            joined = store.join(own.raw)
            await joined.save([make_record()])
            await harness.note(store, joined, "joined")
            await joined.register(BusinessKey(service=SERVICE, choreography="c", key="k", saga_id=saga_id_of(0), digest=""))
            await joined.commit()
            await own.rollback()
        assert len(await stored(store, 0)) == 0
        assert await harness.notes(store) == []
        assert list(await store.key("", "", "k")) == []


async def _join_commit(harness: StoreHarness) -> None:
    assert harness.own_connection is not None
    async with harness.store() as store:
        await harness.prepare(store)
        async with harness.own_connection() as own:
            joined = store.join(own.raw)
            await joined.save([make_record()])
            await harness.note(store, joined, "joined")
            await joined.commit()
            assert len(await stored(store, 0)) == 0, "the toolkit committed the caller's transaction"
            await own.commit()
        assert len(await stored(store, 0)) == 1
        assert await harness.notes(store) == ["joined"]


async def _join_conflict(harness: StoreHarness) -> None:
    assert harness.own_connection is not None
    async with harness.store() as store:
        await harness.prepare(store)
        await save(store, make_record())
        async with harness.own_connection() as own:
            joined = store.join(own.raw)
            await harness.note(store, joined, "mine")
            try:
                await joined.save([make_record(1), make_record()])
            except StoreConflict:
                pass
            else:
                raise AssertionError("StoreConflict was not raised")
            await own.commit()
        assert await harness.notes(store) == ["mine"], "the caller's own work is the caller's to undo"
        assert len(await stored(store, 1)) == 0


async def _join_nonsense(harness: StoreHarness) -> None:
    async with harness.store() as store:
        for nonsense in (object(), None, "connection"):
            try:
                store.join(nonsense)
            except ConfigurationError:
                continue
            raise AssertionError(f"{nonsense!r} was accepted as a connection")


async def _newer_schema(harness: StoreHarness) -> None:
    assert harness.make_newer is not None
    async with harness.store() as store:
        await save(store, make_record())
    await harness.make_newer()
    for migrate in (True, False):
        store = harness.make()
        try:
            await store.open(migrate=migrate)
        except StoreVersionError as error:
            said = str(error)
        else:
            await store.close()
            raise AssertionError("a store with a newer schema was opened")
        assert "upgrade" in said


async def _unmigrated(harness: StoreHarness) -> None:
    store = harness.make()
    try:
        await store.open(migrate=False)
    except ConfigurationError:
        pass
    else:
        await store.close()
        raise AssertionError("a store without tables was opened although nothing may be made")
    async with harness.store():
        pass
    second = harness.make()
    await second.open(migrate=False)
    await second.close()


_USER = ("user_transaction",)
USER_BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("a user's write, the record and the counters share one commit", _together, _USER),
    Behaviour("a savepoint undoes the user's writes and records inside it only", _savepoint, _USER),
    Behaviour("a cancelled transaction leaves nothing and holds nothing", _cancelled, _USER),
    Behaviour("a conflict undoes the user's writes too", _conflict, _USER),
    Behaviour("ctx.tx refuses use after its transaction is over", _late_use, _USER),
    Behaviour("a user's wrong statement leaves the transaction usable", _wrong_statement, _USER),
    Behaviour("a user can fetch rows, a row and a value", _fetching, ("sql",)),
    Behaviour("a user's COMMIT, ROLLBACK, BEGIN or SAVEPOINT is refused", _ending_refused, ("sql",)),
    Behaviour("waiting for another writer does not stop the event loop", _waits_for_writer, ("two_clients", "one_writer")),
    Behaviour("a joined transaction leaves nothing when the caller rolls back", _join_rollback, ("join",)),
    Behaviour("a joined transaction is kept when the caller commits, and only then", _join_commit, ("join",)),
    Behaviour("a conflict in a joined transaction undoes the toolkit's part only", _join_conflict, ("join",)),
    Behaviour("joining anything else is refused", _join_nonsense),
    Behaviour("a newer schema is refused with advice", _newer_schema, ("versions",)),
    Behaviour("a missing schema is refused when nothing may be migrated", _unmigrated, ("versions",)),
)
