"""What is Redis' own in its dead letters and jobs: indexes that must not outlive their rows, words that meet, long jobs, old rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from saga_choreo.errors import StoreConflict
from saga_choreo.ports import ItemState, Job, JobItem, LetterFilter, Quarantined
from saga_choreo.testing.stores import saga_id_of
from saga_choreo_redis.keys import Keys, letter_block
from saga_choreo_redis.link import Link
from saga_choreo_redis.packing import pack_quarantined, quarantined_of
from saga_choreo_redis.place import place_of
from saga_choreo_redis.scripts import DROP_LETTERS
from saga_choreo_redis.store import RedisStore
from tests.unit.stores.redis_support import commands, opened, run

Prefix = Callable[[], str]
BEFORE = saga_id_of(50)
BEFORE_MS = BEFORE.int >> 80


def letter(number: int) -> Quarantined:
    return Quarantined(
        service="payment",
        code="stale",
        detail="",
        channel="event.x",
        headers={"n": str(number)},
        body=b"\xff",
        received_ms=number,
        saga_id=str(saga_id_of(number)),
        agent="a1b2",
        version="0.1.0",
    )


async def quarantine(store: RedisStore, *letters: Quarantined) -> list[int]:
    async with store.transaction() as transaction:
        await transaction.append(quarantined=letters)
        await transaction.commit()
    return [one.number for one in reversed(await store.letters(LetterFilter()))]


def items(job: str, count: int, state: ItemState = ItemState.STAGED) -> Sequence[JobItem]:
    return [JobItem(job=job, place=place, letter=f"m{place}", state=state) for place in range(count)]


def job_of(number: int) -> Job:
    return Job(id=f"job-{number}", service="payment", operator="ana", reason="r", owner="a", created_ms=1)


async def names_left(url: str) -> set[bytes]:
    async with commands(url) as plain:
        return {key.partition(b"}:")[2] async for key in plain.scan_iter(match=f"{{{url.rpartition('=')[2]}}}:*")}


def test_nothing_is_left_on_the_server_of_letters_and_jobs_that_are_gone(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        url = redis_prefix()
        async with opened(url) as store:
            deleted, resolved, _ = await quarantine(store, letter(1), letter(2), letter(3))
            await store.tried_again([(deleted, "x", "y"), (resolved, "x", "y")], 5)
            assert await store.move_letters([deleted], "open", "archived", "ana", "", 5) == 1
            assert await store.move_letters([resolved], "open", "resolved", "ana", "", 5) == 1
            assert await store.delete_letters([deleted], "archived") == 1
            await store.add_job(job_of(1), items("job-1", 3))
            await store.save_items("job-1", "a", items("job-1", 2, ItemState.RESOLVED))
            await store.save_job(replace(job_of(1), version=2, finished_ms=5))
            assert {b"quarantine", b"moved", b"tried", b"job:job-1", b"items:job-1"} <= await names_left(url)
            assert await store.forget("payment", BEFORE, 100) == 2 + 3 + 1
            assert await names_left(url) == {b"meta", b"services"}

    run(scenario())


def test_of_two_who_move_the_same_letters_each_is_moved_by_one(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        url = redis_prefix()
        async with opened(url) as first, opened(url) as second:
            numbers = await quarantine(first, *map(letter, range(1, 41)))
            moves = [
                store.move_letters([number], "open", to, by, "", 9)
                for number in numbers
                for store, to, by in ((first, "archived", "ana"), (second, "resolved", "ben"))
            ]
            assert sum(await asyncio.gather(*moves)) == len(numbers)
            kept = await first.letters(LetterFilter())
            assert {(one.state, one.operator) for one in kept} <= {("archived", "ana"), ("resolved", "ben")}
            by_state = [await first.letters(LetterFilter(state=state)) for state in ("open", "archived", "resolved")]
            assert sorted(one.number for some in by_state for one in some) == numbers
            assert by_state[0] == []

    run(scenario())


def test_a_letter_that_was_put_aside_after_it_was_found_to_be_old_is_not_forgotten(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        url = redis_prefix()
        async with opened(url) as first, opened(url) as second:
            numbers = await quarantine(first, *map(letter, range(1, 101)))

            async def forget() -> int:
                return sum([await second.forget("payment", BEFORE, 7) for _ in range(20)])

            moved, gone = await asyncio.gather(first.move_letters(numbers[50:], "open", "archived", "ana", "", 9), forget())
            left = await first.letters(LetterFilter())
            assert (len(left), moved + gone) == (moved, 100)
            assert {one.state for one in left} <= {"archived"}
            assert [one.number for one in left] == [one.number for one in await first.letters(LetterFilter(state="archived"))]

    run(scenario())


def test_a_letter_that_was_taken_up_again_after_it_was_found_to_be_old_is_not_forgotten(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        url = redis_prefix()
        keys, link = Keys(url.rpartition("=")[2]), Link(place_of(url))
        async with opened(url) as store:
            old, restored = await quarantine(store, letter(1), letter(2))
            await store.move_letters([restored], "open", "archived", "ana", "", 5)
            await store.move_letters([restored], "archived", "open", "ana", "", 500)
            await link.open()
            named = [keys(name) for name in ("quarantine", "moved", "tried")] + letter_block(keys, "payment")
            # What forgetting asks for that saw both before the second was moved.
            gone = await link.run(DROP_LETTERS, named, ["", 100, old, 4, restored, 4])
            await link.close()
            assert gone == 1
            assert [one.number for one in await store.letters(LetterFilter())] == [restored]

    run(scenario())


def test_many_letters_of_several_services_are_walked_newest_first_without_a_gap(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        async with opened(redis_prefix()) as store:
            made = [replace(letter(number), service="abc"[number % 3]) for number in range(1, 651)]
            assert await store.add_letters(made) == 650
            assert await store.add_letters(made) == 0
            found = await store.letters(LetterFilter(limit=1000))
            assert [one.received_ms for one in found] == list(range(650, 0, -1))
            assert [one.received_ms for one in await store.letters(LetterFilter(saga_id=str(saga_id_of(2))))] == [2]
            third = await store.letters(LetterFilter(service="a", state="open", before=found[-100].number, limit=10))
            assert [one.received_ms for one in third] == list(range(99, 69, -3))
            assert await store.move_letters([one.number for one in found], "open", "archived", "ana", "", 9) == 650
            assert await store.delete_letters([one.number for one in found], "archived") == 650

    run(scenario())


def test_a_job_of_thousands_of_letters_is_staged_written_and_forgotten_whole(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        async with opened(redis_prefix()) as store:
            await store.add_job(job_of(1), items("job-1", 9_000))
            with pytest.raises(StoreConflict, match="nothing was saved"):
                await store.add_job(job_of(1), items("job-1", 1))
            assert await store.save_items("job-1", "a", items("job-1", 8_500, ItemState.RESOLVED))
            assert dict(await store.item_counts("job-1")) == {"staged": 500, "resolved": 8_500}
            assert not await store.save_items("job-9", "", items("job-9", 1)), "there is no such job"
            assert await store.save_job(replace(job_of(1), version=2, finished_ms=5))
            gone = Counter([await store.forget("payment", BEFORE, 4_000) for _ in range(4)])
            assert gone == Counter([4_000, 4_000, 1_001, 0])
            assert (list(await store.jobs()), list(await store.items("job-1"))) == ([], [])

    run(scenario())


def test_a_letter_kept_by_an_earlier_version_is_read_with_what_was_said_since() -> None:
    stored = pack_quarantined(letter(1)).replace(b'"agent":"a1b2",', b"").replace(b'"attempts":1,', b"")
    assert stored != pack_quarantined(letter(1))
    assert quarantined_of(1, stored, None, None) == replace(letter(1), number=1, agent="")
    said = quarantined_of(1, stored, b'[1,"archived",7,"ana","why","of a later version"]\n', b'2 [1,"x","y",9]\n')
    assert (said.state, said.state_ms, said.operator, said.note) == ("archived", 7, "ana", "why")
    assert (said.code, said.detail, said.attempts, said.last_ms) == ("x", "y", 3, 9)
