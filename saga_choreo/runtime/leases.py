"""Signs of life: an attempt in the slow lane keeps its lease for as long as its process lives, and hardly longer.

A lease is short (`Limits.lease_s`) and renewed by the process that runs the attempt, many attempts in one commit. So what a
killed agent had begun is free for others after seconds, however long the step may take. An attempt that ends before its first
renewal costs nothing.

A lease only says when to begin again, never whose result counts: that is the attempt's number. A process that was stopped for
a while, its lease taken over, finds another number when it settles, and what its handler wrote is rolled back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from saga_choreo.core.rows import is_finished
from saga_choreo.errors import SagaError
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports.clock import Clock
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.operations import Begin, Claim, Commit, Now, Operation, Rollback, Save
from saga_choreo.runtime.settling import counted
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.workspace import Workspace

__all__ = ["Leases", "lease_of"]

_log = logging.getLogger("saga_choreo.leases")
Renewal = Generator[Operation, Any, list[RecordKey]]
# A lease is looked after this often, and renewed once a fifth of it is over: two renewals may fail before it ends.
_BEATS = 4
_FRESH = 0.8


def lease_of(record: Record, limits: Limits, timeout_s: float) -> float:
    """Seconds for the attempt that begins now. After one that ended without an answer it is doubled: handlers that block their
    whole process (so that it gives no sign of life) would take each other's attempts for ever."""
    lost = record.row.attempt if record.lease_ms is not None else 0
    doubled: float = limits.lease_s * float(1 << min(lost, 10))
    return min(doubled, max(limits.lease_s, 1.5 * timeout_s))


class Leases:
    """The attempts that run in this process."""

    def __init__(self, service: str, catalog: Catalog, limits: Limits, announced: Mapping[RecordKey, int]) -> None:
        self._service = service
        self._catalog = catalog
        self._limits = limits
        self._announced = announced
        self._held: dict[RecordKey, Record] = {}
        self._some = asyncio.Event()

    @property
    def every_s(self) -> float:
        return self._limits.lease_s / _BEATS

    def hold(self, claimed: Record) -> None:
        self._held[claimed.record_key] = claimed
        self._some.set()

    def let_go(self, key: RecordKey) -> None:
        self._held.pop(key, None)
        if not self._held:
            self._some.clear()

    def ageing(self, now_ms: int) -> list[Record]:
        """Attempts whose leases want to be renewed."""
        fresh_ms = now_ms + int(1000 * _FRESH * self._limits.lease_s)
        return [claimed for claimed in self._held.values() if claimed.lease_ms is not None and claimed.lease_ms < fresh_ms]

    def renewal(self, claimed: Sequence[Record]) -> Renewal:
        """Renew these leases in one commit; none is ever shortened. Returns the attempts that do not count any more: ended, or
        taken over. They are held no longer."""
        now_ns, chance = yield Now()
        ws = Workspace(self._service, self._catalog, self._limits, now_ns // 1_000_000, chance, self._announced)
        yield Begin()
        ws.load((yield Claim(tuple(sorted({one.saga_id for one in claimed})))))
        until_ms = ws.now_ms + int(1000 * self._limits.lease_s)
        renewed: dict[RecordKey, int] = {}
        for one in claimed:
            key, record = one.record_key, ws.get(one.record_key)
            if record is not None and record.lease_ms is not None and _still_counts(record, one):
                renewed[key] = max(record.lease_ms, until_ms)
                ws.touch(key, lease_ms=renewed[key])
                ws.retry_at(key, renewed[key])
        if renewed:
            yield Save(ws.changed())
            yield Commit()
        else:
            yield Rollback()
        for key, lease_ms in renewed.items():
            if key in self._held:
                self._held[key] = replace(self._held[key], lease_ms=lease_ms)
        lost = [one.record_key for one in claimed if one.record_key not in renewed]
        for key in lost:
            self.let_go(key)
        return lost

    async def renew_for_ever(self, clock: Clock, run: Callable[[Renewal], Awaitable[list[RecordKey]]]) -> None:
        """Keep alive what runs here. An attempt that was taken over meanwhile is not cut short: its answer will not count."""
        while True:
            await self._some.wait()
            await clock.sleep(self.every_s)
            ageing = self.ageing(clock.time_ns() // 1_000_000)
            if not ageing:
                continue
            try:
                for key in await run(self.renewal(ageing)):
                    _log.info("saga %s, step %d: its attempt here has ended, or does not count any more", key.saga_id, key.step)
            except SagaError as error:
                _log.warning("the leases of %d attempts could not be renewed, and are tried again: %s", len(ageing), error)


def _still_counts(now: Record, claimed: Record) -> bool:
    """The same attempt with the same key is under way: it has not ended, was not handed to the outside, and nobody took over."""
    same = now.row.state is claimed.row.state and counted(now) == counted(claimed)
    return same and not now.row.pending and not is_finished(now.row)
