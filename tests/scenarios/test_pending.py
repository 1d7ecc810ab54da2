"""Steps that wait for the outside: completed, declined, too late, aborted meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from saga_choreo import Choreography, Pending, Reject, SagaState, StepContext
from saga_choreo.errors import ConfigurationError, DefinitionError, Refused, SagaNotFound
from saga_choreo.model.choreography import Split
from tests.scenarios.outside import Charged, Other, Outside, form, records, token_of
from tests.scenarios.world import Go, World, eventually, run, step


def test_a_pending_step_is_completed_from_outside_and_the_same_answer_twice_does_no_harm(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = Outside(form(), nats_url, store)
        heard: list[str] = []

        async def hold(ctx: StepContext) -> None:
            heard.append("confirm")
            await asyncio.sleep(0.1)

        world.on[("confirm", "do")] = hold
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            token = await token_of(world, cluster, handle)
            with pytest.raises(DefinitionError, match="returned 'Other'"):
                await cluster["payment"].complete_step(token, Other())
            with pytest.raises(DefinitionError, match="is completed with Pending"):
                await cluster["payment"].complete_step(token, Pending())
            await cluster["payment"].complete_step(token, Charged(note="ok"))
            await cluster["payment"].complete_step(token, Charged(note="ok"))
            with pytest.raises(Refused, match="completed already, with another answer"):
                await cluster["payment"].complete_step(token, Charged(note="no"))
            with pytest.raises(Refused, match="completed already"):
                await cluster["payment"].decline_step(token, "changed my mind")
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "confirm"]
            assert len(world.outside) == 1

            async def forgotten() -> bool:
                return not any(record.results for record in await records(cluster, "payment", handle.saga_id))

            await eventually(forgotten)
            with pytest.raises(Refused, match="not kept any more since the saga has ended"):
                await cluster["payment"].complete_step(token, Charged(note="ok"))

    run(scenario())


@pytest.mark.parametrize("way", ["decline_step", "complete_step"])
def test_a_pending_step_is_declined_from_outside_and_the_saga_is_undone(nats_url: str, store: str, way: str) -> None:
    async def scenario() -> None:
        world = Outside(form(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            token = await token_of(world, cluster, handle)
            for _ in range(2):
                if way == "decline_step":
                    await cluster["payment"].decline_step(token, "card declined")
                else:
                    await cluster["payment"].complete_step(token, Reject("card declined"))
            with pytest.raises(Refused, match="has ended as tomb"):
                await cluster["payment"].complete_step(token, Charged())
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert (await handle.view()).reason == "card declined"
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())


def test_a_web_process_beside_the_agent_completes_a_step_while_the_agent_is_down(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = Outside(form(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            token = await token_of(world, cluster, handle)
            await cluster.stop("payment")
            async with world.agent("payment").client() as web:
                await web.complete_step(token, Charged())
            assert await handle.wait(10) is SagaState.COMPLETED  # published by the web process itself
            await cluster.start("payment")
            assert await world.did(cluster, handle) == ["reserve", "confirm"]
            assert len(world.outside) == 1

    run(scenario())


def test_a_client_completes_a_step_and_leaves_its_own_services_next_step_to_the_agent(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        own = form()
        own = (
            Choreography("own")
            .starts_with(Go)
            .step(*(one for one in own.steps if one.name != "confirm"), step("confirm", "payment", "payment.charged"))
        )
        world = Outside(own, nats_url, store)
        ran_in: list[str] = []
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            token = await token_of(world, cluster, handle)
            await cluster.stop("payment")
            async with world.agent("payment").client() as web:
                await web.complete_step(token, Charged())
                ran_in += [name for name, _ in world.tried if name == "confirm"]
            assert ran_in == []
            await cluster.start("payment")
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["reserve", "confirm"]

    run(scenario())


def test_an_answer_that_overtakes_the_step_waits_for_it(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = Outside(form(), nats_url, store)
        answers: list[asyncio.Task[None]] = []

        async def quick(ctx: StepContext) -> Pending:
            answers.append(asyncio.create_task(world.agents["payment"].complete_step(ctx.token, Charged())))
            await asyncio.sleep(0.3)
            return Pending()

        world.on[("charge", "do")] = quick
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            assert await handle.wait(10) is SagaState.COMPLETED
            await asyncio.gather(*answers)

    run(scenario())


def test_a_pending_step_of_an_aborted_saga_waits_for_its_answer_and_is_undone_then(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = Outside(form(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            token = await token_of(world, cluster, handle)
            await handle.cancel("too slow")

            async def aborting() -> bool:
                return any(record.row.abort for record in await records(cluster, "payment", handle.saga_id))

            await eventually(aborting)
            assert await handle.state() is SagaState.COMPENSATING
            await cluster["payment"].complete_step(token, Charged())
            assert await handle.wait(10) is SagaState.CANCELLED
            assert [(call.step, call.side) for call in world.outside] == [("charge", "do"), ("charge", "undo")]
            assert await world.did(cluster, handle) == ["reserve", "undo reserve"]

    run(scenario())


def test_an_aborted_pending_step_that_is_declined_needs_no_undo(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = Outside(form(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            token = await token_of(world, cluster, handle)
            await handle.cancel("too slow")
            await cluster["payment"].decline_step(token, "no money")
            assert await handle.wait(10) is SagaState.CANCELLED
            assert [(call.step, call.side) for call in world.outside] == [("charge", "do")]

    run(scenario())


def test_what_is_kept_by_a_step_that_goes_pending_is_there_for_its_undo(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = Outside(form(), nats_url, store, on={("confirm", "do"): _refuse})

        async def ask(ctx: StepContext) -> Pending:
            ctx.keep(Charged(note="receipt 7"))
            world.tokens.append(ctx.token)
            return Pending()

        world.on[("charge", "do")] = ask
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            token = await token_of(world, cluster, handle)
            kept = [r.kept for r in await records(cluster, "payment", handle.saga_id)]
            assert kept == [b'{"note":"receipt 7"}']
            await cluster["payment"].complete_step(token, Charged())
            assert await handle.wait(10) is SagaState.COMPENSATED

    run(scenario())


async def _refuse(ctx: StepContext) -> Any:
    raise Reject("no")


def test_a_step_that_may_not_refuse_asks_the_outside_again_under_another_token(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        plan = (
            Choreography("retriable")
            .starts_with(Go)
            .step(
                step("reserve", "inventory", Go, "stock.reserved", undo=False, pivot=True),
                step("charge", "payment", "stock.reserved", "payment.charged", undo=False, external=True, retriable=True),
                step("confirm", "shop", "payment.charged", undo=False, retriable=True),
            )
        )
        world = Outside(plan, nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            first = await token_of(world, cluster, handle)
            await cluster["payment"].decline_step(first, "not today")

            async def asked_again() -> bool:
                return len(world.tokens) == 2

            await eventually(asked_again)
            second = await token_of(world, cluster, handle)
            assert first != second
            with pytest.raises(Refused, match="earlier call"):
                await cluster["payment"].complete_step(first, Charged())
            await cluster["payment"].complete_step(second, Charged())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert len({call.key for call in world.outside}) == 2

    run(scenario())


def test_a_choice_is_completed_with_one_of_its_events(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        plan = (
            Choreography("choice")
            .starts_with(Go)
            .step(
                step("charge", "payment", Go, "payment.charged", "payment.other", split=Split.ONE, external=True),
                step("one", "shop", "payment.charged"),
                step("two", "shop", "payment.other"),
            )
        )
        world = Outside(plan, nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await cluster["payment"].complete_step(await token_of(world, cluster, handle), Other())
            assert await handle.wait(10) is SagaState.COMPLETED
            assert await world.did(cluster, handle) == ["two"]

    run(scenario())


def test_a_token_that_is_none_or_of_somebody_else_is_refused(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = Outside(form(), nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            token = await token_of(world, cluster, handle)
            for wrong in ("", "nonsense", token[:-1], token[:-1] + ("A" if token[-1] != "A" else "B"), token + "A", "ä" + token):
                with pytest.raises(Refused, match="no token of a pending step"):
                    await cluster["payment"].complete_step(wrong, Charged())
            with pytest.raises(Refused, match="belongs to 'payment'"):
                await cluster["shop"].complete_step(token, Charged())
            stranger = Outside(form(), nats_url, "memory://")
            async with stranger.agent("payment").client() as elsewhere:
                with pytest.raises(SagaNotFound, match="store of the agent that made the token"):
                    await elsewhere.complete_step(token, Charged())
            other = Outside(form(late=True), nats_url, "memory://", options={"charge": {"deadline": 5}})
            async with other.agent("payment").client() as elsewhere:
                with pytest.raises(Refused, match="which 'payment' does not know"):
                    await elsewhere.complete_step(token, Charged())

    run(scenario())


def test_only_the_handler_of_an_external_step_has_a_token(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world = World(form(), nats_url, store)
        said: list[str] = []

        async def look(ctx: StepContext) -> None:
            with pytest.raises(ConfigurationError) as caught:
                _ = ctx.token
            said.append(str(caught.value))

        world.on |= {("reserve", "do"): look, ("charge", "undo"): look, ("confirm", "do"): _refuse}
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), deadline=timedelta(seconds=20))
            assert await handle.wait(10) is SagaState.COMPENSATED
            assert [text.partition(" cannot")[0] for text in said] == ["step 'reserve'", "the compensation of step 'charge'"]

    run(scenario())
