"""The consumer: batches from the broker into the pipeline, never more than the store can take at once.

Outcomes wait a little and are applied many at a time: nobody waits for them, and one update for hundreds of sagas is cheap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from saga_choreo.errors import SagaError
from saga_choreo.model.envelope import ChannelKind
from saga_choreo.ports.broker import Broker, Delivery, Withdraws
from saga_choreo.ports.clock import Clock
from saga_choreo.runtime.sharing import Sharing
from saga_choreo.runtime.timing import Limits

__all__ = ["Consumer", "Handle"]

_log = logging.getLogger("saga_choreo.consumer")
Handle = Callable[[Sequence[Delivery]], Awaitable[None]]
_OUTCOME = ChannelKind.OUTCOME
_TROUBLE_FIRST_S = 0.5
_TROUBLE_MAX_S = 5.0
# Outcomes that wait here, in batches of the size they are applied in.
_OUTCOME_BATCHES_MAX = 4


class Consumer:
    """`handle` works on a batch; it raises what went wrong after it has handed the rest of the batch back. A slot is held while
    waiting for messages, so at most `writers` batches are received or worked on at once; outcomes need none, since they come
    one batch after the other."""

    def __init__(
        self, broker: Broker, clock: Clock, limits: Limits, writers: int, handle: Handle, sharing: Sharing | None = None
    ) -> None:
        """`sharing`: with the other agents of the service. Where each gets a like part of what comes, it gathers so much longer."""
        self._broker = broker
        self._clock = clock
        self._limits = limits
        self._sharing = sharing or Sharing(broker, limits)
        self.handle = handle
        self._slots = asyncio.Semaphore(max(writers, 1))
        self._outcomes: list[Delivery] = []
        self._outcome_came = asyncio.Event()
        self._batch_ended = asyncio.Event()
        self._trouble_s = 0.0
        self._last_size, self._last_began = 0, 0.0
        self.in_flight = 0
        self._applying = 0  # of those in flight, the batch of outcomes

    @property
    def is_well(self) -> bool:
        """The last batch could be worked on."""
        return self._trouble_s == 0.0

    async def run(self, group: asyncio.TaskGroup, stopping: asyncio.Event) -> None:
        """Receive until told to stop. Returns with nothing of its own left unhandled: every batch has ended."""
        receiving = asyncio.ensure_future(self._receive(group))
        stopped = asyncio.ensure_future(stopping.wait())
        leisure = asyncio.ensure_future(self._apply_outcomes())
        try:
            await asyncio.wait({receiving, stopped, leisure}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (receiving, stopped):
                task.cancel()
            if isinstance(self._broker, Withdraws):
                await self._broker.withdraw()
            while self.in_flight and not leisure.done():  # a batch of outcomes is finished, not cut short
                await self._clock.sleep(0.01)
            leisure.cancel()
            ended = await asyncio.gather(receiving, stopped, leisure, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
        await self._drain()

    async def _drain(self) -> None:
        while self.in_flight:
            await self._clock.sleep(0.01)
        if self._outcomes:
            try:
                await self._broker.release(self._outcomes)
            except SagaError as error:
                _log.info("%d outcomes could not be handed back (%s); the broker delivers them again", len(self._outcomes), error)

    async def _receive(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._room_for_outcomes()
            await self._let_gather()
            await self._slots.acquire()
            try:
                deliveries = await self._wait_and_receive()
            except BaseException:
                self._slots.release()
                raise
            outcomes = [one for one in deliveries if one.channel.kind is _OUTCOME]
            if outcomes:
                self._outcomes += outcomes
                self._outcome_came.set()
            rest = [one for one in deliveries if one.channel.kind is not _OUTCOME] if outcomes else deliveries
            self._last_size, self._last_began = len(rest), self._clock.monotonic()
            if rest:
                self.in_flight += 1
                group.create_task(self._batch(rest))
            else:
                self._slots.release()

    async def _room_for_outcomes(self) -> None:
        """Callbacks that are slower than sagas end hold up consumption in the end. Else outcomes would pile up here, and those
        that the broker delivers again meanwhile with them."""
        while len(self._outcomes) >= _OUTCOME_BATCHES_MAX * self._limits.outcome_max:
            await self._clock.sleep(self._limits.outcome_wait_s)

    async def _let_gather(self) -> None:
        """While batches are worked on, messages gather for the next one, the longer the more there are: so batches grow with the
        load, and a third one sets out only where handlers wait. After a batch of several the next one sets out a little later than that
        one did, since more are on their way. Where nothing is under way, the first message that comes goes at once."""
        agents = self._sharing.divide(is_well=self.is_well)
        batches = self.in_flight - self._applying  # nobody waits for outcomes
        if batches:
            self._batch_ended.clear()
            try:
                async with asyncio.timeout(self._limits.batch_wait_s * batches):
                    await self._batch_ended.wait()
            except TimeoutError:
                pass
        if 1 < self._last_size < self._limits.batch_max:
            gather_s = self._limits.batch_gather_s * agents
            if (early_s := self._last_began + gather_s - self._clock.monotonic()) > 0:
                await self._clock.sleep(early_s)

    async def _wait_and_receive(self) -> Sequence[Delivery]:
        if self._trouble_s:
            await self._clock.sleep(self._trouble_s * (0.75 + 0.5 * self._clock.chance()))
        try:
            return await self._broker.receive(self._limits.batch_max, 0.0)
        except SagaError as error:
            self._note_trouble(error)
            return ()

    async def _batch(self, deliveries: Sequence[Delivery]) -> None:
        began_s = self._clock.monotonic()
        try:
            await self._handle_patiently(deliveries)
        finally:
            self._sharing.worked(len(deliveries), self._clock.monotonic() - began_s)
            self.in_flight -= 1
            self._batch_ended.set()
            self._slots.release()

    async def _handle_patiently(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self.handle(deliveries)
        except SagaError as error:
            self._note_trouble(error)
        else:
            self._trouble_s = 0.0

    def _note_trouble(self, error: Exception) -> None:
        if self._trouble_s == 0.0:
            _log.warning("consuming pauses and goes on by itself: %s", error)
        self._trouble_s = min(max(self._trouble_s * 2, _TROUBLE_FIRST_S), _TROUBLE_MAX_S)

    async def _apply_outcomes(self) -> None:
        while True:
            await self._outcome_came.wait()
            self._outcome_came.clear()
            await self._clock.sleep(self._limits.outcome_wait_s)
            while self._outcomes:
                batch, self._outcomes = self._outcomes[: self._limits.outcome_max], self._outcomes[self._limits.outcome_max :]
                self.in_flight += 1
                self._applying = 1
                try:
                    await self._handle_patiently(batch)
                finally:
                    self.in_flight -= 1
                    self._applying = 0
