"""Dead letters for scenarios: old messages made from what really travelled, jobs followed to their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from saga_choreo import SagaHandle
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record
from saga_choreo.ports import ItemState, Quarantined
from saga_choreo.runtime.deadletters.door import DeadLetters
from saga_choreo.runtime.deadletters.find import WantedLetters
from saga_choreo.runtime.deadletters.replay import JobView, ReplayOrder
from saga_choreo.runtime.letters import letter_of
from saga_choreo.runtime.saying import everything
from saga_choreo.runtime.views import plan_from
from saga_choreo.testing.harness import Cluster
from tests.scenarios.parking import with_tool
from tests.scenarios.world import eventually

__all__ = ["ASK", "all_of_them", "ended", "old_messages", "replay", "states", "stored_messages"]

ASK = ReplayOrder(operator="ana", reason="ticket 4411", rate_per_min=0, stop_percent=100)


async def stored_messages(cluster: Cluster, service: str, handle: SagaHandle, to: str) -> list[Quarantined]:
    """What a service said in this saga, as letters of another one: byte by byte what had travelled."""

    async def read(tool: Any) -> list[Quarantined]:
        definitions = await tool.definitions()
        found: list[Quarantined] = []
        for record in await tool.records(handle.saga_id, service):
            found += _letters(record, definitions, to)
        return found

    messages: list[Quarantined] = await with_tool(cluster, service, read)
    return messages


def _letters(record: Record, definitions: Any, to: str) -> list[Quarantined]:
    plan = plan_from(definitions, record.definition)
    assert plan is not None
    said = (letter_of(message, record, plan, 1_000_000_000) for message in everything(record, plan))
    return [
        Quarantined(
            service=to,
            code="stale",
            detail="too old",
            channel=str(one.channel),
            headers=one.headers,
            body=one.body,
            received_ms=record.changed_ms,
            saga_id=str(record.saga_id),
        )
        for one in said
        if one is not None and str(one.channel) != f"control.{record.service}"
    ]


def old_messages(like: Sequence[Quarantined], count: int, started_ms: int) -> list[Quarantined]:
    """So many messages of as many other sagas, which started then and are forgotten."""
    made: list[Quarantined] = []
    for number in range(count):
        one = like[number % len(like)]
        other = str(saga_id_at(started_ms + number, number.to_bytes(10, "big")))
        headers = {name: value.replace(one.saga_id, other) for name, value in one.headers.items()}
        made.append(replace(one, headers=headers, saga_id=other, received_ms=started_ms + number))
    return made


async def all_of_them(letters: DeadLetters, wanted: WantedLetters | None = None) -> list[Any]:
    return [one async for one in letters.find(wanted)]


async def replay(letters: DeadLetters, wanted: WantedLetters | None = None, order: ReplayOrder = ASK) -> str:
    """Ask for it; the job's id."""
    (job,) = await letters.replay(await letters.preflight(letters.find(wanted)), order)
    return job.id


async def ended(letters: DeadLetters, job_id: str, within_s: float = 60.0) -> JobView:
    async def look() -> JobView | None:
        view = await letters.job(job_id)
        return view if view.is_over else None

    found = await eventually(look, within_s)
    assert found is not None
    return found


async def states(letters: DeadLetters, job_id: str) -> list[ItemState]:
    return [ItemState(item.state) async for item in letters.items(job_id)]
