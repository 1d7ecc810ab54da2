"""An agent on a store that may have gone back: a SQLite file, a broker whose notices come late or never, clocks that differ."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from saga_choreo.errors import BrokerUnavailable, StoreUnavailable
from saga_choreo.memory.broker import MemoryBroker
from saga_choreo.ports import Epoch, Notice, Topology, Upkeep
from saga_choreo.runtime import epochs as module
from saga_choreo.runtime.accepting import accept
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.epochs import Epochs
from saga_choreo.runtime.plugins import WholeStore, make_store

_numbers = itertools.count()
HOUR_NS = 3_600 * 10**9


class Clock(SystemClock):
    def __init__(self, ahead_ns: int = 0) -> None:
        super().__init__()
        self._ahead_ns = ahead_ns

    def time_ns(self) -> int:
        return super().time_ns() + self._ahead_ns


class World:
    """One broker, and a file whose position can be set back."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "payment.db"
        self.url = f"sqlite:///{self.file}"
        self.broker = MemoryBroker(f"memory://epochs-{next(_numbers)}")
        self.may_be_read = asyncio.Event()
        self.may_be_read.set()
        self.names = itertools.count()

    async def tell(self, identity: str, position: int, at_ms: int = 1) -> None:
        body = {"service": "payment", "agent": "old", "identity": identity, "position": position, "at_ms": at_ms}
        await self.broker.notify(Notice("epoch.payment", orjson.dumps(body)))

    @asynccontextmanager
    async def agent(self, clock: Clock | None = None) -> AsyncGenerator[Epochs]:
        store = make_store(self.url)
        await store.open()
        epochs = Epochs("payment", f"agent-{next(self.names)}", store, self.broker, clock or Clock(), 0.05)

        async def watch() -> None:
            await self.may_be_read.wait()
            async for notice in self.broker.notices():
                if notice.subject.startswith("epoch"):
                    epochs.hear(notice)

        tasks = []
        try:
            await epochs.ask()
            tasks = [asyncio.create_task(watch()), asyncio.create_task(epochs.run())]
            yield epochs
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await store.close()

    async def accept(self, clock: Clock | None = None) -> None:
        """As `saga-choreo store accept-epoch` does."""
        async with self.store() as store:
            now = await store.epoch("payment")
            note = accept(now, f"a{next(self.names)}", "ana", "restored", (clock or Clock()).time_ns() // 1_000_000).note()
            await store.advance("payment", note=note)

    async def now(self) -> Epoch:
        async with self.store() as store:
            return await store.epoch("payment")

    @asynccontextmanager
    async def store(self) -> AsyncGenerator[Upkeep]:
        store: WholeStore = make_store(self.url)
        await store.open()
        try:
            assert isinstance(store, Upkeep)
            yield store
        finally:
            await store.close()

    async def at(self, position: int) -> str:
        """The file as of long ago; its identity."""
        async with self.store() as store:
            await store.advance("payment", position - 1)
        return (await self.now()).identity

    def copy(self) -> Path:
        copy = self.file.with_suffix(".copy")
        with sqlite3.connect(self.file) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        return copy

    def restore(self, copy: Path) -> None:
        for one in self.file.parent.glob(f"{self.file.name}*"):
            one.unlink()
        shutil.copy(copy, self.file)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, seconds in {"_REPLAY_S": 0.6, "_ASK_AGAIN_S": 0.05, "_ASK_AGAIN_MAX_S": 0.1, "_LOOK_S": 0.05}.items():
        monkeypatch.setattr(module, name, seconds)
    return World(tmp_path)


def run(world: World, scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    async def opened() -> None:
        await world.broker.open(Topology(service="payment", agent="a", events=()))
        try:
            async with asyncio.timeout(20):
                await scenario()
        finally:
            await world.broker.close()

    asyncio.run(opened())


async def kept(world: World) -> dict[str, int]:
    """What a newcomer would be told."""
    async for notice in world.broker.notices():
        if notice.subject == "epoch.payment":
            found: dict[str, int] = orjson.loads(notice.body)
            return found
    raise AssertionError("unreachable")


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_true():  # noqa: ASYNC110  (what a test looks at has no event)
            await asyncio.sleep(0.01)


async def until_told(world: World, position: int) -> None:
    async with asyncio.timeout(5):
        while (await kept(world))["position"] < position:  # noqa: ASYNC110  (what a channel keeps has no event)
            await asyncio.sleep(0.01)


async def works(epochs: Epochs) -> bool:
    return await epochs.until_clear(0)


def test_an_agent_to_which_nothing_was_told_works_at_once(world: World) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(0.5), world.agent() as epochs:
            await epochs.cleared()

    run(world, scenario)


def test_what_is_heard_late_is_compared_and_nothing_is_told_over_it(world: World) -> None:
    """The broker takes longer for what it keeps than the agent waits at its start."""

    async def scenario() -> None:
        identity = await world.at(3)
        await world.tell(identity, 500)
        world.may_be_read.clear()
        async with world.agent() as epochs:
            await asyncio.sleep(0.3)
            assert not await works(epochs), "it is waited for"
            await epochs.cleared()
            await asyncio.sleep(0.2)
            assert (await world.now()).position == 3
            assert (await kept(world))["position"] == 500, "what was told is still there for whoever comes next"
            world.may_be_read.set()
            await until(lambda: bool(epochs.suspicion))
            assert "it is at position 3, and had reached 500" in epochs.suspicion
            assert not await works(epochs)
        assert (await kept(world))["position"] == 500

    run(world, scenario)


def test_a_lower_word_about_the_same_history_does_not_replace_a_higher_one(world: World) -> None:
    """Whoever has told it works on a store that has gone back."""

    async def scenario() -> None:
        identity = await world.at(300)
        async with world.agent() as epochs:
            await epochs.cleared()
            for position, at_ms in ((500, 1), (4, 2**45)):
                epochs.hear(
                    Notice(
                        "epoch.payment", orjson.dumps({"agent": "x", "identity": identity, "position": position, "at_ms": at_ms})
                    )
                )
            await until(lambda: bool(epochs.suspicion))
            assert "had reached 500" in epochs.suspicion

    run(world, scenario)


def test_an_agent_that_works_without_having_heard_says_so_as_a_warning_and_tells_its_position_once_it_has(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        await world.at(3)
        world.may_be_read.clear()
        with caplog.at_level(logging.INFO, logger="saga_choreo.epochs"):
            async with world.agent() as epochs:
                await epochs.cleared()
                (said,) = [record for record in caplog.records if record.levelno == logging.WARNING]
                assert "what was told of the store of service 'payment' did not come" in said.getMessage()
                world.may_be_read.set()
                assert (await kept(world))["position"] > 3

    run(world, scenario)


def test_a_question_that_another_agents_question_has_replaced_is_put_again(world: World) -> None:
    async def scenario() -> None:
        identity = await world.at(3)
        await world.tell(identity, 2)
        world.may_be_read.clear()
        async with world.agent() as epochs:
            other = orjson.dumps({"agent": "other", "at_ms": 1})  # its clock is behind
            await world.broker.notify(Notice("epoch-asked.payment", other))
            world.may_be_read.set()
            async with asyncio.timeout(0.4):
                await epochs.cleared()

    run(world, scenario)


def test_a_broker_that_takes_no_questions_does_not_keep_the_agent_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        world.may_be_read.clear()
        async with world.agent() as epochs:

            async def refuse(_notice: Notice) -> None:
                raise BrokerUnavailable("away")

            monkeypatch.setattr(world.broker, "notify", refuse)
            await epochs.cleared()

    run(world, scenario)


@pytest.mark.parametrize("ahead_ns", [HOUR_NS, -HOUR_NS])
def test_an_acceptance_counts_at_once_though_the_clocks_of_agent_and_operator_differ(world: World, ahead_ns: int) -> None:
    async def scenario() -> None:
        identity = await world.at(3)
        clock = Clock(ahead_ns)
        await world.tell(identity, 500, clock.time_ns() // 1_000_000)
        async with world.agent(clock) as epochs:
            await until(lambda: bool(epochs.suspicion))
            await world.accept()
            await until(lambda: not epochs.suspicion)
            await epochs.cleared()
            await until_told(world, 501)
        async with world.agent(clock) as epochs:  # what was accepted once stays so
            await epochs.cleared()

    run(world, scenario)


def test_an_acceptance_of_long_ago_does_not_cover_a_restore_of_today(world: World) -> None:
    """Also where the backup is older than the moment at which an agent went on with it, and whatever the clocks say."""

    async def scenario() -> None:
        identity = await world.at(3)
        await world.tell(identity, 500)
        await world.accept(Clock(24 * HOUR_NS))
        before_it_was_used = world.copy()
        async with world.agent() as epochs:
            await epochs.cleared()  # accepted before the agent came
            await until_told(world, 503)
        after = world.copy()
        async with world.agent() as epochs:
            await until_told(world, 520)
        for copy in (before_it_was_used, after):
            world.restore(copy)
            async with world.agent() as epochs:
                await until(lambda epochs=epochs: bool(epochs.suspicion))
                await asyncio.sleep(0.2)
                assert "commits are missing" in epochs.suspicion
        await world.accept()
        async with world.agent() as epochs:
            await epochs.cleared()

    run(world, scenario)


def test_an_acceptance_that_was_not_needed_does_not_cover_a_restore_either(world: World) -> None:
    async def scenario() -> None:
        await world.at(3)
        await world.accept()
        accepted = world.copy()
        async with world.agent() as epochs:
            await epochs.cleared()
            await until_told(world, 10)
        world.restore(accepted)
        async with world.agent() as epochs:
            await until(lambda: bool(epochs.suspicion))

    run(world, scenario)


def test_an_agent_goes_on_with_what_another_has_gone_on_with_and_not_told(world: World) -> None:
    """The first died between its commit and its word: the second still hears of the other history only."""

    async def scenario() -> None:
        await world.at(3)
        await world.tell("another database", 500)
        await world.accept()
        async with world.store() as store:
            note = (await store.epoch("payment")).note
            used = module.Acceptance.of(note)
            assert used is not None
            await store.advance("payment", 500, used.used({"another database": 500}).note())
        async with world.agent() as epochs:
            await epochs.cleared()
            assert not epochs.suspicion

    run(world, scenario)


def test_agents_on_two_databases_are_not_both_content(world: World) -> None:
    async def scenario() -> None:
        await world.at(3)
        async with world.agent() as epochs:
            await epochs.cleared()
            await world.tell("another database", 2)  # with a lower position, and a clock long behind
            await until(lambda: bool(epochs.suspicion))

    run(world, scenario)


def test_what_is_suspicious_is_told_though_the_store_was_away_just_then(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The list of suspect sagas is read after the position."""
    failures = [StoreUnavailable("away")]

    async def suspects(store: WholeStore, service: str) -> list[str]:
        if failures:
            raise failures.pop()
        return await real(store, service)

    async def scenario() -> None:
        await world.tell(await world.at(3), 500)
        async with world.agent() as epochs:
            await until(lambda: "saga-choreo store accept-epoch --service payment" in caplog.text)
            assert epochs.suspicion

    real = module.suspects
    monkeypatch.setattr(module, "suspects", suspects)
    run(world, scenario)
