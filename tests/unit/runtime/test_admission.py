"""No saga is started that the service could not see through: how many are open, and how many records wait, is looked up in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from saga_choreo import Agent, Choreography, Event, Limits, Overloaded, Pending, StepContext
from saga_choreo.memory.store import MemoryStore
from saga_choreo.ports import ORIGIN, Outcome, Record, Row, State
from saga_choreo.runtime.admission import Admission
from saga_choreo.testing.store_harness import SERVICE, make_record


class HandClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


class CountedStore(MemoryStore):
    """The reference store, counting how often it is asked."""

    looks = 0

    async def load(self, service: str, open_max: int, unannounced_max: int) -> tuple[int, int]:
        self.looks += 1
        return await super().load(service, open_max, unannounced_max)


class Rig:
    def __init__(self, **limits: int) -> None:
        self.store, self.clock = CountedStore(), HandClock()
        self.admission = Admission(SERVICE, self.store, self.clock, Limits(**limits))  # type: ignore[arg-type]  # only its monotonic()
        self.put: list[Record] = []

    async def save(self, *records: Record) -> None:
        async with self.store.transaction() as transaction:
            await transaction.save(records)
            await transaction.commit()


def _run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def _open(number: int, **more: Any) -> Record:
    return make_record(number, step=ORIGIN, state=State.OPEN, choice=1, due_ms=9, announced=1, **more)


def test_what_this_process_starts_between_two_looks_is_taken_off() -> None:
    async def scenario() -> None:
        rig = Rig(open_sagas_max=10)
        await rig.store.open()
        await rig.save(*(_open(number) for number in range(1, 8)))
        for _ in range(3):
            await rig.admission.require()
        with pytest.raises(
            Overloaded, match=r"service .* has as many sagas open as Limits.open_sagas_max allows \(10\).*start it again"
        ):
            await rig.admission.require()
        assert rig.store.looks == 1

    _run(scenario())


def test_who_was_refused_is_admitted_after_the_next_look_once_sagas_have_ended() -> None:
    async def scenario() -> None:
        rig = Rig(open_sagas_max=1)
        await rig.store.open()
        saga = _open(1)
        await rig.save(saga)
        for _ in range(100):
            with pytest.raises(Overloaded):
                await rig.admission.require()
        assert rig.store.looks == 1, "however much is asked, it is looked at a bounded rate"
        ended = saga.but(row=Row(State.COMPLETED, outcome=Outcome.COMPLETED), due_ms=None, version=2, announced=2)
        await rig.save(ended)
        rig.clock.now_s += 1.0
        await rig.admission.require()

    _run(scenario())


def test_nothing_is_started_on_top_of_what_cannot_be_published() -> None:
    async def scenario() -> None:
        rig = Rig(unannounced_max=3)
        await rig.store.open()
        await rig.save(*(make_record(number) for number in range(1, 4)))
        with pytest.raises(
            Overloaded, match=r"records to publish as Limits.unannounced_max allows \(3\).*when the broker takes them"
        ):
            await rig.admission.require()

    _run(scenario())


def test_a_start_inside_the_callers_transaction_is_judged_by_what_is_known() -> None:
    async def scenario() -> None:
        rig = Rig(open_sagas_max=1)
        await rig.store.open()
        await rig.save(_open(1))
        later: list[Callable[[], Coroutine[Any, Any, None]]] = []
        rig.admission.require_soon(later.append)
        assert rig.store.looks == 0, "the store may have no second connection"
        (look,) = later
        await look()
        with pytest.raises(Overloaded):
            rig.admission.require_soon(later.append)

    _run(scenario())


def test_a_store_that_cannot_count_admits_everything() -> None:
    admission = Admission(SERVICE, object(), HandClock(), Limits(open_sagas_max=1))  # type: ignore[arg-type]  # only its monotonic()
    for _ in range(3):
        _run(admission.require())


class Asked(Event, name="load.asked"): ...


class Answered(Event, name="load.answered"): ...


def test_an_agent_refuses_what_is_too_much_and_takes_it_once_there_is_room() -> None:
    agent = Agent(
        "desk",
        saga=Choreography("load").starts_with(Asked, participants={"desk"}),
        broker="memory://admission",
        store="memory://",
        limits=Limits(open_sagas_max=2),
    )
    tokens: asyncio.Queue[str] = asyncio.Queue()

    @agent.step(external=True, read_only=True)
    async def answer(asked: Asked, ctx: StepContext) -> Answered | Pending:
        await tokens.put(ctx.token)
        return Pending()

    async def scenario() -> None:
        async with agent.serving():
            await agent.start_saga(Asked(), key="1")
            await agent.start_saga(Asked(), key="2")
            with pytest.raises(Overloaded):
                await agent.start_saga(Asked(), key="3")
            await agent.complete_step(await tokens.get(), Answered())
            async with asyncio.timeout(10):
                while True:
                    try:
                        third = await agent.start_saga(Asked(), key="3")
                        break
                    except Overloaded:
                        await asyncio.sleep(0.02)
            assert third.is_new

    _run(scenario())
