"""Reads for people and tools. `remember` is the one that writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from heapq import nsmallest
from uuid import UUID

from saga_choreo.ports import ORIGIN, BusinessKey, OpenSagas, Quarantined, Record, SagaFilter, oldest_open, rests
from saga_choreo_redis.draft import key_field
from saga_choreo_redis.keys import Keys, saga_of
from saga_choreo_redis.link import Link
from saga_choreo_redis.packing import key_of
from saga_choreo_redis.rows import read_letters, services_of
from saga_choreo_redis.transaction import as_map, records_of

__all__ = ["RedisReader"]

_PAGE = 200
_SCANNED = 1_000
# In a saga's hash, where there is one more (`rev`) beside its records.
_FIELDS_OF_RECORD = 3
_KEYS_MAX = 1000


class RedisReader:
    _link: Link
    _keys: Keys

    async def records(self, saga_id: UUID, service: str = "") -> Sequence[Record]:
        """By service, then in key order."""
        return (await self._groups([saga_id], await self._services(service)))[0]

    async def origins(self, service: str, sagas: Sequence[UUID]) -> Sequence[Record]:
        return [record for group in await self._groups(sagas, [service]) for record in group if record.step == ORIGIN]

    async def sagas(self, wanted: SagaFilter) -> Sequence[Sequence[Record]]:
        services = await self._services(wanted.service)
        found: set[UUID] = set()
        for service in services:
            found.update(await (self._parked(service, wanted) if wanted.parked else self._listed(service, wanted)))
        newest = sorted(found, reverse=True)[: wanted.limit]
        groups = await self._groups(newest, services)
        if not wanted.choreography:
            return groups
        return [[record for record in group if record.choreography == wanted.choreography] for group in groups]

    async def open_sagas(self, service: str, after: UUID | None, limit: int, *, resting: bool = False) -> OpenSagas:
        """What is saved or ends meanwhile may be in it or not."""
        services = await self._services(service)
        lists = self._resting if resting else self._timed
        sagas, looked_to = oldest_open([await lists(one, after, limit) for one in services], limit)
        return OpenSagas([group for group in await self._groups(sagas, services) if group], looked_to)

    async def key(self, service: str, choreography: str, key: str) -> Sequence[BusinessKey]:
        """Newest saga first, at most 1000."""
        services = await self._services(service)
        names = await self._link.read_all([("SMEMBERS", self._keys("choreographies", one)) for one in services])
        places = [
            (owner, name.decode(), key)
            for owner, found in zip(services, names, strict=True)
            for name in found
            if choreography in ("", name.decode())
        ]
        if not places:
            return []
        stored = await self._link.read("HMGET", self._keys("key"), *(key_field(*place) for place in places))
        keys = [key_of(*place, one) for place, one in zip(places, stored, strict=True) if one]
        return sorted(keys, key=lambda one: one.saga_id, reverse=True)[:_KEYS_MAX]

    async def counters(self, service: str = "") -> Mapping[str, int]:
        services = await self._services(service)
        sums: dict[str, int] = {}
        for fields in await self._link.read_all([("HGETALL", self._keys("counter", one)) for one in services]):
            for name, value in as_map(fields).items():
                sums[name.decode()] = sums.get(name.decode(), 0) + int(value)
        return dict(sorted(sums.items()))

    async def quarantined(self, service: str = "", limit: int = 50) -> Sequence[Quarantined]:
        """Newest first."""
        services = await self._services(service)
        found = await self._link.read_all(
            [("ZREVRANGE", self._keys("quarantined", one), 0, limit - 1) for one in services] if limit > 0 else []
        )
        numbers = sorted((int(number) for one in found for number in one), reverse=True)[:limit]
        return await read_letters(self._link, self._keys, numbers)

    async def definitions(self) -> Mapping[str, bytes]:
        found = as_map(await self._link.read("HGETALL", self._keys("definition")))
        return {name.decode(): canonical for name, canonical in sorted(found.items())}

    async def remember(self, definition: str, canonical: bytes, holders: Sequence[str]) -> None:
        """What is known already costs a read only. Empty `canonical`: only the holders are kept."""
        known, held_by = await self._link.read_all(
            [("HEXISTS", self._keys("definition"), definition), ("SMEMBERS", self._keys("holder", definition))]
        )
        if canonical and not known:
            await self._link.write("HSETNX", self._keys("definition"), definition, canonical)
        new = sorted(set(holders) - {one.decode() for one in held_by})
        if new:
            await self._link.write("SADD", self._keys("holder", definition), *new)

    async def holders(self, definition: str) -> Sequence[str]:
        return sorted(one.decode() for one in await self._link.read("SMEMBERS", self._keys("holder", definition)))

    async def _services(self, service: str) -> list[str]:
        return await services_of(self._link, self._keys, service)

    async def _groups(self, sagas: Sequence[UUID], services: Sequence[str]) -> list[list[Record]]:
        places = [(saga_id, service) for saga_id in sagas for service in services]
        found = await self._link.read_all([("HGETALL", self._keys.saga(service, saga_id)) for saga_id, service in places])
        groups: dict[UUID, list[Record]] = {saga_id: [] for saga_id in sagas}
        for (saga_id, _), fields in zip(places, found, strict=True):
            groups[saga_id] += records_of(as_map(fields))
        return [groups[saga_id] for saga_id in sagas]

    async def _listed(self, service: str, wanted: SagaFilter) -> list[UUID]:
        key = self._keys("sagas", service, wanted.choreography) if wanted.choreography else self._keys("sagas", service)
        below = f"({wanted.before.hex}" if wanted.before is not None else "+"
        return [saga_of(member) for member in await self._link.read("ZREVRANGEBYLEX", key, below, "-", "LIMIT", 0, wanted.limit)]

    async def _timed(self, service: str, after: UUID | None, limit: int) -> list[tuple[UUID, bool]]:
        """The index is by time. A scan of it misses nothing that is in it all along; a walk by rank does, when times change."""
        above, found, cursor = b"" if after is None else after.hex.encode(), set[bytes](), b"0"
        while True:
            cursor, members = await self._link.read("ZSCAN", self._keys("due", service), cursor, "COUNT", _SCANNED)
            found.update(member[:32] for member in members[::2] if member[:32] > above)
            if cursor == b"0":
                return [(saga_of(member), True) for member in nsmallest(limit, found)]

    async def _resting(self, service: str, after: UUID | None, limit: int) -> list[tuple[UUID, bool]]:
        above = "-" if after is None else f"({after.hex}"
        members = await self._link.read("ZRANGEBYLEX", self._keys("sagas", service), above, "+", "LIMIT", 0, limit)
        sagas = [saga_of(member) for member in members]
        unended = await self._unended(service, sagas)
        resting = {group[0].saga_id for group in await self._groups(unended, [service]) if any(map(rests, group))}
        return [(saga, saga in resting) for saga in sagas]

    async def _unended(self, service: str, sagas: Sequence[UUID]) -> list[UUID]:
        """Of these, in order, those of which not all records may be forgotten; the others need not be read and unpacked."""
        if not sagas:
            return []
        low, high = f"[{sagas[0].hex}", f"({sagas[-1].hex};"  # the character after the one that ends an id in a member
        ended = Counter(member[:32] for member in await self._link.read("ZRANGEBYLEX", self._keys("ended", service), low, high))
        fields = await self._link.read_all([("HLEN", self._keys.saga(service, saga)) for saga in sagas])
        return [saga for saga, count in zip(sagas, fields, strict=True) if count // _FIELDS_OF_RECORD > ended[saga.hex.encode()]]

    async def _parked(self, service: str, wanted: SagaFilter) -> list[UUID]:
        found: dict[UUID, None] = {}
        async for saga_id in self._parked_ids(service, wanted.before):
            if len(found) >= wanted.limit:
                break
            if saga_id not in found and await self._is_of(saga_id, service, wanted.choreography):
                found[saga_id] = None
        return list(found)

    async def _parked_ids(self, service: str, before: UUID | None) -> AsyncGenerator[UUID]:
        below: str | bytes = f"({before.hex}" if before is not None else "+"
        while members := await self._link.read("ZREVRANGEBYLEX", self._keys("parked", service), below, "-", "LIMIT", 0, _PAGE):
            for member in members:
                yield saga_of(member)
            below = b"(" + members[-1]

    async def _is_of(self, saga_id: UUID, service: str, choreography: str) -> bool:
        if not choreography:
            return True
        score = await self._link.read("ZSCORE", self._keys("sagas", service, choreography), saga_id.hex)
        return score is not None
