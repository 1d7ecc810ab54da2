"""Delivering again after a delay, without anybody sleeping: a copy waits in a queue with a time to live, and goes back by itself.

The queues are shared by all services of a prefix; their times are 1, 2 or 5 times a power of ten, so there are few of them, and a
message may wait up to two and a half times as long as was asked. The original is acknowledged once the copy is confirmed. The
copy carries what the original's place in the queue told (its key, its deliveries), and starts the server's own count anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from saga_choreo.errors import PublishRefused
from saga_choreo.ports import Delivery
from saga_choreo_rabbitmq.link import Link
from saga_choreo_rabbitmq.names import Names
from saga_choreo_rabbitmq.options import Options
from saga_choreo_rabbitmq.publish import Letter, Publisher
from saga_choreo_rabbitmq.receive import ATTEMPTS, KEY
from saga_choreo_rabbitmq.topology import declare_delay
from saga_choreo_rabbitmq.wire import Wire

__all__ = ["Later", "step_ms", "steps_ms"]

_SHORTEST_MS = 100
# The longest that an agent hands a message back for.
_LONGEST_S = 60.0


def step_ms(delay_s: float) -> int:
    """The time to live for a message that must not come before the delay."""
    wanted, power = max(delay_s * 1000, _SHORTEST_MS), 1
    while True:
        for digit in (1, 2, 5):
            if digit * power >= wanted:
                return digit * power
        power *= 10


def steps_ms() -> list[int]:
    """All that agents ask for."""
    steps = [step_ms(0)]
    while steps[-1] < _LONGEST_S * 1000:
        steps.append(step_ms((steps[-1] + 1) / 1000))
    return steps


class Later:
    """`send_on` says which deliveries are safe elsewhere and may be acknowledged."""

    def __init__(self, link: Link, publisher: Publisher, names: Names, options: Options) -> None:
        self._link = link
        self._publisher = publisher
        self._names = names
        self._options = options
        self._wire: Wire | None = None
        self._declared: set[int] = set()
        self._one_at_a_time = asyncio.Lock()

    async def send_on(self, service: str, deliveries: Sequence[Delivery], delay_s: float) -> list[Delivery]:
        """Back into the queue of the service, after the delay, or at once if there is none."""
        exchange, delay_ms = "", 0
        if delay_s > 0:
            delay_ms = step_ms(delay_s)
            exchange = self._names.delay(delay_ms)
            await self._declare(delay_ms)
        letters = [
            Letter(exchange, self._names.service(service), self._headers(one), one.body, True, f"redelivery of {one.channel}")
            for one in deliveries
        ]
        answers = await self._publisher.send(letters)
        if any(isinstance(answer, PublishRefused) for answer in answers):
            self._declared.discard(delay_ms)
        return [one for one, answer in zip(deliveries, answers, strict=True) if answer is None]

    @staticmethod
    def _headers(delivery: Delivery) -> dict[str, str]:
        return {**delivery.headers, KEY: delivery.token.key, ATTEMPTS: str(delivery.attempt)}

    async def _declare(self, delay_ms: int) -> None:
        async with self._one_at_a_time:
            wire = self._link.need()
            if wire is not self._wire:
                self._wire, self._declared = wire, set()
            if delay_ms not in self._declared:
                await declare_delay(wire, self._names, self._options, delay_ms)
                self._declared.add(delay_ms)
