"""Replays followed to their outcome: what has come, what keeps failing, and what a person does about it."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from saga_choreo import SagaState
from saga_choreo.errors import Refused
from saga_choreo.ports import ItemState, JobState
from saga_choreo.runtime.deadletters.find import WantedLetters
from saga_choreo.runtime.deadletters.letter import LetterKind
from saga_choreo.runtime.deadletters.preflight import Verdict
from tests.scenarios.letters import ASK, all_of_them, ended, old_messages, replay, states, stored_messages
from tests.scenarios.parking import parked, parks_external, parks_local, parks_undo
from tests.scenarios.world import Go, World, chain, eventually, run

DAY_MS = 86_400_000


@pytest.mark.parametrize("parks", [parks_local, parks_external])
def test_a_parked_step_is_replayed_to_the_end_of_its_saga(place: tuple[str, str], parks: object) -> None:
    async def scenario() -> None:
        world, down = parks(*place)  # type: ignore[operator]
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), key="o-1")
            await parked(cluster, handle)
            letters = cluster["payment"].dead_letters
            (letter,) = await all_of_them(letters)
            assert (letter.kind, letter.step, letter.key, letter.service) == (LetterKind.STEP, "charge", "o-1", "payment")
            assert (letter.code, letter.detail, letter.attempts) == ("RuntimeError", "RuntimeError: the bank is down", 2)
            assert letter.stack.endswith("tests.scenarios.parking:Failing.__call__")
            assert letter.first_ms <= letter.last_ms
            assert letter.agent
            assert letter.version
            assert [one.payload for one in letter.inputs] == [b"{}"]
            down.works = True
            job = await replay(letters)
            assert await handle.wait(30) is SagaState.COMPLETED
            view = await ended(letters, job)
            assert (view.job.state, dict(view.counts)) == (JobState.DONE, {"resolved": 1})
            assert await all_of_them(letters) == []
            assert len({call.key for call in world.outside}) <= 1
            assert (await world.did(cluster, handle)).count("charge") == (0 if world.outside else 1)

    run(scenario(), 120)


def test_a_step_that_fails_again_is_told_as_failed_and_stays_parked(place: tuple[str, str]) -> None:
    async def scenario() -> None:
        world, _ = parks_undo(*place)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            letters = cluster["payment"].dead_letters
            before = (await all_of_them(letters))[0]
            view = await ended(letters, await replay(letters))
            assert (view.job.state, dict(view.counts)) == (JobState.DONE, {"failed": 1})
            after = (await all_of_them(letters))[0]
            assert (after.group, after.round, after.operator) == (before.group, 1, "ana")
            assert after.note == f"ticket 4411 (replay {view.job.id})"

    run(scenario(), 120)


def test_what_is_replayed_to_a_saga_that_has_ended_changes_nothing(place: tuple[str, str]) -> None:
    async def scenario() -> None:
        world = World(chain(), *place)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(30) is SagaState.COMPLETED
            said = await stored_messages(cluster, "shop", handle, "payment")
            letters = cluster["payment"].dead_letters
            assert said
            assert await letters.bring_in(said) == len(said)
            assert await letters.bring_in(said) == 0
            planned = await letters.preflight(letters.find())
            assert {one.judged.verdict for one in planned} <= {Verdict.ENDED, Verdict.READY}
            before = await world.effects(cluster)
            view = await ended(letters, await replay(letters))
            assert dict(view.counts) == {"resolved": len(said)}
            details = {item.detail async for item in letters.items(view.job.id)}
            assert details == {"changed nothing: it had been applied before"}
            assert await world.effects(cluster) == before
            assert await all_of_them(letters) == []
            assert len(await all_of_them(letters, WantedLetters(state="resolved"))) == len(said)

    run(scenario(), 120)


def test_a_job_stops_by_itself_when_too_much_fails_again_and_goes_on_when_told_to(place: tuple[str, str]) -> None:
    async def scenario() -> None:
        world = World(chain(), *place)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await handle.wait(30)
            like = await stored_messages(cluster, "inventory", handle, "payment")
            letters = cluster["payment"].dead_letters
            long_ago = time.time_ns() // 1_000_000 - 30 * DAY_MS
            await letters.bring_in(old_messages(like, 40, long_ago))
            planned = await letters.preflight(letters.find())
            assert {one.judged.verdict for one in planned} == {Verdict.STALE}
            assert await letters.replay(planned, ASK) == [], "what can only fail is not moved"
            (job,) = await letters.replay(planned, replace(ASK, force=True, stop_percent=20))

            async def stopped() -> bool:
                return (await letters.job(job.id)).job.state == JobState.STOPPED

            await eventually(stopped, 60)
            view = await letters.job(job.id)
            assert dict(view.counts) == {"failed": 5, "staged": 35}, "only a few are tried at first"
            assert view.job.detail == "5 of 5 failed again, more than 20 %"
            assert {one.judged.verdict for one in await letters.preflight(letters.find())} == {Verdict.STALE, Verdict.BUSY}
            await letters.resume(job.id)
            view = await ended(letters, job.id)
            assert dict(view.counts) == {"failed": 40}
            assert {one.attempts for one in await all_of_them(letters)} == {2}
            assert len(await all_of_them(letters)) == 40, "what failed again is no new letter"
            with pytest.raises(Refused, match="is done and over"):
                await letters.cancel(job.id)

    run(scenario(), 120)


def test_a_job_whose_last_letters_all_failed_is_over(place: tuple[str, str]) -> None:
    async def scenario() -> None:
        world = World(chain(), *place)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await handle.wait(30)
            like = await stored_messages(cluster, "inventory", handle, "payment")
            letters = cluster["payment"].dead_letters
            await letters.bring_in(old_messages(like, 5, time.time_ns() // 1_000_000 - 30 * DAY_MS))
            planned = await letters.preflight(letters.find())
            (job,) = await letters.replay(planned, replace(ASK, force=True, stop_percent=20))
            view = await ended(letters, job.id)
            assert (view.job.state, dict(view.counts)) == (JobState.DONE, {"failed": 5}), "there is nothing left to stop"

    run(scenario(), 120)


def test_a_job_is_paused_and_cancelled(place: tuple[str, str]) -> None:
    async def scenario() -> None:
        world = World(chain(), *place)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await handle.wait(30)
            like = await stored_messages(cluster, "inventory", handle, "payment")
            letters = cluster["payment"].dead_letters
            await letters.bring_in(old_messages(like, 40, time.time_ns() // 1_000_000 - 30 * DAY_MS))
            planned = await letters.preflight(letters.find())
            (job,) = await letters.replay(planned, replace(ASK, force=True, rate_per_min=120))

            async def begun() -> bool:
                return ItemState.FAILED in await states(letters, job.id)

            await eventually(begun, 60)
            await letters.pause(job.id)
            view = await letters.job(job.id)
            assert view.job.state == JobState.PAUSED
            assert view.counts["staged"] >= 30, "two a second, from the first one on"
            await letters.cancel(job.id)
            view = await ended(letters, job.id)
            assert view.job.state == JobState.CANCELLED
            assert view.counts["cancelled"] >= 30
            assert sum(view.counts.values()) == 40

    run(scenario(), 120)
