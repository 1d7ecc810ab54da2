"""A world for scenarios: any choreography, with generic handlers that write to a ledger, and acts that a test adds.

Every plain step writes one row to its service's own ledger in the step's transaction, before the test's act runs: an effect that
was to be undone is gone, one that happened twice is there twice. An external step notes its calls in `outside`, a list.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import new_class
from typing import Any, TypeVar

from saga_choreo import Agent, Choreography, ChoreographyStep, Event, Limits, SagaHandle, StepContext
from saga_choreo.model.choreography import Split, Undo
from saga_choreo.runtime.declare.results import choose
from saga_choreo.testing.harness import Cluster

__all__ = ["Act", "Call", "Effect", "Go", "World", "chain", "event_of", "eventually", "run", "step"]

T = TypeVar("T")
Act = Callable[[StepContext], Awaitable[Any]]
_numbers = itertools.count()
_TABLE = "create table if not exists ledger (saga text, step text, side text, at_ns bigint)"
_THERE = {
    "sqlite": "select 1 from sqlite_master where name = 'ledger'",
    "postgresql": "select 1 where to_regclass('ledger') is not null",
}
# How much slower a machine may be that does other things beside.
_PATIENCE = 3.0

# What a test would wait for otherwise: retries, scans and announcements are quick here.
QUICK = Limits(nudge_first_s=1.0, unannounced_after_s=0.6, ready_timeout_s=10.0, stop_grace_s=3.0)


class Go(Event, name="world.go"):
    note: str = ""


@dataclass(frozen=True)
class Effect:
    saga: str
    step: str
    side: str
    at_ns: int


@dataclass(frozen=True)
class Call:
    """What the outside has seen of an external step."""

    saga: str
    step: str
    side: str
    key: str
    attempt: int


def step(
    name: str, owner: str, reads: Any, *publishes: str, undo: bool = True, split: Split = Split.ALL, **kinds: bool
) -> ChoreographyStep:
    """A step in one line; with `external` its compensation is external as well."""
    made = ChoreographyStep(name).on_event(reads).owned_by(owner).kind(**kinds)
    if publishes:
        made = made.publish_event(*publishes, split=split)
    return made.with_compensation(external=kinds.get("external", False)) if undo else made


def chain(**kinds: Mapping[str, bool]) -> Choreography:
    """inventory: reserve -> payment: charge -> shop: confirm. `kinds` of a step by its name."""
    return (
        Choreography(f"chain-{next(_numbers)}")
        .starts_with(Go)
        .step(
            step("reserve", "inventory", Go, "stock.reserved", **kinds.get("reserve", {})),
            step("charge", "payment", "stock.reserved", "payment.charged", **kinds.get("charge", {})),
            step("confirm", "shop", "payment.charged", **kinds.get("confirm", {})),
        )
    )


@cache
def event_of(name: str) -> type[Event]:
    """An event class without fields of its own."""
    kind: Any = new_class("E", (Event,), {"name": name})
    return kind  # type: ignore[no-any-return]


@dataclass
class World:
    """`on[(step, 'do' or 'undo')]` is a test's own act; `options` go to `agent.step`, `undo_options` to its compensation."""

    form: Choreography
    broker: str
    store: str
    limits: Limits = QUICK
    prefix: str = ""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    undo_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    on: dict[tuple[str, str], Act] = field(default_factory=dict)
    outside: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prefix = self.prefix or f"w{next(_numbers)}"
        self.tried: list[tuple[str, str]] = []
        owners = dict.fromkeys(one.owner for one in self.form.steps)
        self.agents = {owner: self.agent(owner) for owner in (*owners, "shop")}

    def agent(self, service: str, *, limits: Limits | None = None) -> Agent:
        """A fresh agent of this service, on its own store."""
        agent = Agent(
            service,
            saga=self.form,
            broker=self.broker,
            store=self.store.replace("{service}", service),
            prefix=self.prefix,
            limits=limits or self.limits,
        )
        for one in self.form.steps:
            if one.owner == service:
                self._declare(agent, one)
        return agent

    def cluster(self) -> Cluster:
        return Cluster(*self.agents.values(), store=self.store)

    def changed(self, **changes: Any) -> World:
        return replace(self, **changes)

    def _declare(self, agent: Agent, one: ChoreographyStep) -> None:
        events = [event_of(ref.name) for ref in one.publishes]

        async def forward(ctx: StepContext) -> Any:
            answer = await self._act(one, "do", ctx)
            if answer is not None or not events:
                return answer
            made = tuple(event() for event in events)
            if one.split is Split.SOME:
                return choose(*made)
            return made[0] if len(made) == 1 or one.split is Split.ONE else made

        async def back(ctx: StepContext) -> Any:
            return await self._act(one, "undo", ctx)

        declared = agent.step(one.name, **self.options.get(one.name, {}))(forward)
        if one.undo is not Undo.NONE:
            external: dict[str, Any] = {"external": True} if one.undo is Undo.EXTERNAL else {}
            declared.compensation(**external, **self.undo_options.get(one.name, {}))(back)

    async def _act(self, one: ChoreographyStep, side: str, ctx: StepContext) -> Any:
        self.tried.append((one.name, side))
        external = one.external if side == "do" else one.undo is Undo.EXTERNAL
        if external:
            self.outside.append(Call(str(ctx.saga_id), one.name, side, ctx.idempotency_key, ctx.attempt))
        elif self.store.startswith("memory"):
            await ctx.tx.execute("append", "ledger", str(ctx.saga_id), one.name, side, time.monotonic_ns())
        else:
            await ctx.tx.execute(_TABLE)
            holes = "$1, $2, $3, $4" if self.store.startswith("postgresql") else "?, ?, ?, ?"
            await ctx.tx.execute(f"insert into ledger values ({holes})", str(ctx.saga_id), one.name, side, time.monotonic_ns())
        act = self.on.get((one.name, side))
        return None if act is None else await act(ctx)

    async def effects(self, cluster: Cluster, handle: SagaHandle | None = None) -> list[Effect]:
        """What stands in all ledgers, in the order it happened; of one saga, or of all."""
        found: list[Effect] = []
        for service in self.agents:
            if self.store.startswith("memory"):
                rows = await cluster.fetch(service, "read", "ledger")
            else:
                there = await cluster.fetch(service, _THERE["postgresql" if self.store.startswith("postgresql") else "sqlite"])
                rows = await cluster.fetch(service, "select * from ledger") if there else []
            found += [Effect(*row) for row in rows]
        wanted = [one for one in found if handle is None or one.saga == str(handle.saga_id)]
        return sorted(wanted, key=lambda effect: effect.at_ns)

    async def did(self, cluster: Cluster, handle: SagaHandle) -> list[str]:
        """The effects of one saga in words: 'reserve', and 'undo reserve'."""
        return [one.step if one.side == "do" else f"undo {one.step}" for one in await self.effects(cluster, handle)]

    def file(self, service: str) -> Path:
        return Path(self.store.replace("{service}", service).removeprefix("sqlite:///").partition("?")[0])


async def eventually(what: Callable[[], Awaitable[T]], within_s: float = 10.0) -> T:
    """Poll until it is true; the last answer when it never is is part of the failure. `within_s` is for a machine that is idle."""
    until = time.monotonic() + within_s * _PATIENCE
    while True:
        answer = await what()
        if answer:
            return answer
        assert time.monotonic() < until, f"{what} was still {answer!r} after {within_s * _PATIENCE} s"
        await asyncio.sleep(0.02)


def run(scenario: Coroutine[Any, Any, T], within_s: float = 40.0) -> T:
    """Run a scenario; no scenario hangs. `within_s` as in `eventually`."""

    async def bounded() -> T:
        async with asyncio.timeout(within_s * _PATIENCE):
            return await scenario

    return asyncio.run(bounded())
