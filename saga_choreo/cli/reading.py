"""A participant's store, opened for one command, and sagas found in it by id, by the beginning of an id, or by key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import UUID

from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.errors import ConfigurationError, SagaNotFound
from saga_choreo.ports import Reader, Record, SagaFilter
from saga_choreo.runtime.plugins import WholeStore, make_store
from saga_choreo.runtime.settings import read_settings

__all__ = ["find_saga", "ids_by_key", "store_url_of", "with_store"]

_T = TypeVar("_T")
_HEX = frozenset("0123456789abcdef")
# With fewer digits a prefix says nothing: the first ones of a UUIDv7 change once in months.
_PREFIX_MIN = 4
_PAGE = 200
# Only where a saga was started its key is in a table; elsewhere a look must not read a whole store.
_LOOKED_AT_MAX = 20_000


@asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[WholeStore]:
    store = make_store(url)
    # A tool that looks must not change the schema under running agents.
    await store.open(migrate=False)
    try:
        yield store
    finally:
        await store.close()


def store_url_of(url: str | None) -> str:
    """The URL given, or that of the environment. Raises ConfigurationError."""
    found = url or read_settings(os.environ).store_url
    if not found:
        raise ConfigurationError("no store was named; give --store URL or set SAGA_STORE_URL (or SAGA_STORE_URL_FILE)")
    return found


def with_store(url: str | None, work: Callable[[WholeStore], Awaitable[_T]]) -> _T:
    """Open the store (SAGA_STORE_URL when no URL is given), do the work, close it."""
    found = store_url_of(url)

    async def run() -> _T:
        async with _opened(found) as store:
            return await work(store)

    return asyncio.run(run())


async def find_saga(store: Reader, word: str) -> Sequence[Record]:
    """The records of the saga that the word names. Raises SagaNotFound; CliError when the word names several."""
    candidates = await _candidates(store, word)
    if len(candidates) > 1:
        raise CliError(
            ExitCode.USAGE,
            f"{word!r} names several sagas: {', '.join(map(str, candidates))}",
            hint="give the whole id of one of them",
            details={"ids": [str(saga_id) for saga_id in candidates]},
        )
    records = await store.records(candidates[0]) if candidates else ()
    if not records:
        raise SagaNotFound(
            f"no saga {word!r} is known to this participant's store (a key is looked for in its newest {_LOOKED_AT_MAX} sagas, unless it "
            "was started here); look for it with: saga-choreo sagas list, or give its id"
        )
    return records


async def _candidates(store: Reader, word: str) -> list[UUID]:
    digits = word.replace("-", "").lower()
    is_hex = bool(digits) and set(digits) <= _HEX
    if is_hex and len(digits) == 32:
        return [UUID(digits)]
    registered = {found.saga_id for found in await store.key("", "", word)}
    if registered:
        return sorted(registered)
    by_prefix = await _by_prefix(store, digits) if is_hex and _PREFIX_MIN <= len(digits) < 32 else []
    return by_prefix or sorted(await _by_record(store, word, "", ""))


async def ids_by_key(store: Reader, key: str, service: str = "", choreography: str = "") -> set[UUID]:
    """Sagas with this business key: all that were started here, else those among the newest that only took part here."""
    registered = {found.saga_id for found in await store.key(service, choreography, key)}
    return registered or await _by_record(store, key, service, choreography)


async def _by_record(store: Reader, key: str, service: str, choreography: str) -> set[UUID]:
    """Sagas with parked steps first: they are few, and mostly the ones that are asked for."""
    for parked in (True, False):
        found: set[UUID] = set()
        before: UUID | None = None
        for _ in range(0, _LOOKED_AT_MAX, _PAGE):
            wanted = SagaFilter(service=service, choreography=choreography, limit=_PAGE, before=before, parked=parked)
            groups = await store.sagas(wanted)
            found |= {group[0].saga_id for group in groups if group and group[0].key == key}
            if len(groups) < _PAGE:
                break
            before = groups[-1][0].saga_id
        if found:
            return found
    return set()


async def _by_prefix(store: Reader, digits: str) -> list[UUID]:
    """Sagas come newest first, which is by descending id: those with the prefix are the first below its last possible id."""
    last = int(digits.ljust(32, "f"), 16)
    before = None if last == (1 << 128) - 1 else UUID(int=last + 1)
    groups = await store.sagas(SagaFilter(limit=2, before=before))
    return [group[0].saga_id for group in groups if group and group[0].saga_id.hex.startswith(digits)]
