"""The relay of one simulated process: rounds of publishing, marks, and the scan. What to publish again is decided by the
product's own `Announcing`; here is only the waiting, in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from saga_choreo.model.record import Record
from saga_choreo.ports.broker import Outgoing
from saga_choreo.ports.store import AnnouncedMark
from saga_choreo.runtime.announcing import Announcing, unannounced_before
from saga_choreo.runtime.operations import Publication
from saga_choreo.runtime.saying import publications_of
from saga_choreo.testing.simulator.world import SECOND

if TYPE_CHECKING:
    from saga_choreo.testing.simulator.process import Process

__all__ = ["Publishing"]

_MARKS_EVERY_NS = SECOND
_SCAN_MAX = 256


class Publishing:
    """One incarnation's relay. It dies with its process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self.announcing = Announcing()
        self.is_dead = False
        self.rounds = 0
        self._flush_due = False
        self._scan_at_ns: int | None = None

    def saved(self, records: Sequence[Record]) -> None:
        self.announcing.saved(records)

    def submit(
        self, publications: Sequence[Publication], loose: Sequence[Outgoing], then: Callable[[], None] | None = None
    ) -> None:
        self.announcing.begin(publications)
        for publication in publications:
            stored = self._process.store.get(publication.key)
            if stored is None or stored.version < publication.version:
                self._world.broken("S10", f"version {publication.version} of {publication.key!r} is published before its commit")
            if then is None:  # the scan says everything again
                self._process.house.oracle.hearsay.says(publication)
        self.rounds += 1
        self._world.soon(self._round, publications, loose, then)

    def _round(self, publications: Sequence[Publication], loose: Sequence[Outgoing], then: Callable[[], None] | None) -> None:
        answers: list[Exception | None] = []
        for letter in [letter for publication in publications for letter in publication.messages] + [*loose]:
            if self.is_dead:
                return
            if self._process.dies_here(None):
                self._world.saw("crash while publishing")
                return
            answers.append(self._process.house.broker.publish(letter))
        if self.is_dead:
            return
        self.rounds -= 1
        self.announcing.end(publications)
        self.announcing.confirm(publications, answers)
        if then is not None:
            then()
        elif self.announcing.known and not self._flush_due:
            self._flush_due = True
            self._world.after(_MARKS_EVERY_NS, self._flush)

    def _flush(self) -> None:
        if self.is_dead:
            return
        self._flush_due = False
        marks = self.announcing.marks()
        if marks:
            self._world.soon(self._write, marks)

    def _write(self, marks: Sequence[AnnouncedMark]) -> None:
        """Records may have changed since."""
        if self.is_dead:
            return
        if self._world.hit("store_error") is not None:
            if not self._flush_due:
                self._flush_due = True
                self._world.after(_MARKS_EVERY_NS, self._flush)
            return
        self._process.store.mark_announced(marks)
        self.announcing.written(marks)
        self._process.presuming.marked(marks)

    def expect(self, at_ns: int) -> None:
        """Scan then, unless a scan comes before."""
        if self._scan_at_ns is None or at_ns < self._scan_at_ns:
            self._scan_at_ns = at_ns
            self._world.after(max(at_ns - self._world.now_ns, 1), self._scan, at_ns)

    def _scan(self, at_ns: int) -> None:
        if self.is_dead or at_ns != self._scan_at_ns:
            return
        self._scan_at_ns = None
        process, world = self._process, self._world
        store = process.store
        if world.hit("store_error") is not None:
            self.expect(world.now_ns + 2 * SECOND)
            return
        now_ns = world.wall_ns(process.skew_ns)
        found = store.unannounced(*unannounced_before(now_ns // 1_000_000, process.limits))[:_SCAN_MAX]
        lost = [record for record in found if not self.announcing.covers(record)]
        if lost:
            world.saw("republished by a scan")
            world.note(process.name, f"scan finds {len(lost)} records")
            self.submit(publications_of(lost, process.catalog, now_ns), (), self._flush)
        if store.unsaid:
            oldest = min(record.changed_ms for record in store.unsaid.values())
            wait = world.delay_until_wall_ms(oldest + int(process.limits.unannounced_after_s * 1000), process.skew_ns)
            self.expect(world.now_ns + max(wait, int(process.limits.scan_every_s * SECOND)))
