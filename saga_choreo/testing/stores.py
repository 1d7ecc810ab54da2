"""The conformance suite of stores: what must hold of every one, as plain async functions.

A store of your own is tested in five lines:

    HARNESS = StoreHarness(name="mine", make=lambda: MyStore(fresh_url))

    @pytest.mark.parametrize("behaviour", STORE_BEHAVIOURS, ids=lambda b: b.name)
    def test_mine(behaviour):
        check_store(HARNESS, behaviour, skip=pytest.skip)

`make` must give stores on the same database, empty at the beginning of each test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from saga_choreo.testing.store_harness import AnyStore, Behaviour, OwnConnection, StoreHarness, make_record, saga_id_of
from saga_choreo.testing.store_letters import LETTER_BEHAVIOURS
from saga_choreo.testing.store_locks import LOCK_BEHAVIOURS
from saga_choreo.testing.store_processes import PROCESS_BEHAVIOURS
from saga_choreo.testing.store_records import RECORD_BEHAVIOURS
from saga_choreo.testing.store_sagas import SAGA_BEHAVIOURS
from saga_choreo.testing.store_tables import TABLE_BEHAVIOURS
from saga_choreo.testing.store_upkeep import UPKEEP_BEHAVIOURS
from saga_choreo.testing.store_user import USER_BEHAVIOURS

__all__ = ["STORE_BEHAVIOURS", "AnyStore", "Behaviour", "OwnConnection", "StoreHarness", "check_store", "make_record", "saga_id_of"]

STORE_BEHAVIOURS: tuple[Behaviour, ...] = (
    *RECORD_BEHAVIOURS,
    *TABLE_BEHAVIOURS,
    *SAGA_BEHAVIOURS,
    *LOCK_BEHAVIOURS,
    *LETTER_BEHAVIOURS,
    *USER_BEHAVIOURS,
    *PROCESS_BEHAVIOURS,
    *UPKEEP_BEHAVIOURS,
)


def check_store(harness: StoreHarness, behaviour: Behaviour, *, skip: Callable[[str], object]) -> None:
    """Run one behaviour, or call `skip` with what the store lacks for it."""
    lacking = harness.lacks(behaviour.needs)
    if lacking:
        skip(f"{harness.name} has no {', '.join(lacking)}")
        return
    asyncio.run(_run(harness, behaviour))


async def _run(harness: StoreHarness, behaviour: Behaviour) -> None:
    await behaviour.test(harness)
