"""What people do with dead letters, and replay jobs as rows: for stores that say `features.letters`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from saga_choreo.model.record import Failure
from saga_choreo.ports import Held, ItemState, Job, JobItem, Jobs, JobState, LetterFilter, Letters, Parked, Quarantined
from saga_choreo.testing.store_harness import SERVICE, AnyStore, Behaviour, StoreHarness, make_record, saga_id_of
from saga_choreo.testing.store_records import save, stored

__all__ = ["LETTER_BEHAVIOURS"]


class _Store(AnyStore, Letters, Jobs):
    """What a store is that says `features.letters`."""


def _letters_of(store: AnyStore) -> _Store:
    return cast("_Store", store)


def _letter(number: int, /, **changes: object) -> Quarantined:
    made = Quarantined(
        service=SERVICE,
        code="stale",
        detail=f"too old: {number}",
        channel="event.order.created",
        headers={"ce_type": "ü", "n": str(number)},
        body=bytes([number, 0, 255]),
        received_ms=1_000 + number,
        saga_id=str(saga_id_of(number)),
        agent="a1b2",
        version="0.1.0",
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


async def _put(store: AnyStore, *letters: Quarantined) -> list[Quarantined]:
    """Through the pipeline's own door; as stored, the oldest first."""
    async with store.transaction() as transaction:
        await transaction.append(quarantined=letters)
        await transaction.commit()
    return list(reversed(await _letters_of(store).letters(LetterFilter())))


async def _numbers(store: AnyStore, wanted: LetterFilter) -> list[int]:
    """The first byte of each body: which ones came."""
    return [letter.body[0] for letter in await _letters_of(store).letters(wanted)]


async def _finding(harness: StoreHarness) -> None:
    async with harness.store() as store:
        kept = await _put(store, *(_letter(n) for n in range(1, 6)), _letter(6, service="other"))
        assert [replace(one, number=0) for one in kept[:5]] == [_letter(n) for n in range(1, 6)], "as they came"
        assert await _numbers(store, LetterFilter()) == [6, 5, 4, 3, 2, 1]
        assert await _numbers(store, LetterFilter(service=SERVICE, limit=2)) == [5, 4]
        assert await _numbers(store, LetterFilter(service=SERVICE, before=kept[3].number)) == [3, 2, 1]
        assert await _numbers(store, LetterFilter(saga_id=str(saga_id_of(2)))) == [2]
        assert await _numbers(store, LetterFilter(numbers=(kept[0].number, kept[2].number, 9_999))) == [3, 1]
        assert await _numbers(store, LetterFilter(state="archived")) == []


