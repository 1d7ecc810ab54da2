"""A process of its own that uses a store, for the suite to run beside others and to kill.

Run as `python -m saga_choreo.testing.store_child MODE CLASS URL NUMBER`. It prints one line per commit that was confirmed.
Modes: `hammer` raises one shared record NUMBER times; `commit_forever` commits new records until it is killed;
`stop_inside` writes inside a transaction, says so, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from dataclasses import replace

from saga_choreo.errors import StoreConflict
from saga_choreo.testing.store_harness import SERVICE, AnyStore, make_record, saga_id_of

__all__ = ["main"]


async def _hammer(store: AnyStore, rounds: int) -> None:
    for number in range(rounds):
        while not await _raise_shared(store):
            pass
        await store.records(saga_id_of(0))
        if number % 10 == 0:
            await store.mark_announced(SERVICE, [])
    _say("done")


async def _raise_shared(store: AnyStore) -> bool:
    async with store.transaction() as transaction:
        claimed = await transaction.claim(SERVICE, [saga_id_of(0)])
        record = claimed[0] if claimed else make_record(0, version=0)
        row = record.row._replace(attempt=record.row.attempt + 1)
        try:
            await transaction.save([replace(record, row=row, version=record.version + 1)])
            await transaction.commit()
        except StoreConflict as conflict:
            # A lost race for the same row may be tried again; a lock that nobody handed over may not be shown to anyone.
            if "was not free" in str(conflict) or "locked" in str(conflict):
                raise
            return False
    return True


async def _commit_forever(store: AnyStore, first: int) -> None:
    number = first
    while True:
        async with store.transaction() as transaction:
            await transaction.save([make_record(number), make_record(number, step=2)])
            await transaction.append(counters={(SERVICE, "committed"): 1})
            await transaction.commit()
        _say(str(number))
        number += 1


async def _stop_inside(store: AnyStore, number: int) -> None:
    async with store.transaction() as transaction:
        await transaction.save([make_record(n) for n in range(number, number + 500)])
        _say("inside")
        await asyncio.Event().wait()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(mode: str, cls: str, url: str, number: int) -> None:
    module, _, name = cls.partition(":")
    store: AnyStore = getattr(importlib.import_module(module), name)(url)
    await store.open()
    try:
        await {"hammer": _hammer, "commit_forever": _commit_forever, "stop_inside": _stop_inside}[mode](store, number)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
