"""Messages that come before their definition does: kept, applied when it comes, told of when it does not. SQLite, both brokers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from saga_choreo import Choreography, SagaOutcome, SagaState
from saga_choreo.core.emissions import Message
from saga_choreo.core.graph import plan_of
from saga_choreo.core.origin import opened
from saga_choreo.memory.bus import bus_of
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Outcome
from saga_choreo.ports import Held, Notice, Outgoing
from saga_choreo.runtime.declare.assemble import assemble
from saga_choreo.runtime.letters import letter_of
from tests.scenarios.parts import Ordered, Packed, Place, Reserved, declare, serving
from tests.scenarios.world import eventually, run


@pytest.fixture(params=["memory", "nats"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    store = f"sqlite:///{tmp_path}/{{service}}.db"
    if request.param == "memory":
        return Place("memory://on-hold", store)
    return Place(request.getfixturevalue("nats_url"), store)


@pytest.fixture
def in_memory(tmp_path: Path) -> Place:
    return Place("memory://on-hold", f"sqlite:///{tmp_path}/{{service}}.db")


def form_of(place: Place, *services: str) -> Choreography:
    agents = {"inventory": place.inventory, "payment": place.payment}
    return assemble("shop", 1, Ordered, [agents[service]().own_steps() for service in services])


def started(form: Choreography, number: int = 0) -> Outgoing:
    """The start event of a saga that 'web' has started, whoever that is."""
    return said(
        form, saga_id_at(time.time_ns() // 1_000_000, number.to_bytes(10, "big")), Message(MessageKind.DONE, ORIGIN, event=0)
    )


def said(form: Choreography, saga_id: UUID, message: Message) -> Outgoing:
    record = Record(
        service="web", saga_id=saga_id, definition=form.definition, step=ORIGIN, row=opened(), choreography=form.name,
        origin="web", key="", deadline_ms=None, results={0: b'{"note":"early"}'},
    )  # fmt: skip
    letter = letter_of(message, record, plan_of(form), time.time_ns())
    assert letter is not None
    return letter


async def held(place: Place, service: str, form: Choreography) -> Sequence[Held]:
    async with place.open_store(service) as store:
        found: Sequence[Held] = await store.held(service, [form.definition], 100)
        return found


async def counted(place: Place, service: str, name: str) -> int:
    async with place.open_store(service) as store:
        return int((await store.counters(service)).get(name, 0))


async def define(broker: Any, form: Choreography) -> None:
    await broker.notify(Notice(f"define.{form.definition}", form.canonical_bytes))


def test_a_message_that_is_early_is_applied_as_soon_as_its_definition_comes(place: Place) -> None:
    async def scenario() -> None:
        form = form_of(place, "inventory", "payment")
        async with serving(place.inventory()), place.open_broker("web") as broker:
            assert await broker.publish([started(form, number) for number in range(3)]) == [None] * 3

            async def all_held() -> bool:
                return len(await held(place, "inventory", form)) == 3

            await eventually(all_held)
            assert place.did == []
            await define(broker, form)

            async def all_done() -> bool:
                return place.did == ["reserve"] * 3

            await eventually(all_done)

            async def none_held() -> bool:  # the handlers have run a moment before their commit
                return await held(place, "inventory", form) == []

            await eventually(none_held)

    run(scenario())


def test_the_end_of_a_saga_that_was_on_hold_is_told_again_until_the_callback_takes_it(in_memory: Place) -> None:
    async def scenario() -> None:
        place, form, told = in_memory, form_of(in_memory, "inventory", "payment"), list[str]()
        agent = place.inventory()

        @agent.on_outcome
        async def fail_twice(outcome: SagaOutcome) -> None:
            told.append(str(outcome.saga_id))
            if len(told) < 3:
                raise OSError("mail server down")

        async with serving(agent), place.open_broker("web") as broker:
            begun = started(form)
            end = said(form, UUID(begun.key), Message(MessageKind.OUTCOME, -1, outcome=Outcome.COMPLETED))
            assert await broker.publish([begun, end]) == [None, None]

            async def both_held() -> bool:
                return len(await held(place, "inventory", form)) == 2

            await eventually(both_held)
            await define(broker, form)

            async def none_held() -> bool:
                return not await held(place, "inventory", form)

            await eventually(none_held)
            assert told == [begun.key] * 3
            assert place.did == ["reserve"]

    run(scenario())


def test_what_another_release_put_on_hold_is_applied_by_the_one_that_knows_its_definition(place: Place) -> None:
    async def scenario() -> None:
        form = form_of(place, "inventory", "payment")
        async with serving(place.inventory()), place.open_broker("web") as broker:
            await broker.publish([started(form)])

            async def is_held() -> bool:
                return len(await held(place, "inventory", form)) == 1

            await eventually(is_held)
        async with place.open_store("inventory") as store:  # learnt meanwhile, by another agent of the service
            await store.remember(form.definition, form.canonical_bytes, ("inventory",))
        async with serving(place.inventory()):

            async def is_done() -> bool:
                return place.did == ["reserve"] and not await held(place, "inventory", form)

            await eventually(is_done)

    run(scenario())


def test_a_fact_of_a_choreography_that_is_none_of_ours_is_dropped_and_counted(place: Place) -> None:
    async def scenario() -> None:
        # It begins with the same event, and no step of inventory is in it.
        foreign = assemble("other", 1, Ordered, [declare(place, place.agent("parcel"), "pack", [Ordered], Packed).own_steps()])
        async with serving(place.inventory()), place.open_broker("web") as broker:
            await broker.publish([started(foreign, 1)])

            async def is_held() -> bool:
                return len(await held(place, "inventory", foreign)) == 1

            await eventually(is_held)
            await define(broker, foreign)

            async def is_dropped() -> bool:
                return not await held(place, "inventory", foreign) and await counted(place, "inventory", "foreign") == 1

            await eventually(is_dropped)
            await broker.publish([started(foreign, 2)])

            async def is_counted() -> bool:
                return await counted(place, "inventory", "foreign") == 2

            await eventually(is_counted)
            assert await held(place, "inventory", foreign) == [], "it is known by now, and not held first"
            assert place.did == []

    run(scenario())


def test_a_message_that_waits_for_too_long_is_copied_to_the_dead_letters_once_and_still_applied_later(in_memory: Place) -> None:
    async def scenario() -> None:
        place, form = in_memory, form_of(in_memory, "inventory", "payment")
        async with serving(place.inventory(held_copy_after_s=0.2)), place.open_broker("web") as broker:
            letters = bus_of("on-hold", place.prefix).dead_letters
            early = started(form)
            await broker.publish([replace(early, headers={**early.headers, "Nats-Rollup": "all"})])

            async def is_told() -> bool:
                return bool(letters) and [one.told for one in await held(place, "inventory", form)] == [True]

            await eventually(is_told)
            before = time.monotonic()

            async def time_passed() -> bool:
                return time.monotonic() > before + 0.5

            await eventually(time_passed)
            assert [one.headers["saga-quarantine-code"] for one in letters] == ["unknown_definition"]
            assert "Nats-Rollup" not in letters[0].headers, "it would tell the broker to delete the dead letters before it"
            await define(broker, form)

            async def is_done() -> bool:
                return place.did == ["reserve"]

            await eventually(is_done)

    run(scenario())


def test_an_agent_whose_code_does_not_fit_a_definition_does_not_hold_it_and_runs_what_fits(place: Place) -> None:
    """Rolled back to a release without the step that new sagas need: that step waits, visibly."""

    async def scenario() -> None:
        form = assemble(
            "shop",
            1,
            Ordered,
            [declare(place, place.inventory(), "pack", [Reserved], Packed).own_steps(), place.payment().own_steps()],
        )
        inventory = place.inventory()
        async with serving(inventory), place.open_broker("web") as broker:
            await define(broker, form)
            await broker.publish([started(form)])

            async def reserved() -> bool:
                return place.did == ["reserve"]

            await eventually(reserved)

            async def waits() -> bool:
                views = await inventory.sagas()
                return bool(views) and any("no handler" in step.error for step in views[0].steps)

            await eventually(waits)
            assert (await inventory.sagas())[0].state is not SagaState.COMPLETED
            async with place.open_store("inventory") as store:
                assert await store.holders(form.definition) == []

    run(scenario())
