"""Replays on an agent's own pipeline: what a replayed message and a word on a parked step go through."""

from __future__ import annotations

from collections.abc import Sequence

from saga_choreo.core.facts import Resolved
from saga_choreo.model.record import Record
from saga_choreo.runtime.arrivals import Arrival
from saga_choreo.runtime.deadletters.runner import Replays
from saga_choreo.runtime.driver import Driver, Surroundings
from saga_choreo.runtime.pipeline import Pipeline
from saga_choreo.runtime.plugins import WholeStore, with_letters

__all__ = ["replays_of"]


def replays_of(around: Surroundings, store: WholeStore, pipeline: Pipeline) -> Replays | None:
    """None on a store that keeps no jobs."""
    if not store.features.letters:
        return None

    async def apply(arrivals: Sequence[Arrival]) -> None:
        await Driver(around).run(pipeline.handle(arrivals))

    async def speak(record: Record, operator: str, reason: str) -> object:
        word = Resolved("retry", operator)
        said = pipeline.command(record.saga_id, record.step, word, reason, definition=record.definition, runs=False, lease_ms=None)
        return await Driver(around).run(said)

    return Replays(around.service, around.agent, with_letters(store), around.clock, apply, speak)
