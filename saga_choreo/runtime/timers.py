"""Timers: everything durable that has to happen at a time - retries, leases, deadlines, repeated announcements - is a record with a
due time. This loop finds them and has the pipeline work on them; it sleeps until the next one, or until it is told of an earlier one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from saga_choreo.errors import SagaError
from saga_choreo.model.record import RecordKey
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import Scans
from saga_choreo.runtime.stopping import CANCEL_S
from saga_choreo.runtime.timing import Limits

__all__ = ["Timers"]

_log = logging.getLogger("saga_choreo.timers")
_NEVER_MS = 1 << 62
# As long as a message that met one is handed back for.
_UNEXPECTED_S = 5.0
# Records of definitions that are not known here are passed over; to see past them so many more are asked for, at most.
_STRANGE_FIRST = 32
_STRANGE_MAX = 2_000
# After a repeated announcement its place rests for so many times as long as it took: about 5 % of the time goes to them.
_NUDGE_REST, _NUDGE_REST_MAX_S = 20.0, 1.0


class Timers:
    """Works on due records, at most `slow_at_once` at a time, one of a record at a time."""

    def __init__(
        self,
        service: str,
        scans: Scans,
        clock: Clock,
        limits: Limits,
        work: Callable[[RecordKey], Awaitable[bool]],
        knows: Callable[[str], bool] = lambda _definition: True,
    ) -> None:
        """`work` handles one due record; it answers whether that was only a repeated announcement. Records of a definition that this
        agent does not know (an agent of another release wrote them) are left alone until it does."""
        self._service = service
        self._scans = scans
        self._clock = clock
        self._limits = limits
        self._work = work
        self._knows = knows
        self._strange = 0
        self._newest_turn = False
        self._running: dict[RecordKey, asyncio.Task[None]] = {}
        self._earlier = asyncio.Event()
        # When the loop sleeps: until when. What was expected since it last looked is not lost when it does not sleep yet.
        self._wake_ms = 0
        self._expected_ms = _NEVER_MS

    @property
    def running(self) -> int:
        return len(self._running)

    def expect(self, due_ms: int) -> None:
        """A record is due at this time: wake up for it if the loop would sleep longer."""
        self._expected_ms = min(self._expected_ms, due_ms)
        if due_ms < self._wake_ms:
            self._earlier.set()

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Until cancelled. Attempts run as tasks of the group."""
        while True:
            self._earlier.clear()
            self._expected_ms = _NEVER_MS
            started = await self._start_due(group)
            if not started:
                await self._sleep()

    async def stop(self, grace_s: float) -> list[RecordKey]:
        """Wait for what is under way, then cancel it. Returns the records whose attempts were cut short, to be handed back; not the
        one whose handler runs on in spite of it, since that may still do something."""
        running = dict(self._running)
        if not running:
            return []
        _, late = await asyncio.wait(running.values(), timeout=grace_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_S)
        return [key for key, task in running.items() if task in late and task.done()]

    async def _start_due(self, group: asyncio.TaskGroup) -> int:
        free = self._limits.slow_at_once - len(self._running)
        if free <= 0:
            return 0
        try:
            keys = await self._look(free)
        except SagaError as error:
            _log.warning("looking for due records failed and is tried again: %s", error)
            return 0
        fresh = [key for key in keys if key not in self._running][:free]
        for key in fresh:
            self._running[key] = group.create_task(self._one(key))
        return len(fresh)

    async def _look(self, free: int) -> list[RecordKey]:
        """The longest waiting; in a long queue (repeated announcements after an outage, say) half are the newest, so that fresh
        work and deadlines do not stand behind all of it."""
        # Records that are being worked on may still be due in the store: ask for that many more.
        wanted = free + len(self._running)
        oldest = await self._due(wanted)
        if len(oldest) < wanted:
            return oldest
        newest = await self._due(wanted, newest=True)
        # Mostly one place becomes free at a time: then both ends take turns.
        self._newest_turn = not self._newest_turn
        half = free // 2 if free > 1 else int(self._newest_turn)
        fresh = [key for key in newest if key not in self._running][:half]
        return [*fresh, *(key for key in oldest if key not in fresh)]

    async def _due(self, wanted: int, *, newest: bool = False) -> list[RecordKey]:
        """Due records of definitions that are known here."""
        now_ms = self._now_ms()
        while True:
            asked = wanted + self._strange
            keys = await self._scans.due(self._service, now_ms, asked, newest=newest)
            known = [key for key in keys if self._knows(key.definition)]
            if len(keys) == len(known):
                self._strange = 0
            if len(keys) < asked or len(known) >= wanted or self._strange >= _STRANGE_MAX:
                return known[:wanted]
            self._strange = min(max(2 * self._strange, _STRANGE_FIRST), _STRANGE_MAX)

    async def _one(self, key: RecordKey) -> None:
        began = self._clock.monotonic()
        try:
            if await self._work(key):
                await self._pay_for_nudge(self._clock.monotonic() - began)
        except SagaError as error:
            _log.warning("saga %s, step %d: work that is due failed and is tried again: %s", key.saga_id, key.step, error)
            await self._clock.sleep(1.0 + self._clock.chance())
        except Exception:  # noqa: BLE001  a bug of ours over one record must not stop the agent, and again after its restart
            _log.exception("saga %s, step %d: work that is due met an unexpected error", key.saga_id, key.step)
            await self._clock.sleep(_UNEXPECTED_S)
        finally:
            self._running.pop(key, None)
            self._earlier.set()

    async def _pay_for_nudge(self, took_s: float) -> None:
        """Repeated announcements keep to a budget: each holds its place in `slow_at_once` for its share of a second, and for longer
        where it took long. What is late in an agent that cannot keep up is seldom lost, and saying it again makes it later still."""
        share_s = self._limits.slow_at_once / self._limits.nudges_per_s
        await self._clock.sleep(max(share_s, min(_NUDGE_REST * took_s, _NUDGE_REST_MAX_S)))

    async def _sleep(self) -> None:
        """Until the next due record, at most `look_every_s`, or until told of an earlier one."""
        now_ms = self._now_ms()
        wait_s = self._limits.look_every_s
        if len(self._running) < self._limits.slow_at_once:
            try:
                next_ms = await self._scans.next_due_ms(self._service)
            except SagaError:
                next_ms = None
            if next_ms is not None and next_ms > now_ms:
                wait_s = min(wait_s, (next_ms - now_ms) / 1000)
        wait_s = min(wait_s, (self._expected_ms - now_ms) / 1000)
        self._wake_ms = now_ms + int(wait_s * 1000)
        try:
            async with asyncio.timeout(max(wait_s, 0)):
                await self._earlier.wait()
        except TimeoutError:
            pass
        finally:
            self._wake_ms = 0

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000
