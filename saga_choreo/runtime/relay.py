"""The relay: publishes what committed records say, and finds what a dead process did not get to say.

The hot path publishes from memory right after the commit. That a version is published is remembered here and written down
lazily: by the next update of the same record, or after a second in bulk. The scan finds records that are not announced for
too long, whoever wrote them; publishing one twice is harmless.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from saga_choreo.errors import PublishRefused, SagaError
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports.broker import Broker, Outgoing
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import AnnouncedMark, Scans
from saga_choreo.runtime.announcing import LOOKS, Announcing, unannounced_before
from saga_choreo.runtime.operations import Publication
from saga_choreo.runtime.timing import Limits

__all__ = ["Relay"]

_log = logging.getLogger("saga_choreo.relay")
_SCAN_MAX = 256
# Of a full page, the youngest: a saga that starts now does not wait until all that an outage left behind is published.
_FRESH = 64
_SCAN_BUSY, _BUSY_MIN = 4, 16
# A start whose caller publishes it after the commit is left to that for so long.
_EXPECTED_S = 1.0
# Between two looks at a store that cannot be read.
_TROUBLE_S = 2.0
# Publishing rounds under way at once; beyond that the pipeline waits, and with it consumption.
_ROUNDS_MAX = 8
Answer = TypeVar("Answer")


class _Page(NamedTuple):
    """`found`: the longest waiting first. `fresh`: of a full page, the youngest as well."""

    found: Sequence[Record]
    fresh: Sequence[Record]
    is_full: bool


class Relay:
    """`announced` is what this process knows and the store does not: bounded by what a second's work can publish."""

    def __init__(self, service: str, broker: Broker, scans: Scans, clock: Clock, limits: Limits) -> None:
        self._service = service
        self._broker = broker
        self._scans = scans
        self._clock = clock
        self._limits = limits
        self._rounds = asyncio.Semaphore(_ROUNDS_MAX)
        self._announcing = Announcing()
        # There may be something to write down.
        self._published = asyncio.Event()
        # Called with what the store says by now.
        self.on_written: Callable[[Sequence[AnnouncedMark]], object] = len
        self.refused = 0
        self.unconfirmed = 0
        self._expected: dict[RecordKey, float] = {}
        self._skip = 0
        self._ahead: _Page | None = None
        self._is_busy = False
        self._quiet_until = 0.0

    @property
    def announced(self) -> Mapping[RecordKey, int]:
        return self._announcing.known

    async def submit(self, group: asyncio.TaskGroup, publications: Sequence[Publication], loose: Sequence[Outgoing]) -> None:
        """Publish in the background."""
        self._announcing.begin(publications)
        try:
            await self._rounds.acquire()
        except BaseException:  # given up while waiting: the scan shall find them
            self._announcing.end(publications)
            raise
        round_ = self._round(publications, loose)
        try:
            group.create_task(round_)
        except RuntimeError:  # the agent is just ending: what is not published now is found by the scan
            round_.close()
            self._rounds.release()
            self._announcing.end(publications)

    async def _round(self, publications: Sequence[Publication], loose: Sequence[Outgoing]) -> None:
        try:
            await self.publish(publications, loose)
        finally:
            self._rounds.release()

    async def publish(self, publications: Sequence[Publication], loose: Sequence[Outgoing] = ()) -> bool:
        """Publish and remember what was confirmed. Returns whether all was; what was not is found by the scan."""
        self._announcing.begin(publications)
        letters = [letter for publication in publications for letter in publication.messages]
        answers: Sequence[Exception | None] = ()
        try:
            if letters or loose:
                answers = await self._broker.publish([*letters, *loose])
        except SagaError as error:
            answers = [error] * (len(letters) + len(loose))
        finally:
            self._announcing.end(publications)
        self._announcing.confirm(publications, answers)
        self._published.set()
        failed = [answer for answer in answers if answer is not None]
        if failed:
            self._complain(failed)
        return not failed

    def _complain(self, failed: Sequence[Exception]) -> None:
        """Once in five seconds at most: an outage is one story, not one line a message."""
        refused = sum(isinstance(one, PublishRefused) for one in failed)
        self.refused += refused
        self.unconfirmed += len(failed) - refused
        now = self._clock.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + 5.0
            _log.warning("%d messages are not published yet and will be tried again: %s", len(failed), failed[0])

    def expect(self, key: RecordKey) -> None:
        """Somebody here is about to publish this record: the scan leaves it alone for a while."""
        now = self._clock.monotonic()
        self._expected[key] = now + _EXPECTED_S
        while self._expected[first := next(iter(self._expected))] < now:
            del self._expected[first]

    def covers(self, record: Record) -> bool:
        """This version is published already, or on its way, or somebody here is about to publish it."""
        return self._announcing.covers(record) or self._expected.get(record.record_key, 0.0) > self._clock.monotonic()

    def saved(self, records: Sequence[Record]) -> None:
        """What the store has written down need not be remembered."""
        self._announcing.saved(records)

    def forget(self, keys: Sequence[RecordKey]) -> None:
        """These have ended, and the store says that they are published."""
        self._announcing.forget(keys)

    async def flush(self, *, old: bool = False) -> None:
        """Write down what is published, or the older part of it only: one bulk update."""
        await self._write(self._announcing.old_marks() if old else self._announcing.marks())

    async def _write(self, marks: Sequence[AnnouncedMark]) -> None:
        if marks:
            await self._scans.mark_announced(self._service, marks)
            self._announcing.written(marks)
            self.on_written(marks)

    async def mark_for_ever(self, every_s: float = 0.0) -> None:
        """Without `every_s`: lazily, as an agent does that will mostly write these records again itself."""
        while True:
            await self._published.wait()
            await self._clock.sleep(every_s or self._limits.unannounced_after_s / LOOKS)
            await _patiently(lambda: self.flush(old=not every_s), "noting what is published")
            if not self._announcing.known:
                self._published.clear()

    async def mark_starts_for_ever(self, has_company: Callable[[], bool]) -> None:
        """While the service has other agents: before they take a start for lost, which they do soonest (`start_unannounced_after_s`)."""
        while True:
            await self._published.wait()
            await self._clock.sleep(self._limits.start_unannounced_after_s / 2)
            if has_company():
                await _patiently(lambda: self._write(self._announcing.start_marks()), "noting which starts are published")

    async def scan_for_ever(self, republish: Callable[[Sequence[Record]], Awaitable[None]]) -> None:
        """The crash path. When a scan finds a full batch it goes on at once; otherwise it looks again a little later."""
        while True:
            found = await _patiently(lambda: self.scan(republish), "looking for unannounced records")
            if not found:
                # What is on its way from here comes up in every scan until it is written down: a busy agent looks less often.
                pause_s = self._limits.scan_every_s * (_SCAN_BUSY if self._is_busy else 1)
                await self._clock.sleep(_TROUBLE_S if found is None else pause_s)

    async def scan(self, republish: Callable[[Sequence[Record]], Awaitable[None]]) -> bool | None:
        """One page, behind those that no page of this round could publish. Returns whether there may be more; None when there are
        some and none of them could be published. While a full page is published, the one before is written down and the next read."""
        page = self._ahead or await self._look(0)
        self._ahead = None
        fresh = [record for record in page.fresh if not self.covers(record)][:_FRESH]
        found = page.found[: _SCAN_MAX - len(fresh)]
        lost = {record.record_key: record for record in (*found, *fresh) if not self.covers(record)}
        self._is_busy = len(found) + len(fresh) - len(lost) >= _BUSY_MIN
        unconfirmed = self.unconfirmed
        if lost:
            async with asyncio.TaskGroup() as group:
                if page.is_full:
                    group.create_task(self._look_ahead(self._announcing.marks(), len(found)))
                await republish(list(lost.values()))
        published = sum(self._announcing.covers(record) for record in lost.values())
        if published:
            _log.info("%d records were not announced by the process that wrote them, and are published now", published)
        is_outage = not published and self.unconfirmed > unconfirmed  # told of once by `_complain`
        if page.is_full and not is_outage:
            self._skip += sum(not self._announcing.covers(record) for record in found) if published else len(found)
            return True
        if lost or self._skip:
            await self.flush()
        self._skip, self._ahead = 0, None
        return None if lost and not published else False

    async def _look(self, behind: int) -> _Page:
        before, start_before = unannounced_before(self._clock.time_ns() // 1_000_000, self._limits)
        found = await self._scans.unannounced(self._service, before, start_before, _SCAN_MAX, self._skip + behind)
        if len(found) < _SCAN_MAX:
            return _Page(found, (), is_full=False)
        # Twice as many as are wanted: the youngest of the page before are not written down yet.
        fresh = await self._scans.unannounced(self._service, before, start_before, 2 * _FRESH, newest=True)
        return _Page(found, fresh, is_full=True)

    async def _look_ahead(self, marks: Sequence[AnnouncedMark], behind: int) -> None:
        """`marks` are those of the pages before: none of this one may be written down before the next one is read behind it.
        A failure only means that the next scan looks for itself."""
        try:
            await self._write(marks)
            self._ahead = await self._look(behind)
        except SagaError as error:
            _log.info("the next page of unannounced records is looked for later: %s", error)


async def _patiently(work: Callable[[], Awaitable[Answer]], what: str) -> Answer | None:
    try:
        return await work()
    except SagaError as error:
        _log.warning("%s failed and is tried again: %s", what, error)
        return None
