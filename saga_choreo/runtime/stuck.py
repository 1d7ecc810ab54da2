"""Looking through a store for sagas that wait: `agent.stuck()` and `saga-choreo sagas stuck`.

Whether a saga is stuck is worked out here, not in the store, so open sagas are read in pages, oldest first. An index lists those with a
record that has a timer: nearly all. A step that only waits for a message or for the outside has none; where nothing else of its saga is
in the store, only a walk through all sagas finds it, and that has a bound of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nsmallest
from uuid import UUID

from saga_choreo.core.graph import Plan
from saga_choreo.model.record import Record
from saga_choreo.ports.store import Reader
from saga_choreo.runtime.alive import Sign
from saga_choreo.runtime.views import plan_from
from saga_choreo.runtime.waiting import Known, StuckSaga, stuck_saga

__all__ = ["StuckSagas", "stuck_sagas"]

_PAGE = 500
# Open sagas whose records are read, and sagas that are walked through, of which only the open ones are read: seconds, at a million open.
_OPEN_MAX = 20_000
_WALKED_MAX = 500_000


class StuckSagas(list[StuckSaga]):
    """Those that wait longest first. `further` says what was not looked at; empty when nothing was left out."""

    further: str = ""


async def stuck_sagas(
    store: Reader, now_ms: int, for_ms: int, *, service: str = "", heard: Mapping[str, Sign] | None = None, limit: int = 50
) -> StuckSagas:
    """Sagas that have not ended and in which nothing has changed here for so long, those that wait longest first."""
    look = _Look(store, now_ms, for_ms, service, heard, limit)
    cut: list[str] = []
    if not await look.through(_OPEN_MAX, resting=False):
        cut.append(f"of the open sagas only the oldest {_OPEN_MAX:,} were looked at")
    if not await look.through(_WALKED_MAX, resting=True):
        cut.append(f"steps that wait without a timer were looked for in the oldest {_WALKED_MAX:,} sagas only")
    found = StuckSagas(look.longest)
    found.further = "; ".join(cut)
    return found


class _Look:
    """One look through a store. `longest` are the sagas that wait longest so far, at most `limit`."""

    def __init__(self, store: Reader, now_ms: int, for_ms: int, service: str, heard: Mapping[str, Sign] | None, limit: int) -> None:
        self._store = store
        self._until_ms = now_ms - for_ms
        self._service = service
        self._limit = limit
        self._definitions: Mapping[str, bytes] | None = None
        self._plans: dict[str, Plan | None] = {}
        self._holders: dict[str, frozenset[str]] = {}
        self._known = Known(now_ms=now_ms, heard=heard, holders=self._holders)
        self.longest: list[StuckSaga] = []

    async def through(self, most: int, *, resting: bool) -> bool:
        """Whether all was looked at that can be among the longest."""
        after: UUID | None = None
        for _ in range(0, most, _PAGE):
            page = await self._store.open_sagas(self._service, after, _PAGE, resting=resting)
            stuck = [one for records in page.groups if (one := await self._judged(records)) is not None]
            found = {one.saga_id: one for one in (*self.longest, *stuck)}
            self.longest = nsmallest(self._limit, found.values(), key=lambda one: (one.since_ms, one.saga_id))
            if page.looked_to is None or self._is_settled(page.looked_to):
                return True
            after = page.looked_to
        return False

    def _is_settled(self, looked_to: UUID) -> bool:
        """A saga that started later than another has last changed does not wait longer."""
        started_ms = looked_to.int >> 80  # a UUIDv7 begins with its Unix time in milliseconds
        return len(self.longest) >= self._limit and self.longest[-1].since_ms <= started_ms

    async def _judged(self, records: Sequence[Record]) -> StuckSaga | None:
        definition = records[0].definition
        if definition not in self._plans:
            if self._definitions is None or definition not in self._definitions:
                self._definitions = await self._store.definitions()
            self._plans[definition] = plan_from(self._definitions, definition)
            self._holders[definition] = frozenset(await self._store.holders(definition))
        one = stuck_saga(records, self._plans[definition], self._known)
        return one if one is not None and one.since_ms <= self._until_ms else None
