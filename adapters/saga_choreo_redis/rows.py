"""Messages that are kept under a number, read with all that was said of them since: a few hashes, put together here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from saga_choreo.ports import Held, Quarantined
from saga_choreo_redis.keys import Keys
from saga_choreo_redis.link import Link
from saga_choreo_redis.packing import held_of, quarantined_of

__all__ = ["read_held", "read_letters", "services_of"]


async def services_of(link: Link, keys: Keys, service: str) -> list[str]:
    """This one, or all that have anything here."""
    return [service] if service else sorted(one.decode() for one in await link.read("SMEMBERS", keys("services")))


async def read_letters(link: Link, keys: Keys, numbers: Iterable[int]) -> list[Quarantined]:
    """Those that are there, in the order of `numbers`."""
    wanted = list(numbers)
    if not wanted:
        return []
    found = await link.read_all([("HMGET", keys(name), *wanted) for name in ("quarantine", "moved", "tried")])
    rows = zip(wanted, *found, strict=True)
    return [quarantined_of(number, stored, moved, tried) for number, stored, moved, tried in rows if stored is not None]


async def read_held(link: Link, keys: Keys, service: str, numbers: Sequence[int]) -> list[Held]:
    if not numbers:
        return []
    stored, told = await link.read_all([("HMGET", keys("held"), *numbers), ("ZMSCORE", keys("told", service), *numbers)])
    found = zip(numbers, stored, told, strict=True)
    return [held_of(number, one, told=when is not None) for number, one, when in found if one is not None]
