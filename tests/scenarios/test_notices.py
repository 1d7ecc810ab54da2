"""What people are told on the dead-letter channel of parked steps and of the words on them."""

from __future__ import annotations

from uuid import UUID

import nats
from nats.js.api import DeliverPolicy

from saga_choreo import (
    SagaState,
)
from saga_choreo.codec.wire import decode
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.states import Outcome
from tests.scenarios.parking import (
    parked,
    parks_local,
    record_of,
    say,
)
from tests.scenarios.world import Go, World, eventually, run


async def told(url: str, world: World, saga_id: UUID, *, again: bool = False) -> list[Envelope]:
    """The notices about a saga in the dead-letter channel, oldest first: new ones, or the repeated announcements, each once."""
    client = await nats.connect(url)
    try:
        subject = f"{world.prefix}.dlq"
        reader = await client.jetstream().subscribe(subject, ordered_consumer=True, deliver_policy=DeliverPolicy.ALL)
        found: dict[str, Envelope] = {}
        try:
            while True:
                message = await reader.next_msg(timeout=0.5)
                headers = dict(message.headers or {})
                if headers.get("ce-sagaid") == str(saga_id) and ("ce-sagaagain" in headers) is again:
                    found.setdefault(headers["ce-id"], decode(Channel(ChannelKind.DLQ), headers, message.data))
        except nats.errors.TimeoutError:
            return list(found.values())
    finally:
        await client.close()


def test_people_are_told_of_a_parked_step_and_of_each_word_on_it(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, down = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go(), key="o-1")
            await parked(cluster, handle)
            await say(cluster, handle, "retry")

            async def twice() -> bool:
                return world.tried.count(("charge", "do")) == 4 and bool(await cluster["payment"].parked_steps())

            await eventually(twice)
            down.works = True
            await say(cluster, handle, "retry", "ben")
            assert await handle.wait(10) is SagaState.COMPLETED

            async def all_told() -> list[Envelope]:
                notices = await told(nats_url, world, handle.saga_id)
                return notices if len(notices) == 4 else []

            notices = await eventually(all_told)
            in_order = sorted(notices, key=lambda one: (one.parking.round if one.parking else 0, one.kind is MessageKind.PARKED))
            assert [one.kind for one in in_order] == ["parked", "resolved", "parked", "resolved"]
            first, word = in_order[0], in_order[1]
            assert (first.from_step, first.key, first.sender) == ("charge", "o-1", "payment")
            assert first.parking is not None
            assert (first.parking.attempt, first.parking.error) == (2, "RuntimeError: the bank is down")
            assert word.parking is not None
            assert (word.parking.operator, word.parking.resolution, word.reason) == ("ana", "retry", "ticket 4411")

    run(scenario())


def test_a_notice_that_its_process_could_not_publish_is_published_by_the_next(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            await cluster.stop("payment")
            await say(cluster, handle, "waive")  # a tool has no broker: the agent's scan finds it
            assert [one.kind for one in await told(nats_url, world, handle.saga_id)] == [MessageKind.PARKED]
            await cluster.start("payment")

            async def resolved() -> bool:
                return MessageKind.RESOLVED in [one.kind for one in await told(nats_url, world, handle.saga_id)]

            await eventually(resolved)
            assert await handle.wait(10) is SagaState.COMPLETED
            record = await record_of(cluster, handle.saga_id)
            assert record.row.outcome in (Outcome.COMPLETED, Outcome.OPEN)

    run(scenario())


def test_people_are_reminded_of_a_step_that_stays_parked(nats_url: str, store: str) -> None:
    async def scenario() -> None:
        world, _ = parks_local(nats_url, store)
        async with world.cluster() as cluster:
            handle = await cluster["shop"].start_saga(Go())
            await parked(cluster, handle)
            (first,) = await eventually(lambda: told(nats_url, world, handle.saga_id))
            (again,) = await eventually(lambda: told(nats_url, world, handle.saga_id, again=True))
            assert (first.kind, first.parking) == (again.kind, again.parking)

    run(scenario())
