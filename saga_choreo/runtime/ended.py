"""Sagas of this service's own whose good end this process has just recorded, with all that the service has of them.

Their OUTCOME comes back to the service as it goes to everybody, since it may have records that the commit did not know of. Where every
record there can be was in that commit, it has nothing to tell here, and is acknowledged without a look into the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from saga_choreo.model.envelope import Envelope
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Outcome
from saga_choreo.runtime.catalog import Catalog

__all__ = ["Ended"]

# The OUTCOME is on its way when the saga is noted here: it comes within a second or so. A store that lost its latest commits in a
# failover would be asked again after this time, should it ever be this very process that hears of it.
_KEPT_MS = 60_000
_MAX = 4096
_COMPLETED = Outcome.COMPLETED


class Ended:
    def __init__(self, service: str, catalog: Catalog) -> None:
        self._service = service
        self._catalog = catalog
        self._ended: dict[tuple[UUID, str], tuple[int | None, int]] = {}

    def saw(self, saved: Sequence[Record], now_ms: int) -> None:
        """These records are committed."""
        there: dict[UUID, set[int]] = {}
        for record in saved:
            if record.row.outcome is _COMPLETED:
                there.setdefault(record.saga_id, set()).add(record.step)
        for origin in saved:
            if origin.step != ORIGIN or origin.row.outcome is not _COMPLETED:
                continue
            known = self._catalog.get(origin.definition)
            if known is not None and there[origin.saga_id].issuperset(step.index for step in known.own):
                self._ended[origin.saga_id, origin.definition] = (origin.deadline_ms, now_ms)
        while len(self._ended) > _MAX:
            del self._ended[next(iter(self._ended))]

    def knows(self, end: Envelope, now_ms: int) -> bool:
        """Whether this good end means the saga that was noted, and not another (S11)."""
        deadline_ms, noted_ms = self._ended.get((end.saga_id, end.definition), (None, 0))
        return noted_ms > now_ms - _KEPT_MS and end.origin == self._service and end.deadline_ms == deadline_ms
