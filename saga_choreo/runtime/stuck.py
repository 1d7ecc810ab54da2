"""Looking through a store for sagas that wait: `agent.stuck()` and `saga-choreo sagas stuck`."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from saga_choreo.core.graph import Plan
from saga_choreo.ports.store import Reader, SagaFilter
from saga_choreo.runtime.alive import Sign
from saga_choreo.runtime.views import plan_from
from saga_choreo.runtime.waiting import Known, StuckSaga, stuck_saga

__all__ = ["stuck_sagas"]

_PAGE = 200
# Whether a saga is stuck is worked out here, not in the store: a look must not read a whole store.
_LOOKED_AT_MAX = 20_000


async def stuck_sagas(
    store: Reader, now_ms: int, for_ms: int, *, service: str = "", heard: Mapping[str, Sign] | None = None, limit: int = 50
) -> list[StuckSaga]:
    """Sagas that have not ended and in which nothing has changed here for so long, those that wait longest first. Looks at the newest
    20,000."""
    definitions = await store.definitions()
    plans: dict[str, Plan | None] = {}
    holders: dict[str, frozenset[str]] = {}
    found: list[StuckSaga] = []
    before: UUID | None = None
    for _ in range(0, _LOOKED_AT_MAX, _PAGE):
        groups = await store.sagas(SagaFilter(service=service, limit=_PAGE, before=before))
        for records in groups:
            definition = records[0].definition
            if definition not in plans:
                plans[definition] = plan_from(definitions, definition)
                holders[definition] = frozenset(await store.holders(definition))
            known = Known(now_ms=now_ms, heard=heard, holders=holders)
            one = stuck_saga(records, plans[definition], known)
            if one is not None and now_ms - one.since_ms >= for_ms:
                found.append(one)
        if len(groups) < _PAGE:
            break
        before = groups[-1][0].saga_id
    return sorted(found, key=lambda one: one.since_ms)[:limit]
