"""What agents remove from the streams of a real NATS server, and what they leave."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from saga_choreo.testing.servers import NatsServer
from saga_choreo_nats import trimming
from saga_choreo_nats.trimming import Trimmer, done_below


def _reader(pending: int, unacknowledged: int, floor: int) -> Any:
    return SimpleNamespace(num_pending=pending, num_ack_pending=unacknowledged, ack_floor=SimpleNamespace(stream_seq=floor))


def test_nothing_is_done_below_the_slowest_reader() -> None:
    assert done_below([], 9) == 0
    assert done_below([_reader(0, 0, 3), _reader(4, 0, 5)], 9) == 6
    assert done_below([_reader(0, 1, 3), _reader(0, 0, 8)], 9) == 4
    assert done_below([_reader(0, 0, 3), _reader(0, 0, 8)], 9) == 10
    assert done_below([_reader(0, 0, 3), _reader(0, 0, 8)], 0) == 4, "nothing is known to have settled"


def test_only_what_every_durable_has_acknowledged_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "_SETTLED_S", 0.0)

    async def scenario(server: NatsServer) -> None:
        client = await nats.connect(server.url)
        js = client.jetstream()
        await js.add_stream(StreamConfig(name="s", subjects=["s.>"]))
        for durable, subject in (("all", "s.>"), ("some", "s.a")):
            await js.add_consumer("s", ConsumerConfig(durable_name=durable, ack_policy=AckPolicy.EXPLICIT, filter_subject=subject))
        for number in range(10):
            await js.publish("s.a" if number < 5 else "s.b", b"")
        trimmer = Trimmer(SimpleNamespace(client=client), ["s"], 5.0, asyncio.Event())  # type: ignore[arg-type]  # the part it uses

        async def first_left() -> int:
            for _ in range(2):  # what was there at one look has settled at the next
                await trimmer._trim("s", worth=1)
            return (await js.stream_info("s")).state.first_seq

        assert await first_left() == 1
        for message in await (await js.pull_subscribe_bind(durable="all", stream="s")).fetch(10):
            await message.ack_sync()
        some = await js.pull_subscribe_bind(durable="some", stream="s")
        taken = await some.fetch(5)
        assert await first_left() == 1, "delivered is not acknowledged"
        for message in taken[:3]:
            await message.ack_sync()
        assert await first_left() == 4
        for message in taken[3:]:
            await message.ack_sync()
        assert await first_left() == 11
        await js.publish("s.a", b"")
        assert await first_left() == 11
        await client.close()

    with NatsServer(tmp_path) as server:
        asyncio.run(scenario(server))
