"""Parked steps and people's words on them: each verb on a local step, a call and an undo."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest

from saga_choreo import (
    EventRef,
    Refused,
    SagaNotFound,
    SagaState,
    StepContext,
    StepState,
)
from saga_choreo.model.states import Parked
from saga_choreo.runtime.commands import resolve
from saga_choreo.runtime.parked import Published
from saga_choreo.runtime.plugins import WholeStore
from saga_choreo.testing.harness import Cluster
from tests.scenarios.parking import (
    Charged,
    Failing,
    parked,
    parks_external,
    parks_local,
    parks_undo,
    record_of,
    refuse,
    say,
    with_tool,
)
from tests.scenarios.world import Go, World, chain, eventually, run


def test_a_parked_step_is_listed_with_its_error_and_what_can_be_done(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), key="o-1")
            one = await parked(cluster, handle)
            assert (one.step, one.key, one.service, one.attempt) == ("charge", "o-1", "payment", 2)
            assert (one.parked, one.possible) == (Parked.PARKED, ("retry", "waive", "take"))
            assert one.error == "RuntimeError: the bank is down"
            assert await cluster["shop"].parked_steps() == []

    run(scenario())


@pytest.mark.parametrize("parks", [parks_local, parks_external])
def test_a_retry_begins_to_count_anew_and_the_error_stays_until_it_works(
    nats_url: str, store: str, parks: Callable[[str, str], tuple[World, Failing]]
) -> None:
    async def scenario() -> None:
        world, down = parks(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            await cluster.stop("payment")
            row = await say(cluster, handle, "retry")
            assert (row.parked, row.attempt) == (Parked.NO, 0)
            record = await record_of(cluster, handle.saga_id)
            assert record.error == "RuntimeError: the bank is down"
            assert record.resolution is not None
            assert record.resolution[:3] == ("retry", "ana", "ticket 4411")
            assert (record.resolution.attempt, record.resolution.number) == (2, 1)
            await cluster.start("payment")
            again = await parked(cluster, handle)
            assert again.resolution is not None
            assert world.tried.count(("charge", "do")) == 4
            down.works = True
            await say(cluster, handle, "retry", "ben")
            assert await handle.wait(10) is SagaState.COMPLETED
            record = await record_of(cluster, handle.saga_id)
            assert record.error == ""
            assert record.resolution is not None
            assert (record.resolution.operator, record.resolution.number) == ("ben", 2)
            assert len({call.key for call in world.outside}) <= 1

    run(scenario())


def test_health_tells_of_parked_steps_and_of_a_store_that_is_not_durable(store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_local("memory://health", f"{store}?durability=relaxed")
        async with world.cluster() as cluster:
            assert not cluster["payment"].health().is_durable
            await parked(cluster, await cluster["shop"].start_saga(Go()))
            await cluster.stop("payment")  # it looks when it starts, and now and then
            await cluster.start("payment")

            async def told() -> bool:
                return cluster["payment"].health().parked == 1

            await eventually(told)
            assert cluster["shop"].health().parked == 0

    run(scenario())


def test_parking_is_said_once_in_the_log_with_what_to_do_next(nats_url: str, store: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        world, down = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), key="o-1")
            await parked(cluster, handle)

            def lines() -> list[str]:
                return [one.getMessage() for one in caplog.records if getattr(one, "event", "") == "step.parked"]

            async def said() -> bool:
                return bool(lines())

            await eventually(said)  # the store may tell of it a moment before the log does
            (line,) = lines()
            assert "step 'charge'" in line
            assert "RuntimeError: the bank is down" in line
            assert f"saga-choreo steps show {handle.saga_id} charge" in line
            await cluster["payment"].resolve_step(handle.saga_id, "charge", "retry", operator="ana", reason="up?")

            async def twice() -> bool:
                return len(lines()) == 2

            await eventually(twice)
            down.works = True

    run(scenario())


def test_a_word_said_by_the_agent_itself_is_that_of_the_tool(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            agent = cluster["payment"]
            with pytest.raises(Refused, match="retry, waive, take"):
                await agent.resolve_step(handle.saga_id, "charge", "fail", operator="ana", reason="no")
            with pytest.raises(SagaNotFound, match="no step 'reserve'"):
                await agent.resolve_step(handle.saga_id, "reserve", "retry", operator="ana", reason="no")
            state = await agent.resolve_step(handle.saga_id, "charge", "take", operator="ana", reason="by hand")
            assert state is StepState.RUNNING
            state = await agent.resolve_step(
                handle.saga_id, "charge", "done", operator="ana", reason="paid in cash", event=Charged()
            )
            assert state is StepState.COMPLETED
            assert await handle.wait(10) is SagaState.COMPLETED

    run(scenario())


def test_a_waived_step_is_skipped_and_what_needs_it_too(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            await say(cluster, handle, "waive")
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve"]

    run(scenario())


def test_a_step_that_a_person_has_taken_is_done_by_that_person_only(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_local(nats_url, store)
        heard: list[str] = []
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            with pytest.raises(Refused, match=r"'done' cannot be said of a step that is parked before it ran.*retry, waive, take"):
                await say(cluster, handle, "done", event=Charged())
            await say(cluster, handle, "take")
            one = await parked(cluster, handle)
            assert (one.parked, one.operator, one.possible) == (Parked.HUMAN, "ana", ("done", "give_back"))
            with pytest.raises(Refused, match="in the hands of 'ana'"):
                await say(cluster, handle, "done", "ben", Charged())
            with pytest.raises(Refused, match=r"step .charge. publishes payment\.charged"):
                await say(cluster, handle, "done")
            with pytest.raises(Refused, match="each event once"):
                await say(cluster, handle, "done", event=[Charged(), Charged()])
            with pytest.raises(Refused, match="no JSON object"):
                await say(cluster, handle, "done", event=Published(EventRef("payment.charged"), b"[1]"))
            await say(cluster, handle, "done", event=Published(EventRef("payment.charged"), b'{"note":"by hand"}'))
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "confirm"]
        assert heard == []

    run(scenario())


def test_an_abort_while_a_person_has_the_step_waits_for_the_person(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        for ending, did in (("give_back", ["reserve", "undo reserve"]), ("done", ["reserve", "undo charge", "undo reserve"])):
            world, _ = parks_local(nats_url, store)
            async with world.cluster() as cluster:
                handle = await cluster["shop"].start_saga(Go())
                await parked(cluster, handle)
                await say(cluster, handle, "take")
                await handle.cancel("customer called")

                async def aborting(cluster: Cluster = cluster, saga_id: UUID = handle.saga_id) -> bool:
                    return (await record_of(cluster, saga_id)).row.abort

                await eventually(aborting)
                await asyncio.sleep(0.3)
                assert await handle.state() is SagaState.COMPENSATING
                await say(cluster, handle, ending, event=Charged() if ending == "done" else None)
                assert await handle.wait(10) is SagaState.CANCELLED
                assert await world.did(cluster, handle) == did

    run(scenario(), 60)


def test_a_step_that_is_given_back_is_parked_again_and_goes_on_after_a_retry(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, down = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            await say(cluster, handle, "take")
            await say(cluster, handle, "give_back")
            one = await parked(cluster, handle)
            assert (one.parked, one.operator) == (Parked.PARKED, "")
            down.works = True
            await say(cluster, handle, "retry", "ben")
            assert await handle.wait(10) is SagaState.COMPLETED

    run(scenario())


def test_of_two_people_at_once_one_wins_and_the_other_hears_why(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            names = [f"person-{number}" for number in range(6)]
            answers = await asyncio.gather(*(say(cluster, handle, "take", by) for by in names), return_exceptions=True)
            won = [name for name, answer in zip(names, answers, strict=True) if not isinstance(answer, BaseException)]
            assert len(won) == 1
            lost = [answer for answer in answers if isinstance(answer, BaseException)]
            assert all(isinstance(one, Refused) and repr(won[0]) in str(one) for one in lost)
            assert (await parked(cluster, handle)).operator == won[0]

    run(scenario())


def test_a_call_that_is_known_to_have_happened_is_done_by_a_word_and_undone_when_needed(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_external(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert (await parked(cluster, handle)).possible == ("retry", "done", "fail")
            with pytest.raises(Refused, match="possible: retry, done, fail"):
                await say(cluster, handle, "waive")
            world.on[("confirm", "do")] = refuse
            await say(cluster, handle, "done", event=Charged(note="found at the bank"))
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert [call.side for call in world.outside] == ["do", "do", "undo"]
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())


def test_a_call_that_is_void_fails_by_a_word_and_the_saga_says_why(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_external(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            await say(cluster, handle, "fail")
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert (await handle.view()).reason == "ticket 4411"
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())


def test_an_abort_at_a_parked_call_waits_for_a_persons_word(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_external(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            await handle.cancel("customer called")

            async def aborting() -> bool:
                return (await parked(cluster, handle)).aborting

            await eventually(aborting)
            await say(cluster, handle, "fail")
            assert await handle.wait(10) is SagaState.CANCELLED
            assert (await handle.view()).reason == "customer called"
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())


@pytest.mark.parametrize(("verb", "end"), [("retry", "compensated"), ("done", "compensated"), ("waive", "failed")])
def test_an_undo_that_keeps_failing_waits_for_a_word(nats_url: str, store: str, verb: str, end: str) -> None:
    async def scenario() -> None:
        world, down = parks_undo(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            one = await parked(cluster, handle)
            assert (one.possible, one.error) == (("retry", "done", "waive"), "RuntimeError: the bank is down")
            assert await world.did(cluster, handle) == ["reserve", "charge"]
            with pytest.raises(Refused, match="possible: retry, done, waive"):
                await say(cluster, handle, "take")
            with pytest.raises(Refused, match="publishes nothing"):
                await say(cluster, handle, "done", event=Charged())
            down.works = True
            await say(cluster, handle, verb)
            assert await handle.wait(10) == end
            undone = ["undo charge"] if verb == "retry" else []
            assert await world.did(cluster, handle) == ["reserve", "charge", *undone, "undo reserve"]

    run(scenario())


def test_a_call_that_may_not_be_repeated_parks_at_the_first_doubt(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        options = {"charge": {"unsafe_external": True}}
        world = World(chain(charge={"external": True}), nats_url, store, options=options, on={("charge", "do"): Failing()})
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert (await parked(cluster, handle)).attempt == 1
            hanging = asyncio.Event()

            async def hang(ctx: StepContext) -> None:
                hanging.set()
                await asyncio.Event().wait()

            world.on[("charge", "do")] = hang
            await say(cluster, handle, "retry")
            await asyncio.wait_for(hanging.wait(), 10)
            await cluster.stop("payment")
            await cluster.start("payment")
            assert "while the call was under way" in (await parked(cluster, handle)).error
            assert len(world.outside) == 2

    run(scenario(), 60)


def test_a_word_on_a_step_that_is_not_parked_or_not_here_is_refused(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(chain(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            with pytest.raises(Refused, match=r"step 'charge' of saga .* needs a parked step; this one is done"):
                await say(cluster, handle, "retry")
            with pytest.raises(Refused, match="'shrug' is no word on a parked step"):
                await say(cluster, handle, "shrug")
            with pytest.raises(Refused, match="needs the operator"):
                await say(cluster, handle, "retry", "")

            async def elsewhere(tool: WholeStore) -> None:
                await resolve(tool, handle.saga_id, "charge", "retry", operator="ana", reason="why")

            with pytest.raises(SagaNotFound, match=r"no step 'charge' in this store; steps of it here: confirm"):
                await with_tool(cluster, "shop", elsewhere)

    run(scenario())


def test_a_deadline_that_passes_while_a_person_has_the_step_is_remembered_and_nobody_is_kept_busy(
    nats_url: str, store: str
) -> None:
    async def scenario() -> None:
        world, _ = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), deadline=timedelta(seconds=1.5))
            await parked(cluster, handle)
            await say(cluster, handle, "take")

            async def heard() -> bool:
                row = (await record_of(cluster, handle.saga_id)).row
                return bool(row.cancel) and row.abort

            await eventually(heard)
            before = (await record_of(cluster, handle.saga_id)).version
            await asyncio.sleep(0.5)
            assert (await record_of(cluster, handle.saga_id)).version - before <= 2
            await say(cluster, handle, "give_back")
            assert await handle.wait(10) is SagaState.TIMED_OUT
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())
