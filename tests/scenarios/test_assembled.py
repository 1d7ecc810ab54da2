"""Participants that know only their own steps. On the memory broker, and on real NATS; the stores are SQLite files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from examples.order_processing import inventory, order, payment, shipping
from examples.order_processing.choreography import OrderCreated, order_processing
from saga_choreo import Agent, Choreography, DefinitionError, NotReady, SagaHandle, SagaState
from saga_choreo.runtime.declare.assemble import assemble
from tests.scenarios.parts import Ordered, Packed, Paid, Place, Reserved, declare, serving
from tests.scenarios.world import eventually, run

EXAMPLE = (order.agent, inventory.agent, payment.agent, shipping.agent)


@pytest.fixture(params=["memory", "nats"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    store = f"sqlite:///{tmp_path}/{{service}}.db"
    if request.param == "memory":
        return Place("memory://assembled", store)
    return Place(request.getfixturevalue("nats_url"), store)


def nameless(place: Place, example: Agent) -> Agent:
    """An agent of the example, given a name instead of the shared object."""
    services = {agent.name for agent in EXAMPLE}
    opened = Choreography("order-processing").starts_with(OrderCreated, participants=services)
    agent = place.agent(example.name, opened if example.name == "order" else "order-processing")
    agent.declarations.steps.extend(example.declarations.steps)
    return agent


def an_order(number: str, card: str = "good") -> OrderCreated:
    return OrderCreated(order=number, item="book", quantity=1, amount_cents=1000, card=card, address="here")


def test_four_agents_with_names_only_make_the_definition_of_the_shared_object_and_run_its_sagas(place: Place) -> None:
    async def scenario() -> None:
        agents = [nameless(place, one) for one in EXAMPLE]
        async with serving(*agents):
            good = await agents[0].start_saga(an_order("o-1"), key="o-1")
            bad = await agents[0].start_saga(an_order("o-2", card="declined"), key="o-2")
            assert await good.wait(10) is SagaState.COMPLETED
            assert await bad.wait(10) is SagaState.COMPENSATED
            assert (await good.view()).definition == order_processing.definition
        async with place.open_store("inventory") as store:
            assert dict(await store.definitions())[order_processing.definition] == order_processing.canonical_bytes

    run(scenario())


def test_a_participant_with_a_name_only_takes_part_beside_holders_of_the_shared_object(place: Place) -> None:
    async def scenario() -> None:
        shared = [
            Agent(
                one.name, saga=order_processing, broker=place.broker, store=place.store.replace("{service}", one.name),
                prefix=place.prefix, limits=place.limits,
            )
            for one in EXAMPLE if one is not payment.agent
        ]  # fmt: skip
        for agent, example in zip(shared, (one for one in EXAMPLE if one is not payment.agent), strict=True):
            agent.declarations.steps.extend(example.declarations.steps)
        async with serving(*shared, nameless(place, payment.agent)):
            handle = await shared[0].start_saga(an_order("o-3"))
            assert await handle.wait(10) is SagaState.COMPLETED

    run(scenario())


def test_nothing_starts_before_a_late_participant_has_come_and_the_error_names_it(place: Place) -> None:
    async def scenario() -> None:
        web = place.origin("inventory", "payment", ready_timeout_s=0.3)
        async with serving(web, place.inventory()):
            with pytest.raises(NotReady, match="'payment' has not announced any step"):
                await web.start_saga(Ordered())
            async with serving(place.payment()):
                await web.ready(8)
                handle = await web.start_saga(Ordered())
                assert await handle.wait(10) is SagaState.COMPLETED
                assert place.did == ["reserve", "pay"]

    run(scenario())


def test_what_is_announced_outlives_its_agent_so_a_saga_starts_while_a_participant_is_down(place: Place) -> None:
    async def scenario() -> None:
        web = place.origin("inventory", "payment")
        async with serving(web, place.inventory()):
            async with serving(place.payment()):
                await web.ready(8)
            handle = await web.start_saga(Ordered())

            async def reserved() -> bool:
                return place.did == ["reserve"]

            await eventually(reserved)
        again = place.origin("inventory", "payment")  # every agent begins anew, with its store
        async with serving(again, place.inventory(), place.payment()):
            assert await again.saga(handle.saga_id).wait(10) is SagaState.COMPLETED
            assert place.did == ["reserve", "pay"]

    run(scenario())


def test_a_web_process_that_only_starts_sagas_assembles_as_well(place: Place) -> None:
    async def scenario() -> None:
        agents = serving(place.inventory(), place.payment(), place.origin("inventory", "payment"))
        async with agents, place.origin("inventory", "payment").client() as client:
            handle = await client.start_saga(Ordered())
            assert await handle.wait(10) is SagaState.COMPLETED

    run(scenario())


def test_the_deadline_that_the_origin_says_counts_after_a_restart_too(place: Place) -> None:
    async def scenario() -> None:
        opened = Choreography("shop").starts_with(Ordered, participants={"inventory"}).deadline(seconds=30)
        for _ in range(2):
            web = place.agent("web", opened)
            async with serving(web, place.inventory()):
                view = await (await web.start_saga(Ordered())).view()
                assert view.deadline_ms is not None
                assert 28_000 <= view.deadline_ms - view.started_ms <= 32_000

    run(scenario())


def test_a_rollout_with_a_new_step_moves_new_sagas_only_and_both_releases_work_side_by_side(place: Place) -> None:
    async def scenario() -> None:
        web, old = place.origin("inventory", "payment"), place.inventory()
        new = declare(place, place.inventory(release=2), "pack", [Reserved], Packed)
        async with serving(web, old):
            async with serving(place.payment()):
                await web.ready(8)
            before = await web.start_saga(Ordered())  # payment is down: it stays open over the rollout
            first = (await before.view()).definition
            async with serving(new, place.payment()):
                after: list[SagaHandle] = []

                async def moved() -> bool:
                    after.append(await web.start_saga(Ordered()))
                    return (await after[-1].view()).definition != first

                await eventually(moved)
                after += [await web.start_saga(Ordered()) for _ in range(10)]
                assert [await one.wait(20) for one in (before, *after)] == [SagaState.COMPLETED] * (1 + len(after))
                assert (await before.view()).definition == first
                moved_count = sum([(await one.view()).definition != first for one in after])
        assert place.did.count("pack") == moved_count >= 11
        assert place.did.count("reserve") == place.did.count("pay") == 1 + len(after)

    run(scenario())


def test_a_lower_release_that_restarts_does_not_take_new_sagas_back(place: Place) -> None:
    async def scenario() -> None:
        web = place.origin("inventory")
        new = declare(place, place.inventory(release=2), "pack", [Reserved], Packed)
        async with serving(web, new):
            await web.ready(8)
            async with serving(place.inventory(release=1)):
                handle = await web.start_saga(Ordered())
                assert await handle.wait(15) is SagaState.COMPLETED
                assert sorted(place.did) == ["pack", "reserve"]

    run(scenario())


def test_a_saga_of_an_earlier_definition_goes_on_after_a_restart_with_new_code(place: Place) -> None:
    async def scenario() -> None:
        web = place.origin("inventory", "payment")
        async with serving(web, place.inventory()):
            async with serving(place.payment()):
                await web.ready(8)
            open_saga = await web.start_saga(Ordered())
        changed = declare(place, place.payment(), "thank", [Paid])
        async with serving(place.origin("inventory", "payment"), changed, place.inventory()):
            again = place.origin("inventory", "payment")
            async with again.client():
                assert await again.saga(open_saga.saga_id).wait(10) is SagaState.COMPLETED
                assert "thank" not in place.did
                handle = await again.start_saga(Ordered())
                assert await handle.wait(10) is SagaState.COMPLETED
                assert place.did.count("thank") == 1

    run(scenario())


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("pay", [Paid], None)], "ST3: step 'pay' waits for 'payment.paid"),
        ([("reserve", [Reserved], Paid)], "step 'reserve' is announced by 'inventory' and by 'payment'"),
        ([("pay", [Packed], Paid), ("pack", [Paid], Packed)], "WF1: the steps form a cycle"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_with_every_finding(place: Place, steps: Any, expected: str) -> None:
    async def scenario() -> None:
        web, other = place.origin("inventory", "payment", ready_timeout_s=1.0), place.agent("payment")
        for name, reads, publishes in steps:
            declare(place, other, name, reads, publishes)
        async with serving(web, place.inventory(), other):

            async def refused() -> DefinitionError | None:
                try:
                    await web.start_saga(Ordered())
                except NotReady:
                    return None
                except DefinitionError as error:
                    return error
                raise AssertionError("it started")

            error = await eventually(refused)
            assert error is not None
            assert any(finding.startswith(expected) for finding in error.findings), error.findings
            assert place.did == []

    run(scenario())


def test_an_agent_that_comes_back_with_another_shared_version_ends_the_sagas_of_the_earlier_one(place: Place) -> None:
    async def scenario() -> None:
        first = assembled_form(place, "inventory", "payment")
        web, inventory, payment = (shared(place, service, first) for service in ("web", "inventory", "payment"))
        async with serving(web, inventory):
            async with serving(payment):
                await web.ready(8)
            open_saga = await web.start_saga(Ordered())
        second = replace(first, version=2)
        web, inventory, payment = (shared(place, service, second) for service in ("web", "inventory", "payment"))
        async with serving(web, inventory, payment):
            assert await web.saga(open_saga.saga_id).wait(10) is SagaState.COMPLETED
            later = await web.start_saga(Ordered())
            assert await later.wait(10) is SagaState.COMPLETED
            assert (await later.view()).definition == second.definition
        assert sorted(place.did) == ["pay", "pay", "reserve", "reserve"]

    run(scenario())


def assembled_form(place: Place, *services: str) -> Choreography:
    parts = {"inventory": place.inventory, "payment": place.payment}
    return assemble("shop", 1, Ordered, [parts[service]().own_steps() for service in services])


def shared(place: Place, service: str, form: Choreography) -> Agent:
    """An agent that was given the whole choreography."""
    agent = place.agent(service, form)
    named = {"inventory": place.inventory, "payment": place.payment}.get(service)
    if named is not None:
        agent.declarations.steps.extend(named().declarations.steps)
    return agent
