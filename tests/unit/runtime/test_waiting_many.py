"""Many callers that wait for the ends of their sagas in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from saga_choreo import Agent, Choreography, ChoreographyStep, Event, Pending
from saga_choreo.errors import WaitTimeout


class Asked(Event, name="leave.asked"):
    pass


_held = (
    Choreography("held")
    .starts_with(Asked)
    .step(ChoreographyStep("approve").kind(external=True, read_only=True).on_event(Asked).owned_by("office"))
)


def _looks(*, has_company: bool) -> int:
    """How many of thirty look into the store at once, who wait for two seconds for what does not end."""
    name = uuid4().hex
    agent = Agent("office", saga=_held, broker=f"memory://{name}", store=f"memory://{name}")

    @agent.step("approve", external=True, read_only=True)
    async def approve(asked: Asked) -> Pending | None:
        return Pending()

    async def scenario() -> tuple[int, Sequence[Any]]:
        looking, most = 0, 0
        async with agent.serving():
            handles = [await agent.start_saga(Asked()) for _ in range(30)]
            assert agent._session is not None
            agent._session.directory.has_company = lambda: has_company  # type: ignore[method-assign]
            store = agent._session.store
            records = store.records

            async def watched(*wanted: Any) -> Any:
                nonlocal looking, most
                looking += 1
                most = max(most, looking)
                await asyncio.sleep(0.02)
                looking -= 1
                return await records(*wanted)

            store.records = watched  # type: ignore[method-assign]  # the store itself, looked at
            waits = [handle.wait(2.0) for handle in handles]
            ends = await asyncio.gather(*waits, return_exceptions=True)
        return most, ends

    most, ends = asyncio.run(scenario())
    assert all(isinstance(end, WaitTimeout) for end in ends)
    return most


def test_many_that_wait_look_into_the_store_a_few_at_a_time() -> None:
    assert 1 <= _looks(has_company=True) <= 4


def test_the_only_agent_of_a_service_need_not_look() -> None:
    assert _looks(has_company=False) == 0
