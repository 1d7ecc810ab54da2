"""What broker benchmarks share: one workload for the adapter and for the bare client, alternating, in one process.

A side publishes `count` messages of 1 KiB in batches, each batch confirmed, some batches under way at once; then it consumes and
acknowledges them all. The two sides take turns, since a machine's pace changes; each figure is the median of its rounds, and what
counts is the ratio. The result is one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from saga_choreo.ports import Broker, Channel, ChannelKind, Outgoing, Topology

__all__ = ["AdapterSide", "Side", "Workload", "arguments", "compare", "tell"]


@dataclass(frozen=True)
class Workload:
    """`under_way` batches of `batch` messages are in flight while publishing; consuming takes up to `batch` at a time."""

    count: int = 10_000
    batch: int = 200
    under_way: int = 4
    rounds: int = 5
    body: bytes = b"x" * 1024
    event: str = "bench.happened"
    headers: dict[str, str] = field(default_factory=lambda: {f"ce-header{number}": "0123456789abcdef" for number in range(8)})


class Side(Protocol):
    """Open when it is handed over. `publish` returns when all of a batch are confirmed, `consume` when that many were received and
    acknowledged."""

    async def publish(self, count: int) -> None: ...
    async def consume(self, count: int) -> None: ...


class AdapterSide:
    """Any adapter, through the port."""

    def __init__(self, broker: Broker, workload: Workload) -> None:
        self._broker = broker
        self._workload = workload

    async def open(self) -> None:
        event = self._workload.event
        await self._broker.open(Topology(service="bench", agent="a1", events=(event,), known_events=(event,)))

    async def publish(self, count: int) -> None:
        work = self._workload
        channel = Channel(ChannelKind.EVENT, work.event)
        messages = [Outgoing(channel=channel, key=f"k{n % 64}", headers=work.headers, body=work.body) for n in range(count)]
        refused = [answer for answer in await self._broker.publish(messages) if answer is not None]
        if refused:
            raise refused[0]

    async def consume(self, count: int) -> None:
        left = count
        while left > 0:
            deliveries = await self._broker.receive(min(left, self._workload.batch), 0.005)
            await self._broker.ack(deliveries)
            left -= len(deliveries)


async def _publish_all(side: Side, work: Workload) -> None:
    turns = iter(range(work.count // work.batch))

    async def one_after_the_other() -> None:
        for _ in turns:
            await side.publish(work.batch)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(work.under_way):
            tasks.create_task(one_after_the_other())


async def _rate(work: Workload, run: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    async with asyncio.timeout(300):
        await run()
    return work.count / (time.perf_counter() - begun)


async def compare(name: str, adapter: Side, bare: Side, work: Workload, **also: str) -> dict[str, object]:
    """Rates in messages a second, and the adapter's share of the bare client's."""
    rates: dict[str, list[float]] = {"publish": [], "bare_publish": [], "consume": [], "bare_consume": []}
    for turn in range(work.rounds + 1):
        sides = [("", adapter), ("bare_", bare)]
        for prefix, side in sides if turn % 2 else reversed(sides):
            published = await _rate(work, lambda side=side: _publish_all(side, work))  # type: ignore[misc]  # bound now
            consumed = await _rate(work, lambda side=side: side.consume(work.count))  # type: ignore[misc]  # bound now
            if turn:  # the first round only warms up
                rates[f"{prefix}publish"].append(published)
                rates[f"{prefix}consume"].append(consumed)
    median = {key: statistics.median(values) for key, values in rates.items()}
    return {
        "adapter": name,
        **also,
        **{f"{key}_per_s": round(value) for key, value in median.items()},
        "publish_ratio": round(median["publish"] / median["bare_publish"], 2),
        "consume_ratio": round(median["consume"] / median["bare_consume"], 2),
        "messages": work.count,
        "body_bytes": len(work.body),
        "batch": work.batch,
        "under_way": work.under_way,
        "rounds": work.rounds,
    }


def arguments(about: str) -> Workload:
    parser = argparse.ArgumentParser(description=about)
    defaults = Workload()
    for name in ("count", "batch", "under_way", "rounds"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    return Workload(**vars(parser.parse_args()))


def tell(result: dict[str, object]) -> None:
    print(json.dumps(result), flush=True)
