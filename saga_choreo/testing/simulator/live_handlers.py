"""Handlers as a participant writes them, for real agents in virtual time: they sleep, write, call out, refuse and break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import new_class
from typing import Any, cast

from pydantic import BaseModel

from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.errors import Reject, SagaError, TransactionTooLong
from saga_choreo.model.choreography import ChoreographyStep, Split, Undo
from saga_choreo.model.event import Event, EventRef
from saga_choreo.model.record import RecordKey
from saga_choreo.model.states import State
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.invoke import Invocation
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.runtime.declare.results import Pending, choose
from saga_choreo.testing.simulator.carried import KEPT, UNDONE, text_of
from saga_choreo.testing.simulator.errors import ERRORS
from saga_choreo.testing.simulator.external import Provider, Reply
from saga_choreo.testing.simulator.guards import Watch
from saga_choreo.testing.simulator.handlers import choice_of
from saga_choreo.testing.simulator.oracle import Oracle
from saga_choreo.testing.simulator.overlaps import Overlaps
from saga_choreo.testing.simulator.world import World
from saga_choreo.testing.virtual_loop import Life

__all__ = ["LiveHandlers", "event_class"]


class _Kept(BaseModel):
    of: str


@lru_cache(maxsize=256)
def event_class(ref: EventRef) -> Callable[..., Event]:
    """A class of that event, with one field, `of`."""

    def body(namespace: dict[str, Any]) -> None:
        namespace |= {"__annotations__": {"of": str}, "of": ""}

    made = new_class(f"Simulated_{ref.name}", (Event,), {"name": ref.name, "version": ref.version}, body)
    return cast("type[Event]", made)


class LiveHandlers:
    """Makes bound steps whose functions are played here."""

    def __init__(self, world: World, oracle: Oracle, provider: Provider, watch: Watch) -> None:
        self._world = world
        self._oracle = oracle
        self._provider = provider
        self._watch = watch
        self._stream = world.streams.named("handlers")
        self._errors = world.streams.named("errors")
        self._overlaps = Overlaps(world)
        self._beats = world.streams.named("heartbeats")

    def bound(self, plan: Plan, step: StepPlan, options: StepOptions, lock: str) -> BoundStep:
        definition = plan.choreography.steps[step.index]

        async def forward(inputs: Mapping[Any, bytes], kept: bytes | None, ctx: StepContext) -> Any:
            del kept
            self._oracle.carried.events(ctx.key, step, plan, inputs)
            if step.external:
                self._oracle.policies.calls(RecordKey(ctx.saga_id, plan.definition, step.index), ctx.idempotency_key)
            place, now = Life.current.get(), self._world.now_s
            run = self._watch.began(place, step.name, options, now())
            try:
                return await self._forward(definition, step, ctx)
            except Reject:
                self._oracle.policies.refused(RecordKey(ctx.saga_id, plan.definition, step.index))
                raise
            finally:
                self._watch.ended(place, step.name, run, now(), failed=None)

        async def undo(results: Mapping[Any, bytes], kept: bytes | None, ctx: StepContext) -> Event | None:
            self._oracle.carried.undo(self._oracle.ledgers[ctx.saga_id], step.index, results, kept)
            return await self._undo(definition, step, ctx)

        play = cast("Invocation", forward)
        return BoundStep(
            definition, options, play, cast("Invocation", undo) if step.undo is not Undo.NONE else None, (), lambda _: lock
        )

    async def _forward(self, definition: ChoreographyStep, step: StepPlan, ctx: StepContext) -> Any:
        ctx.keep(_Kept(of=text_of(ctx.key, step.index, KEPT)))
        choice = choice_of(step, self._stream)
        if step.external:
            pending = bool(step.deadline_choice) or self._stream.chance(0.08)
            reply = await self._call(ctx, step, choice, is_undo=False, pending=pending)
            return Pending() if reply.is_pending else self._answer(definition, step, ctx, reply.choice)
        await self._trouble("step_error", "step_reject")
        await ctx.tx.execute("append", "effects", ctx.saga_id, step.index, False)
        if self._world.hit("step_error") is not None:
            raise self._errors.pick(ERRORS)("simulated, after the write")
        return self._answer(definition, step, ctx, choice)

    async def _undo(self, definition: ChoreographyStep, step: StepPlan, ctx: StepContext) -> Event | None:
        if step.undo is Undo.EXTERNAL:
            await self._call(ctx, step, 0, is_undo=True, pending=False)
        else:
            await self._trouble("undo_error", None)
            await ctx.tx.execute("append", "effects", ctx.saga_id, step.index, True)
        event = definition.undo_event
        return (
            event_class(event)(of=text_of(ctx.key, step.index, UNDONE)) if event is not None and self._stream.chance(0.8) else None
        )

    async def _trouble(self, error: str, rejection: str | None) -> None:
        world = self._world
        if world.hit("too_long") is not None:
            world.saw("a step held up a shared transaction for too long")
            raise TransactionTooLong("the only writer was held for too long")
        if world.hit("step_overrun") is not None:
            world.saw("overran into the slow lane")
            await asyncio.sleep(1.0)
        await asyncio.sleep(self._stream.random() ** 3 * 0.05)
        if world.hit(error) is not None:
            raise self._errors.pick(ERRORS)("simulated")
        if rejection is not None and world.hit(rejection) is not None:
            raise Reject("no")

    async def _call(self, ctx: StepContext, step: StepPlan, choice: int, *, is_undo: bool, pending: bool) -> Reply:
        came: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

        def answer(reply: Reply | None) -> None:
            if not came.done():
                came.set_result(reply)

        run = self._overlaps.began(RecordKey(ctx.saga_id, self._oracle.ledgers[ctx.saga_id].plan.definition, step.index))
        try:
            self._provider.call(ctx.idempotency_key, (ctx.saga_id, step.index, is_undo), choice, answer, pending=pending)
            # Some work on for a while when they have called, and say all the time that they live.
            for _ in range(self._beats.below(6) if self._beats.chance(0.15) else 0):
                await asyncio.sleep(self._beats.between(0.5, 3))
                await self._beat(ctx, step)
            reply = await came
        finally:
            self._overlaps.ended(run)
        if reply is None or not (reply.is_done or reply.is_declined):
            raise self._errors.pick(ERRORS)("no answer")
        if reply.is_declined:
            raise Reject("declined by the provider")
        return reply

    async def _beat(self, ctx: StepContext, step: StepPlan) -> None:
        """A sign of life, which tells an attempt that does not count any more."""
        row = self._oracle.ledgers[ctx.saga_id].rows[step.index]
        is_lost = row.attempt != ctx.attempt or row.state not in (State.RUNNING, State.COMPENSATING)
        try:
            await ctx.heartbeat()
        except SagaError:
            if is_lost:
                self._world.saw("a heartbeat told that the attempt does not count any more")
                raise
        else:
            if is_lost:
                self._world.broken(
                    "LEASE", f"attempt {ctx.attempt} of step {step.name!r} of saga {ctx.key} was lost, and is kept alive"
                )

    def _answer(self, definition: ChoreographyStep, step: StepPlan, ctx: StepContext, choice: int) -> Any:
        events = [
            event_class(ref)(of=text_of(ctx.key, step.index, number))
            for number, ref in enumerate(definition.publishes)
            if choice >> number & 1
        ]
        if not events:
            return None
        if definition.split is Split.SOME:
            return choose(*events)
        return events[0] if definition.split is Split.ONE or len(definition.publishes) == 1 else tuple(events)
