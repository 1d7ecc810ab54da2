"""Random choreographies under random failures, judged by the ledgers alone: each effect once, causes before effects, and undone
in reverse. Memory broker and store; a broker that duplicates, delays and loses; two agents of one service.

A failure prints its seed; `SEEDS=7 pytest tests/scenarios/test_stress.py` runs that one again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from saga_choreo import Backoff, Choreography, Event, Reject, Retry, SagaHandle, SagaState, StepContext, all_of, any_of, choose
from saga_choreo.core.graph import Plan, plan_of
from saga_choreo.core.wellformed import findings
from saga_choreo.errors import BrokerUnavailable
from saga_choreo.model.choreography import Split
from saga_choreo.ports import Outgoing
from saga_choreo.runtime.plugins import make_broker
from tests.scenarios.world import QUICK, Effect, Go, World, event_of, run, step

SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "1,2,3,4,5,6,7,8").split(",")]
SERVICES = ("shop", "inventory", "payment")
SAGAS = 40
LIMITS = replace(QUICK, fast_budget_s=0.1, nudge_first_s=0.3, unannounced_after_s=0.2, scan_every_s=0.05, outcome_wait_s=0.02)
RETRY = Retry(attempts=12, backoff=Backoff.FIXED, delay_s=0.02)
UNDO_RETRY = Retry(attempts=40, backoff=Backoff.FIXED, delay_s=0.02)


def random_form(rng: random.Random, seed: int) -> Choreography:
    """A well-formed random graph of four to nine steps: forks, choices, joins, optional and external steps."""
    while True:
        steps = []
        events: list[Any] = [Go]
        for number in range(rng.randint(4, 9)):
            reads = rng.sample(events, min(len(events), rng.choice((1, 1, 1, 2, 2, 3))))
            join = reads[0] if len(reads) == 1 else rng.choice((all_of, any_of))(*reads)
            published = [f"e{number}.{word}" for word in ("one", "two", "three")[: rng.choice((1, 1, 2, 2, 3))]]
            kinds = {"optional": rng.random() < 0.15, "external": rng.random() < 0.1}
            split = rng.choice((Split.ALL, Split.ALL, Split.ONE, Split.SOME))
            steps.append(step(f"s{number}", rng.choice(SERVICES), join, *published, split=split, **kinds))
            events += published
        form = Choreography(f"stress-{seed}").starts_with(Go).step(*steps)
        if not findings(form):
            return form


class RoughBroker:
    """The memory broker; of what is published some is lost (and said to be unknown), doubled, or late."""

    def __init__(self, url: str, prefix: str, rng: random.Random) -> None:
        self._real = make_broker(url, prefix=prefix)
        self._rng = rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        answers: list[Exception | None] = []
        for message in messages:
            dice = self._rng.random()
            if dice < 0.2:
                await asyncio.sleep(self._rng.random() * 0.02)
            if dice > 0.07:
                await self._real.publish([message] * (2 if dice > 0.8 else 1))
            # Half of what is said to be unknown has arrived all the same.
            answers.append(BrokerUnavailable("unknown") if dice < 0.14 else None)
        return answers


def rough_acts(world: World, rng: random.Random) -> None:
    for one in world.form.steps:
        world.on[(one.name, "do")] = _rough(rng, one.split, [ref.name for ref in one.publishes])
        world.on[(one.name, "undo")] = _rough(rng, None, [])


def _rough(rng: random.Random, split: Split | None, published: list[str]) -> Any:
    async def act(ctx: StepContext) -> Any:
        dice = rng.random()
        if dice < 0.12:
            raise RuntimeError("down")
        if dice < 0.14:
            await asyncio.sleep(0.15)
        elif dice < 0.3:
            await asyncio.sleep(rng.random() * 0.01)
        if split is not None and rng.random() < 0.04:
            raise Reject("no")
        return _answer(rng, split, published)

    return act


def _answer(rng: random.Random, split: Split | None, published: list[str]) -> Any:
    if split is Split.ONE:
        return event_of(rng.choice(published))()
    if split is Split.SOME:
        some: list[type[Event]] = [event_of(name) for name in rng.sample(published, rng.randint(1, len(published)))]
        return choose(*(kind() for kind in some))
    return None


def judge(plan: Plan, state: SagaState, effects: list[Effect]) -> list[str]:
    """What is wrong with one saga's ledger. External steps write none; what is between them is still in order."""
    did: dict[str, int] = {}
    undid: dict[str, int] = {}
    wrong: list[str] = []
    for one in effects:
        side = did if one.side == "do" else undid
        wrong += [f"{one.side} {one.step} twice"] if one.step in side else []
        side[one.step] = one.at_ns
    wrong += [f"undid {name}, which was never done" for name in undid.keys() - did.keys()]
    wrong += [f"undid {name} before it was done" for name in undid.keys() & did.keys() if undid[name] < did[name]]
    if state is SagaState.COMPLETED:
        wrong += [f"completed, but undid {name}" for name in undid]
    else:
        wrong += [f"{state}, but did not undo {name}" for name in did.keys() - undid.keys()]
    for later in plan.steps:
        for source, _ in later.in_edges:
            if source < 0:
                continue
            first = plan.steps[source].name
            if later.name in did and first in did and did[later.name] < did[first]:
                wrong.append(f"{later.name} before its cause {first}")
            if later.name in undid and first in undid and undid[later.name] > undid[first]:
                wrong.append(f"{first} undone before {later.name}, which it caused")
    return wrong


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_every_effect_stands_once_and_is_undone_in_reverse(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    form = random_form(rng, seed)
    options = {one.name: {"retry": RETRY} for one in form.steps}
    undo_options = {one.name: {"retry": UNDO_RETRY} for one in form.steps}
    name = f"memory://stress-{seed}"
    world = World(form, name, f"{name}-{{service}}", LIMITS, options=options, undo_options=undo_options)
    rough_acts(world, rng)

    async def scenario() -> None:
        cluster = world.cluster()
        second = world.agent("inventory")
        for agent in (*world.agents.values(), second):
            agent.configure(broker=RoughBroker(name, world.prefix, rng))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(cluster)
            await stack.enter_async_context(second.serving())
            handles = [await cluster["shop"].start_saga(Go(), key=f"{number}") for number in range(SAGAS)]
            states = [await ended(handle, seed) for handle in handles]
            effects = await world.effects(cluster)
        plan, wrong = plan_of(form), []
        for handle, state in zip(handles, states, strict=True):
            mine = [one for one in effects if one.saga == str(handle.saga_id)]
            wrong += [f"seed {seed}, saga {handle.saga_id} ({state}): {fault}" for fault in judge(plan, state, mine)]
        assert not wrong, "\n".join(wrong)
        assert set(states) <= {SagaState.COMPLETED, SagaState.COMPENSATED}

    run(scenario(), 60)


async def ended(handle: SagaHandle, seed: int) -> SagaState:
    try:
        return await handle.wait(30)
    except TimeoutError as exc:  # pragma: no cover
        raise AssertionError(f"seed {seed}: {handle} does not end") from exc


def test_the_judge_sees_what_is_wrong() -> None:
    form = Choreography("judged").starts_with(Go).step(step("a", "shop", Go, "a.done"), step("b", "shop", "a.done"))
    plan = plan_of(form)

    def ledger(*words: str) -> list[Effect]:
        return [Effect("s", word.split()[-1], "undo" if word.startswith("undo") else "do", at) for at, word in enumerate(words)]

    assert not judge(plan, SagaState.COMPLETED, ledger("a", "b"))
    assert not judge(plan, SagaState.COMPENSATED, ledger("a", "b", "undo b", "undo a"))
    assert judge(plan, SagaState.COMPLETED, ledger("a", "b", "b")) == ["do b twice"]
    assert judge(plan, SagaState.COMPLETED, ledger("b", "a")) == ["b before its cause a"]
    assert judge(plan, SagaState.COMPENSATED, ledger("a", "b", "undo a", "undo b")) == ["a undone before b, which it caused"]
    assert judge(plan, SagaState.COMPENSATED, ledger("a")) == ["compensated, but did not undo a"]
    assert judge(plan, SagaState.COMPLETED, ledger("a", "undo a", "b")) == ["completed, but undid a"]
