"""Messages on hold: they came before their definition did. Applied once it is known here, told of when they wait for long.

A message can be on hold though this very agent knows its definition: another agent of the service, of an earlier release,
has put it there. So the look is repeated, and woken early when a definition is learnt.

When the process dies: a message is taken off hold by the commit that applies it. A copy may be sent twice, by two agents
that look at the same time or by one that dies before it has noted it; none is ever lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from saga_choreo.codec.wire import decode
from saga_choreo.errors import SagaError
from saga_choreo.model.envelope import Channel, ChannelKind
from saga_choreo.ports.broker import Outgoing
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import Held, Scans
from saga_choreo.runtime.arrivals import Arrival
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.letters import harmless
from saga_choreo.runtime.stored import channel_from
from saga_choreo.runtime.timing import Limits

__all__ = ["Holding"]

_log = logging.getLogger("saga_choreo.holding")
_LOOK_MAX = 256
_LOOKS_MAX = 100_000
_DLQ = Channel(ChannelKind.DLQ)
Apply = Callable[[Sequence[Arrival]], Awaitable[None]]
Send = Callable[[Sequence[Outgoing]], Awaitable[bool]]


class Holding:
    """`apply` takes a batch through the pipeline; `send` publishes and says whether all of it is confirmed."""

    def __init__(
        self, service: str, catalog: Catalog, scans: Scans, clock: Clock, limits: Limits, apply: Apply, send: Send
    ) -> None:
        self._service = service
        self._catalog = catalog
        self._scans = scans
        self._clock = clock
        self._limits = limits
        self._apply = apply
        self._send = send
        self._news = asyncio.Event()
        # Held message -> how often it was applied and stayed on hold all the same.
        self._looks: dict[int, int] = {}

    def wake(self) -> None:
        """A definition was learnt."""
        self._news.set()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self._news.clear()
            try:
                await self.look()
            except SagaError as error:
                _log.warning("looking at messages on hold failed and is tried again: %s", error)
            try:
                async with asyncio.timeout(self._limits.held_look_s):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        fresh = self._catalog.fresh_foreign()
        await self._take_off([*(known.plan.definition for known in self._catalog.all()), *fresh])
        self._catalog.forget_fresh(fresh)
        await self._tell()

    async def _take_off(self, definitions: Sequence[str]) -> None:
        """In the order of arrival. What cannot be taken off now (a fault of ours) is looked at again later."""
        seen, looks = 0, dict[int, int]()
        while held := await self._scans.held(self._service, definitions, _LOOK_MAX):
            fresh = [one for one in held if one.number > seen]
            if not fresh:
                break
            seen = fresh[-1].number
            looks.update({one.number: self._looks.get(one.number, 0) + 1 for one in fresh})
            await self._apply_patiently([_arrival(one, looks[one.number]) for one in fresh])
        self._looks = looks if len(looks) <= _LOOKS_MAX else {}

    async def _apply_patiently(self, arrivals: Sequence[Arrival]) -> None:
        try:
            await self._apply(arrivals)
        except SagaError:
            raise
        except Exception:  # noqa: BLE001  a bug of ours in one message must not stop the others
            _log.exception("a batch of %d messages on hold met an unexpected error", len(arrivals))
            if len(arrivals) > 1:
                for one in arrivals:
                    await self._apply_patiently([one])

    async def _tell(self) -> None:
        """A copy to the dead-letter channel of what waits for too long: some service has not come up, or a definition is lost."""
        before_ms = self._clock.time_ns() // 1_000_000 - int(1000 * self._limits.held_copy_after_s)
        waiting = await self._scans.untold(self._service, before_ms, _LOOK_MAX)
        foreign = [_arrival(one) for one in waiting if self._catalog.is_foreign(one.definition)]
        if foreign:
            await self._apply_patiently(foreign)
        late = [one for one in waiting if not self._catalog.is_foreign(one.definition)]
        if late and await self._send([self._copy(one) for one in late]):
            await self._scans.mark_told(self._service, [one.number for one in late])
            _log.warning(
                "%d messages wait for a definition that is not known here, and are copied to the dead-letter channel (the first: "
                "%s, on %s); start the service that pins it, or look for what its log says",
                len(late),
                late[0].definition,
                late[0].channel,
            )

    def _copy(self, held: Held) -> Outgoing:
        headers = {"saga-quarantine-code": "unknown_definition", "saga-quarantine-service": self._service}
        saga = str(decode(channel_from(held.channel), held.headers, held.body).saga_id)
        return Outgoing(_DLQ, saga, {**harmless(held.headers), **headers}, held.body, must_route=False)


def _arrival(held: Held, looks: int = 1) -> Arrival:
    return Arrival(channel_from(held.channel), held.headers, held.body, held_number=held.number, looks=looks)
