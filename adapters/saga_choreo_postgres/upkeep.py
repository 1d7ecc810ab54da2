"""What a PostgreSQL database tells of itself: version, durability, where its history is.

Its history has another name after a failover: the cluster's identifier and its timeline are part of it, where this user may see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from saga_choreo.ports import ORIGIN, BusinessKey, Epoch, SagaLock, StoreState
from saga_choreo_postgres import schema
from saga_choreo_postgres.moving import DAYS_SINCE
from saga_choreo_postgres.partitions import remarks
from saga_choreo_postgres.pool import Pool
from saga_choreo_postgres.runs import Runs
from saga_choreo_postgres.speakers import Speaker

__all__ = ["SAFE", "PostgresUpkeep", "settings_of", "unsafe_of", "versions"]

SAFE = {"fsync": ("on",), "full_page_writes": ("on",), "synchronous_commit": ("on", "local", "remote_write", "remote_apply")}
_KEYS = (
    "SELECT service, choreography, key, uuid_send(saga_id), digest FROM saga_business_key "
    "WHERE $1::uuid IS NULL OR saga_id < $1 ORDER BY saga_id DESC LIMIT $2"
)
_LOCKS = "SELECT service, name, uuid_send(saga_id) FROM saga_lock ORDER BY service, name LIMIT $1"
_META = "SELECT value FROM saga_meta WHERE name = $1"
_PUT_META = "INSERT INTO saga_meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_RAISE = (
    "INSERT INTO saga_meta AS m (name, value) VALUES ($1, ($2::bigint + 1)::text) ON CONFLICT (name) DO UPDATE "
    "SET value = (greatest(m.value::bigint, $2::bigint) + 1)::text RETURNING m.value"
)
_LOAD = (
    "SELECT (SELECT count(*) FROM (SELECT 1 FROM saga_record WHERE service = $1 AND due_ms IS NOT NULL "
    "AND step = $4 LIMIT $2) AS started), "
    "(SELECT count(*) FROM (SELECT 1 FROM saga_record WHERE service = $1 AND announced < version LIMIT $3) AS unsaid)"
)


async def settings_of(runs: Runs, *more: str) -> dict[str, str]:
    """The settings that decide about durability, and some more, as this session has them."""
    names = (*SAFE, *more)
    asked = ", ".join(f"current_setting('{name}')" for name in names)
    return dict(zip(names, (await runs.read(f"SELECT {asked}"))[0], strict=True))


def unsafe_of(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: settings[name] for name, safe in SAFE.items() if settings[name] not in safe}


class PostgresUpkeep:
    _pool: Pool
    _runs: Runs

    async def inspect(self) -> StoreState:
        await self._pool.open()
        try:
            settings = await settings_of(self._runs)
            version, oldest = await self._runs.write(versions)
            identity = (await self.epoch("")).identity if version else ""
            findings = await self._runs.write(remarks) if version >= DAYS_SINCE else []
        finally:
            await self._pool.close()
        return StoreState(
            name="postgresql",
            version=version,
            wanted=schema.SCHEMA_VERSION,
            oldest=schema.oldest_version(),
            works=version == schema.SCHEMA_VERSION or (version > schema.SCHEMA_VERSION >= oldest > 0),
            pending=schema.names_after(version),
            settings=settings,
            unsafe=unsafe_of(settings),
            identity=identity,
            findings=tuple(findings),
        )

    async def keys(self, before: UUID | None, limit: int) -> Sequence[BusinessKey]:
        return [
            BusinessKey(service=service, choreography=choreography, key=key, saga_id=UUID(bytes=saga_id), digest=digest)
            for service, choreography, key, saga_id, digest in await self._runs.read(_KEYS, before, limit)
        ]

    async def locks(self, limit: int) -> Sequence[SagaLock]:
        rows = await self._runs.read(_LOCKS, limit)
        return [SagaLock(service=service, name=name, saga_id=UUID(bytes=saga_id)) for service, name, saga_id in rows]

    async def epoch(self, service: str) -> Epoch:
        return await self._runs.write(lambda speaker: _epoch(speaker, service))

    async def advance(self, service: str, at_least: int = 0, note: str = "") -> Epoch:
        async def work(speaker: Speaker) -> Epoch:
            await speaker.fetch(_RAISE, f"epoch:{service}", at_least)
            if note:
                await speaker.fetch(_PUT_META, f"accepted:{service}", note)
            return await _epoch(speaker, service)

        return await self._runs.write(work)

    async def load(self, service: str, open_max: int, unannounced_max: int) -> tuple[int, int]:
        ((open_, unannounced),) = await self._runs.read(_LOAD, service, open_max, unannounced_max, ORIGIN)
        return int(open_), int(unannounced)


async def _meta(speaker: Speaker, name: str) -> str:
    rows = await speaker.fetch(_META, name)
    return str(rows[0][0]) if rows else ""


async def _epoch(speaker: Speaker, service: str) -> Epoch:
    server = await schema.identity(speaker)
    parts = (await _meta(speaker, "incarnation"), server.get("system_identifier", ""), server.get("timeline", ""))
    position, note = await _meta(speaker, f"epoch:{service}"), await _meta(speaker, f"accepted:{service}")
    return Epoch("/".join(parts).rstrip("/"), int(position or 0), note)


async def versions(speaker: Speaker) -> tuple[int, int]:
    """The version of the tables, and the oldest code that can work with them (0: not known)."""
    version = await schema.stored_version(speaker)
    return version, int(await _meta(speaker, "oldest_version") or 0) if version else 0
