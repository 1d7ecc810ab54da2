"""The Redis store: Store, Scans, Reader, Letters and Jobs in one object. Works with Redis 6.2 and newer, and with Valkey.

A claim is one round trip and a commit is one: a Lua script that finds everything as it was read, or writes nothing. There is no
transaction that a step's own writes could be part of, so every step of a service that keeps its records here is an external one.
"""

from __future__ import annotations

import os
from typing import Any

from saga_choreo.errors import ConfigurationError, StoreVersionError
from saga_choreo.ports import StoreFeatures, Transaction
from saga_choreo_redis.jobs import RedisJobs
from saga_choreo_redis.keys import Keys
from saga_choreo_redis.letters import RedisLetters
from saga_choreo_redis.link import Link
from saga_choreo_redis.place import place_of
from saga_choreo_redis.reader import RedisReader
from saga_choreo_redis.safety import check_server
from saga_choreo_redis.scans import RedisScans
from saga_choreo_redis.transaction import RedisTransaction, RedisTransactionBlock
from saga_choreo_redis.upkeep import OLDEST_VERSION, SCHEMA_VERSION, RedisUpkeep, is_known, stored_versions

__all__ = ["RedisStore"]

# Batches that an agent runs beside each other: the server syncs once for all that it has been sent meanwhile.
_WRITERS = 4


class RedisStore(RedisScans, RedisReader, RedisUpkeep, RedisLetters, RedisJobs):
    """`?durability=relaxed` accepts a server whose commits a crash may undo; `?prefix=` is what all keys begin with;
    `?pool_max=` bounds the connections of this object."""

    def __init__(self, url: str) -> None:
        self._place = place_of(url)
        self._link = Link(self._place)
        self._keys = Keys(self._place.prefix)
        self._features = StoreFeatures(
            name="redis",
            user_transaction=False,
            writers=_WRITERS,
            durable=self._place.durability == "full",
            sql=False,
            placeholder="",
            letters=True,
        )
        self._incarnation = ""

    @property
    def features(self) -> StoreFeatures:
        return self._features

    @property
    def incarnation(self) -> str:
        """A random name this store got when it was first opened. Another one means: another store."""
        return self._incarnation

    async def open(self, *, migrate: bool = True) -> None:
        """Raises ConfigurationError, DurabilityRefused, StoreVersionError, StoreUnavailable."""
        if self._incarnation:
            return
        await self._link.open()
        try:
            await check_server(self._link, self._place.shown, durable=self._features.durable)
            await self._check_schema(migrate=migrate)
        except BaseException:
            await self.close()
            raise

    def transaction(self) -> RedisTransactionBlock:
        return RedisTransactionBlock(RedisTransaction(self._link, self._keys))

    def join(self, connection: Any) -> Transaction:
        raise ConfigurationError(
            f"cannot join {type(connection).__name__!r}: Redis has no transaction of the caller's that a saga could be started in; "
            "call start_saga without tx=..., or keep this service's records in the database it works with"
        )

    async def close(self) -> None:
        self._incarnation = ""
        await self._link.close()

    async def _check_schema(self, *, migrate: bool) -> None:
        meta, where = self._keys("meta"), f"{self._place.shown} (prefix {self._place.prefix})"
        found, oldest = await stored_versions(self._link, self._keys)
        if not is_known(found, oldest):
            raise StoreVersionError(
                f"the sagas at {where!r} are laid out by version {found}, this saga_choreo knows up to {SCHEMA_VERSION}; "
                "upgrade saga_choreo here, or use the version that wrote them"
            )
        if not found and not migrate:
            raise StoreVersionError(f"there are no sagas at {where!r}; open the store with migrate=True once to begin there")
        if not found:
            await self._link.write("HSETNX", meta, "incarnation", os.urandom(16).hex())
            await self._link.write("HSETNX", meta, "oldest_version", OLDEST_VERSION)
            await self._link.write("HSETNX", meta, "schema_version", SCHEMA_VERSION)
        self._incarnation = (await self._link.read("HGET", meta, "incarnation") or b"unnamed").decode()

    def __repr__(self) -> str:
        return f"RedisStore({self._place.shown!r}, prefix={self._place.prefix!r}, durability={self._place.durability!r})"
