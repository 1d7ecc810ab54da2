"""What an agent makes of notices: patiently, and without believing everything."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from saga_choreo import Choreography, ChoreographyStep, Event
from saga_choreo.errors import StoreUnavailable
from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.memory.store import MemoryStore
from saga_choreo.ports import Notice, Topology
from saga_choreo.runtime.alive import Sign, Signs, alive_notice, read_alive
from saga_choreo.runtime.assembly import Announcement
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.directory import Directory
from saga_choreo.runtime.part import Part

_buses = itertools.count()


class Ordered(Event, name="shop.ordered"):
    pass


RESERVE = ChoreographyStep("reserve").on_event(Ordered).with_compensation().owned_by("inventory")
FORM = Choreography("shop").starts_with(Ordered).step(RESERVE)
OPEN = Choreography("shop").starts_with(Ordered, participants={"inventory"})
DEFINE = Notice(f"define.{FORM.definition}", FORM.canonical_bytes)


class MoodyStore(MemoryStore):
    """Out of reach the first times that something is to be remembered."""

    failures = 2

    async def remember(self, definition: str, canonical: bytes, holders: Sequence[str]) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("out of reach")
        await super().remember(definition, canonical, holders)


async def learning(
    part: Part, notices: Sequence[Notice], until: Callable[[Directory, Catalog], Awaitable[bool]], store: MemoryStore | None = None
) -> tuple[Catalog, MemoryStore]:
    """A directory that watches these notices until it is told to stop."""
    store, catalog = store or MemoryStore(), Catalog(part.service)
    broker = MemoryBroker(f"memory://directory-{next(_buses)}")
    await store.open()
    await broker.open(Topology(service=part.service, agent="a", events=()))
    directory = Directory(part, catalog, broker, store, SystemClock(), lambda: None)
    watching = asyncio.create_task(directory.watch())
    for notice in notices:
        await broker.notify(notice)
    give_up = time.monotonic() + 10
    while not await until(directory, catalog):
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await broker.close()
    return catalog, store


def run(scenario: Coroutine[Any, Any, tuple[Catalog, MemoryStore]]) -> tuple[Catalog, MemoryStore]:
    return asyncio.run(scenario)


async def knows(directory: Directory, catalog: Catalog) -> bool:
    return catalog.get(FORM.definition) is not None


def test_a_definition_is_learnt_in_the_end_though_the_store_was_out_of_reach() -> None:
    store = MoodyStore()
    catalog, _ = run(learning(Part("inventory"), [DEFINE], knows, store))
    assert store.failures == 0
    assert catalog.get(FORM.definition) is not None
    assert asyncio.run(store.definitions()) == {FORM.definition: FORM.canonical_bytes}


def test_a_definition_that_does_not_hash_to_its_name_or_is_not_well_formed_is_not_believed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = Choreography("shop").starts_with(Ordered).step(RESERVE.on_event("nobody.says"))
    notices = [
        Notice(f"define.{'0' * 32}", FORM.canonical_bytes),
        Notice(f"define.{broken.definition}", broken.canonical_bytes),
        Notice("define.x", b"{"),
        Notice("steps.shop.payment", Announcement(choreography="shop", service="inventory", steps=(RESERVE,)).notice().body),
        DEFINE,
    ]
    with caplog.at_level(logging.WARNING):
        catalog, store = run(learning(Part("inventory", open_=OPEN), notices, knows))
    assert [known.plan.definition for known in catalog.all()] == [FORM.definition]
    assert list(asyncio.run(store.definitions())) == [FORM.definition]
    assert sum("cannot be used" in record.message for record in caplog.records) == 4


def test_who_announces_steps_from_outside_the_closed_set_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    strange = ChoreographyStep("spy").on_event(Ordered).owned_by("stranger")
    notices = [Announcement(choreography="shop", service="stranger", steps=(strange,), agent=a).notice() for a in "ab"]
    with caplog.at_level(logging.WARNING):
        run(
            learning(
                Part("web", open_=OPEN),
                [*notices, Announcement(choreography="shop", service="inventory", steps=(RESERVE,)).notice()],
                knows,
            )
        )
    assert sum("'stranger' announces steps" in record.message for record in caplog.records) == 1


def test_agents_of_the_service_are_counted_as_long_as_they_say_that_they_are_there() -> None:
    part, now_ms = Part("inventory"), SystemClock().time_ns() // 1_000_000
    broker = MemoryBroker(f"memory://directory-{next(_buses)}")
    directory = Directory(part, Catalog("inventory"), broker, MemoryStore(), SystemClock(), lambda: None)
    here, gone = Sign(now_ms, 10_000), Sign(now_ms - 3_600_000, 10_000)
    said = [("payment", "other", here), ("inventory", "gone", gone), ("inventory", "one", here), ("inventory", "one", here)]

    async def scenario() -> list[tuple[int, bool]]:
        counted = [(directory.signs.company(), directory.has_company())]
        for service, agent, sign in [*said, ("inventory", "two", here), *(("inventory", f"{n}", here) for n in range(100))]:
            await directory._learn(
                alive_notice(service, agent, sign)
            )  # each as it is said: only the last word of a service is kept
            counted.append((directory.signs.company(), directory.has_company()))
        return counted

    counted = asyncio.run(scenario())
    assert counted[:6] == [(0, False), (0, False), (0, False), (1, True), (1, True), (2, True)], (
        "who was gone before we came is not there"
    )
    assert max(counted) == (64, True), "somebody who makes up agents cannot fill the memory"


@pytest.mark.parametrize(
    "times", [{"every_ms": "9" * 400}, {"every_ms": 0}, {"every_ms": 10**12}, {"every_ms": True}, {"at_ms": "1"}, {"at_ms": None}]
)
def test_a_sign_of_life_that_no_agent_has_written_is_not_believed(times: dict[str, object]) -> None:
    body = {"service": "inventory", "agent": "forged", "at_ms": SystemClock().time_ns() // 1_000_000, "every_ms": 10_000, **times}
    with pytest.raises(ValueError, match="sign of life"):
        read_alive(Notice("alive.inventory", json.dumps(body).encode()))


def test_an_agent_that_comes_is_told_soon_who_is_there_and_all_know_one_order() -> None:
    async def scenario() -> None:
        bus, all_met = f"memory://directory-{next(_buses)}", asyncio.Event()
        there: dict[str, Directory] = {}

        class Meeting(Directory):
            async def _learn(self, notice: Notice) -> None:
                await super()._learn(notice)
                if len(there) == 3 and all(one.signs.company() == 2 for one in there.values()):
                    all_met.set()

        async with AsyncExitStack() as open_:
            await open_.enter_async_context(asyncio.timeout(10))
            for agent in ("b", "c", "a"):
                broker = MemoryBroker(bus)
                await broker.open(Topology(service="inventory", agent=agent, events=(), owners=("inventory",)))
                open_.push_async_callback(broker.close)
                one = there[agent] = Meeting(
                    Part("inventory"), Catalog("inventory"), broker, MemoryStore(), SystemClock(), lambda: None
                )
                await one.announce(agent)
                for work in (one.watch(), one.beat_for_ever(agent, 3_600.0)):
                    open_.callback(asyncio.ensure_future(work).cancel)
            await all_met.wait()
        assert [there[agent].signs.place(agent) for agent in "abc"] == [(0, 3), (1, 3), (2, 3)]

    asyncio.run(scenario())


def test_agents_that_are_more_than_are_counted_do_not_greet_each_other_without_end() -> None:
    signs = Signs("inventory", SystemClock())
    now_ms = time.time_ns() // 1_000_000

    def new(after_ms: int) -> int:
        return sum(signs.hear("inventory", f"{n}", Sign(now_ms + after_ms), me="me") for n in range(70))

    assert new(0) == 64
    assert new(1) == new(2) == 0


def test_company_whose_clock_is_ahead_is_not_there_for_longer_than_others() -> None:
    class Clock(SystemClock):
        ahead_ns = 0

        def time_ns(self) -> int:
            return super().time_ns() + self.ahead_ns

        def monotonic(self) -> float:
            return super().monotonic() + self.ahead_ns / 10**9

    clock, broker = Clock(), MemoryBroker(f"memory://directory-{next(_buses)}")
    directory = Directory(Part("inventory"), Catalog("inventory"), broker, MemoryStore(), clock, lambda: None)
    asyncio.run(directory._learn(alive_notice("inventory", "ahead", Sign(2**62, 10_000))))
    assert directory.has_company()
    clock.ahead_ns = 36 * 10**9
    assert not directory.has_company()
    clock.ahead_ns = 0
    assert not directory.has_company(), "it is forgotten"