async def _moving(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        one, two, _ = await _put(opened, _letter(1), _letter(2), _letter(3))
        assert await store.move_letters([one.number, two.number, 9_999], "open", "archived", "ana", "ticket “ü”", 5_000) == 2
        assert await store.move_letters([one.number], "open", "resolved", "ben", "", 6_000) == 0, "it is not open any more"
        assert await _numbers(opened, LetterFilter(state="open")) == [3]
        (found,) = await store.letters(LetterFilter(numbers=(one.number,)))
        assert (found.state, found.operator, found.note, found.state_ms) == ("archived", "ana", "ticket “ü”", 5_000)
        assert (found.body, found.headers) == (one.body, one.headers)
        assert await store.move_letters([one.number], "archived", "open", "ben", "again", 7_000) == 1
        assert await _numbers(opened, LetterFilter(state="open")) == [3, 1]


async def _again(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        one, _ = await _put(opened, _letter(1), _letter(2))
        await store.tried_again([(one.number, "inapplicable", "no such step")], 9_000)
        await store.tried_again([(one.number, "stale", "too old again"), (9_999, "stale", "not there")], 9_500)
        (found,) = await store.letters(LetterFilter(numbers=(one.number,)))
        assert (found.code, found.detail, found.attempts, found.last_ms) == ("stale", "too old again", 3, 9_500)
        assert (found.received_ms, found.state) == (one.received_ms, "open")


async def _importing(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        await _put(opened, _letter(1))
        brought = [_letter(1, number=77), _letter(2, number=78), _letter(2, service="other"), _letter(2, received_ms=1)]
        assert await store.add_letters(brought) == 3, "what is there already is not brought in again"
        assert await store.add_letters(brought) == 0
        assert len(await store.letters(LetterFilter())) == 4
        assert len({one.number for one in await store.letters(LetterFilter())}) == 4


async def _importing_at_once(harness: StoreHarness) -> None:
    async with harness.store() as first, harness.store() as second:
        brought = [_letter(n) for n in range(1, 9)]
        added = await asyncio.gather(*(_letters_of(store).add_letters(brought) for store in (first, second)))
        assert sum(added) == 8
        assert len(await _letters_of(first).letters(LetterFilter())) == 8


async def _deleting(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        one, two = await _put(opened, _letter(1), _letter(2))
        await store.move_letters([one.number], "open", "archived", "ana", "", 5_000)
        assert await store.delete_letters([one.number, two.number], "archived") == 1, "only what was put aside before"
        assert await _numbers(opened, LetterFilter()) == [2]


async def _forgetting(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        before_ms = saga_id_of(10).int >> 80
        made = [_letter(n, received_ms=before_ms - 10 + n) for n in range(1, 5)]
        archived, resolved, restored, _ = await _put(opened, *made)
        await store.move_letters([archived.number], "open", "archived", "ana", "", before_ms - 5)
        await store.move_letters([resolved.number], "open", "resolved", "ana", "", before_ms - 5)
        await store.move_letters([restored.number], "open", "archived", "ana", "", before_ms - 5)
        await store.move_letters([restored.number], "archived", "open", "ana", "", before_ms + 5)
        while await opened.forget(SERVICE, saga_id_of(10), 1):
            pass
        assert await _numbers(opened, LetterFilter()) == [3, 1], "what a person put aside, or took up again, is kept"


async def _waiting(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        held = [Held(service=SERVICE, definition="aa", channel="c", headers={}, body=b"b", received_ms=n) for n in (1, 2)]
        async with opened.transaction() as transaction:
            await transaction.append(held=held)
            await transaction.commit()
        assert list(await store.waiting("", 10)) == []
        first = (await opened.untold(SERVICE, 2, 10))[0]
        await opened.mark_told(SERVICE, [first.number])
        assert [one.number for one in await store.waiting(SERVICE, 10)] == [first.number]
        assert list(await store.waiting("other", 10)) == []


async def _failure(harness: StoreHarness) -> None:
    why = Failure("ValueError", "shop.pay:charge\nshop.bank:call", 1_000, 2_000, "a1b2", "0.1.0")
    async with harness.store() as store:
        await save(store, make_record(1, parked=Parked.PARKED, error="ValueError: “ü”", failure=why), make_record(2))
        assert [record.failure for number in (1, 2) for record in await stored(store, number)] == [why, None]
        await save(store, make_record(1, version=2))
        assert [record.failure for record in await stored(store, 1)] == [None]


def _job(number: int, /, **changes: object) -> Job:
    made = Job(id=f"job-{number}", service=SERVICE, operator="ana", reason="“ü”", total=3, created_ms=10, rate_per_min=60)
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


def _items(job: str, *states: ItemState) -> Sequence[JobItem]:
    return [JobItem(job=job, place=place, letter=f"m{place}", state=state) for place, state in enumerate(states)]


async def _jobs(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        made = [_job(1), _job(2, finished_ms=99, state=JobState.DONE), _job(3, service="other"), _job(4)]
        for job in made:
            await store.add_job(job, _items(job.id, ItemState.STAGED))
        assert list(await store.jobs()) == made[::-1], "newest first, as they were made"
        assert [job.id for job in await store.jobs(SERVICE, active=True)] == ["job-4", "job-1"]
        assert [job.id for job in await store.jobs(SERVICE, limit=1)] == ["job-4"]
        assert [job.id for job in await store.jobs(id_="job-3")] == ["job-3"]
        assert list(await store.jobs(id_="job-9")) == []


async def _changing_jobs(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        await store.add_job(_job(1), _items("job-1", ItemState.STAGED))
        mine = _job(1, owner="a", lease_ms=50, version=2)
        assert await store.save_job(mine)
        assert not await store.save_job(replace(mine, owner="b")), "two agents want it, one of them gets it"
        assert not await store.save_job(_job(2, version=2)), "there is no such job"
        assert list(await store.jobs()) == [mine]


async def _job_items(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        await store.add_job(_job(1), _items("job-1", ItemState.STAGED, ItemState.RUNNING, ItemState.STAGED, ItemState.FAILED))
        await store.add_job(_job(2), _items("job-2", ItemState.STAGED))
        assert dict(await store.item_counts("job-1")) == {"staged": 2, "running": 1, "failed": 1}
        both = (ItemState.STAGED, ItemState.RUNNING)
        assert [item.place for item in await store.items("job-1", both)] == [0, 1, 2]
        assert [item.place for item in await store.items("job-1", both, after=0, limit=1)] == [1]
        assert [item.place for item in await store.items("job-1", after=1)] == [2, 3]
        changed = replace(_items("job-1", ItemState.RESOLVED)[0], detail="applied “ü”", tries=2, round=1, changed_ms=9)
        assert not await store.save_items("job-1", "somebody", [changed]), "it is not theirs"
        assert await store.save_job(_job(1, owner="a", version=2))
        assert await store.save_items("job-1", "a", [changed])
        assert (await store.items("job-1"))[0] == changed
        assert len(await store.items("job-1")) == 4


async def _forgetting_jobs(harness: StoreHarness) -> None:
    async with harness.store() as opened:
        store = _letters_of(opened)
        before_ms = saga_id_of(10).int >> 80
        three = (ItemState.RESOLVED, ItemState.RESOLVED, ItemState.FAILED)
        for job in (_job(1, finished_ms=before_ms - 1), _job(2, finished_ms=before_ms), _job(3)):
            await store.add_job(job, _items(job.id, *three))
        assert await opened.forget(SERVICE, saga_id_of(10), 2) == 2, "bounded by the limit"
        while await opened.forget(SERVICE, saga_id_of(10), 2):
            pass
        assert [job.id for job in await store.jobs()] == ["job-3", "job-2"]
        assert [len(await store.items(f"job-{number}")) for number in (1, 2, 3)] == [0, 3, 3]


_NEEDS = ("letters",)
LETTER_BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("letters are found by service, state, saga and number, newest first, page by page", _finding, _NEEDS),
    Behaviour("a letter is put aside and taken up again, by whom and why is kept", _moving, _NEEDS),
    Behaviour("a letter that still cannot be applied says why, and how often it was tried", _again, _NEEDS),
    Behaviour("letters are brought in once, however often it is done", _importing, _NEEDS),
    Behaviour("letters brought in from two sides at once are there once", _importing_at_once, (*_NEEDS, "two_clients")),
    Behaviour("only letters that were put aside are deleted", _deleting, _NEEDS),
    Behaviour("forgetting keeps letters that a person put aside or took up again", _forgetting, _NEEDS),
    Behaviour("messages on hold are letters once they were told of", _waiting, _NEEDS),
    Behaviour("why a step failed is kept with its record until it succeeds", _failure),
    Behaviour("jobs are listed newest first, by service and whether they are over", _jobs, _NEEDS),
    Behaviour("a job is changed only by who has read its last version", _changing_jobs, _NEEDS),
    Behaviour("items of a job are counted, paged, and written by its owner only", _job_items, _NEEDS),
    Behaviour("jobs that are over are forgotten with their items, bounded by the limit", _forgetting_jobs, _NEEDS),
)
