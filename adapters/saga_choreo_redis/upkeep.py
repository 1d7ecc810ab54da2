"""What a Redis store tells of itself: version, durability, where its history is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from saga_choreo.ports import ORIGIN, BusinessKey, Epoch, SagaLock, StoreState
from saga_choreo_redis.draft import key_field
from saga_choreo_redis.keys import Keys, saga_of
from saga_choreo_redis.link import Link
from saga_choreo_redis.packing import key_of
from saga_choreo_redis.safety import settings_of, unsafe_of
from saga_choreo_redis.scripts import ADVANCE
from saga_choreo_redis.transaction import as_map

__all__ = ["OLDEST_VERSION", "SCHEMA_VERSION", "RedisUpkeep", "is_known", "stored_versions"]

# How the keys are laid out, and the lowest version of this code that can work with them as they are: raise the second with a layout that
# takes something away or changes it. One that only adds lets agents of an earlier release go on.
SCHEMA_VERSION = OLDEST_VERSION = 1
_AT_ONCE = 1_000


async def stored_versions(link: Link, keys: Keys) -> tuple[int, int]:
    """Of the layout that is there, and of the oldest code that can work with it; 0 where nothing is said."""
    found = await link.read("HMGET", keys("meta"), "schema_version", "oldest_version")
    version, oldest = (int(one or 0) for one in found)
    return version, oldest


def is_known(version: int, oldest: int) -> bool:
    """Whether this code can work with it."""
    return version <= SCHEMA_VERSION or 0 < oldest <= SCHEMA_VERSION


class RedisUpkeep:
    _link: Link
    _keys: Keys

    async def inspect(self) -> StoreState:
        await self._link.open()
        try:
            settings = await settings_of(self._link)
            version, oldest = await stored_versions(self._link, self._keys)
            identity = (await self.epoch("")).identity
        finally:
            await self._link.close()
        return StoreState(
            name="redis",
            version=version,
            wanted=SCHEMA_VERSION,
            works=version > 0 and is_known(version, oldest),
            pending=() if version else ("001",),
            settings=settings,
            unsafe=unsafe_of(settings),
            identity=identity,
        )

    async def keys(self, before: UUID | None, limit: int) -> Sequence[BusinessKey]:
        below = "+" if before is None else f"({before.hex}"
        services = sorted(one.decode() for one in await self._link.read("SMEMBERS", self._keys("services")))
        found = await self._link.read_all(
            [("ZREVRANGEBYLEX", self._keys("keys", one), below, "-", "LIMIT", 0, limit) for one in services]
        )
        members = [(service, member) for service, some in zip(services, found, strict=True) for member in some]
        newest = sorted(members, key=lambda one: saga_of(one[1]), reverse=True)[:limit]
        parts = [(service, member.decode().split("\0", 2)) for service, member in newest]
        places = [(service, choreography, key) for service, (_, choreography, key) in parts]
        stored = await self._link.read_all([("HGET", self._keys("key"), key_field(*place)) for place in places])
        return [key_of(*place, one) for place, one in zip(places, stored, strict=True) if one]

    async def locks(self, limit: int) -> Sequence[SagaLock]:
        found: list[SagaLock] = []
        for service in sorted(one.decode() for one in await self._link.read("SMEMBERS", self._keys("services"))):
            stored = as_map(await self._link.read("HGETALL", self._keys("lock", service)))
            found += [
                SagaLock(service=service, name=name.decode(), saga_id=UUID(hex=saga_id.decode()))
                for name, saga_id in sorted(stored.items())
            ]
        return found[:limit]

    async def epoch(self, service: str) -> Epoch:
        names = ("incarnation", f"epoch:{service}", f"accepted:{service}")
        identity, position, note = await self._link.read("HMGET", self._keys("meta"), *names)
        return Epoch((identity or b"").decode(), int(position or 0), (note or b"").decode())

    async def advance(self, service: str, at_least: int = 0, note: str = "") -> Epoch:
        words = [f"epoch:{service}", at_least, f"accepted:{service}", note]
        position = await self._link.run(ADVANCE, [self._keys("meta")], words)
        return replace(await self.epoch(service), position=position)

    async def load(self, service: str, open_max: int, unannounced_max: int) -> tuple[int, int]:
        unannounced = sum(await self._link.read_all([("ZCARD", self._keys(name, service)) for name in ("untold", "starts")]))
        due, found, cursor = self._keys("due", service), set[bytes](), b"0"
        while len(found) < open_max:  # a scan may name a member twice
            cursor, members = await self._link.read("ZSCAN", due, cursor, "MATCH", f"*:{ORIGIN}", "COUNT", _AT_ONCE)
            found.update(members[::2])
            if cursor in (b"0", 0):
                break
        return min(len(found), open_max), min(unannounced, unannounced_max)
