"""What relay, timers and retention look for: ranges of sorted sets, never a walk over all keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from saga_choreo.ports import AnnouncedMark, Held, Record, RecordKey
from saga_choreo_redis.draft import Commit, key_field
from saga_choreo_redis.jobs import forget_jobs
from saga_choreo_redis.keys import Keys, key_of, letter_block, member_of, place_in, saga_of
from saga_choreo_redis.link import Link
from saga_choreo_redis.packing import key_of as key_of_key
from saga_choreo_redis.packing import record_of
from saga_choreo_redis.rows import read_held
from saga_choreo_redis.scripts import COMMIT, DROP_LETTERS, FORGET, MARK

__all__ = ["RedisScans"]

# Records one script marks, and candidates looked at together: the server does nothing else meanwhile.
_AT_ONCE = 200


class RedisScans:
    _link: Link
    _keys: Keys

    async def due(self, service: str, now_ms: int, limit: int, *, newest: bool = False) -> Sequence[RecordKey]:
        key = self._keys("due", service)
        command = ("ZREVRANGEBYSCORE", key, now_ms, "-inf") if newest else ("ZRANGEBYSCORE", key, "-inf", now_ms)
        return [key_of(member) for member in await self._link.read(*command, "LIMIT", 0, limit)]

    async def next_due_ms(self, service: str) -> int | None:
        found = await self._link.read("ZRANGE", self._keys("due", service), 0, 0, "WITHSCORES")
        return int(float(found[1])) if found else None

    async def unannounced(
        self, service: str, before_ms: int, start_before_ms: int, limit: int, skip: int = 0, *, newest: bool = False
    ) -> Sequence[Record]:
        verb, page = "ZREVRANGEBYSCORE" if newest else "ZRANGEBYSCORE", ("WITHSCORES", "LIMIT", 0, skip + limit)
        found = await self._link.read_all(
            [
                (verb, self._keys(name, service), *((f"({before}", "-inf") if newest else ("-inf", f"({before}")), *page)
                for name, before in (("untold", before_ms), ("starts", max(before_ms, start_before_ms)))
            ]
        )
        scored = ((float(score), member) for one in found for member, score in zip(one[::2], one[1::2], strict=True))
        waiting = sorted(scored, reverse=newest)
        keys = [key_of(member) for _, member in waiting[skip : skip + limit]]
        rows = await self._link.read_all(
            [("HMGET", self._keys.saga(service, key.saga_id), f"r{place_in(key)}", f"a{place_in(key)}") for key in keys]
        )
        records = [record_of(stored, int(announced or 0)) for stored, announced in rows if stored]
        # An origin row that has gone on stays among the starts, whose index is by step, and is no start any more.
        wanted = (one for one in records if one.announced < one.version)
        return [one for one in wanted if one.changed_ms < (start_before_ms if one.is_start else before_ms)]

    async def mark_announced(self, service: str, marks: Sequence[AnnouncedMark]) -> None:
        for at in range(0, len(marks), _AT_ONCE):
            keys: list[str] = []
            words: list[Any] = []
            for key, version in marks[at : at + _AT_ONCE]:
                keys += (self._keys.saga(service, key.saga_id), self._keys.untold(service, key.step))
                words += (member_of(key), place_in(key), version)
            await self._link.run(MARK, keys, words)

    async def held(self, service: str, definitions: Sequence[str], limit: int) -> Sequence[Held]:
        found = await self._link.read_all(
            [("ZRANGE", self._keys("held", service, one), 0, limit - 1) for one in sorted(set(definitions))]
        )
        return await read_held(self._link, self._keys, service, sorted(int(number) for one in found for number in one)[:limit])

    async def untold(self, service: str, before_ms: int, limit: int) -> Sequence[Held]:
        numbers = await self._link.read("ZRANGEBYSCORE", self._keys("waiting", service), "-inf", f"({before_ms}", "LIMIT", 0, limit)
        found = await read_held(self._link, self._keys, service, [int(number) for number in numbers])
        return sorted(found, key=lambda message: (message.received_ms, message.number))

    async def mark_told(self, service: str, numbers: Sequence[int]) -> None:
        waiting, told = self._keys("waiting", service), self._keys("told", service)
        if not numbers:
            return
        scores = await self._link.read("ZMSCORE", waiting, *numbers)
        for number, score in zip(numbers, scores, strict=True):
            if score is not None:
                # In this order a process that dies in between leaves the message in both: told of once more, and never lost.
                await self._link.write("ZADD", told, score, number)
                await self._link.write("ZREM", waiting, number)

    async def forget(self, service: str, before: UUID, limit: int) -> int:
        """Counts every row it deletes, at most `limit`. Held messages that were told go by the time they were received, quarantined
        ones that nobody put aside also by when they were last moved, jobs by their end; a business key goes once no record of its
        saga is left."""
        started_ms = before.int >> 80  # a UUIDv7 begins with its Unix time in milliseconds
        gone = await self._forget_records(service, before, limit)
        gone += await self._forget_keys(service, before, limit - gone)
        for forget in (self._forget_quarantined, self._forget_held, self._forget_jobs):
            if gone < limit:
                gone += await forget(service, started_ms, limit - gone)
        return gone

    async def _forget_records(self, service: str, before: UUID, limit: int) -> int:
        ended, gone = self._keys("ended", service), 0
        members = await self._link.read("ZRANGEBYLEX", ended, "-", f"({before.hex}", "LIMIT", 0, limit)
        for member in members:
            key = key_of(member)
            saga, place = self._keys.saga(service, key.saga_id), place_in(key)
            stored = await self._link.read("HGET", saga, f"r{place}")
            choreography = record_of(stored, 0).choreography if stored else ""
            sagas = self._keys("sagas", service)
            keys = (ended, saga, self._keys("due", service), sagas, self._keys("sagas", service, choreography))
            gone += await self._link.run(FORGET, keys, (member, place, key.saga_id.hex))
        return gone

    async def _forget_keys(self, service: str, before: UUID, limit: int) -> int:
        """Keys of sagas that are still open stay, and are passed over; so their number bounds the walk."""
        index, gone, begin = self._keys("keys", service), 0, "-"
        while gone < limit:
            members = await self._link.read("ZRANGEBYLEX", index, begin, f"({before.hex}", "LIMIT", 0, _AT_ONCE)
            if not members:
                break
            begin = b"(" + members[-1]
            sagas = [self._keys.saga(service, saga_of(member)) for member in members]
            open_ = await self._link.read_all([("EXISTS", saga) for saga in sagas])
            over = [member for member, there in zip(members, open_, strict=True) if not there][: limit - gone]
            for member in over:
                await self._forget_key(service, member)
            gone += len(over)
        return gone

    async def _forget_key(self, service: str, member: bytes) -> None:
        """Only while it is this saga's: another process may have forgotten it, and a new saga taken it."""
        _, choreography, key = member.decode().split("\0", 2)
        stored = await self._link.read("HGET", self._keys("key"), key_field(service, choreography, key))
        commit = Commit(self._keys)
        if stored and key_of_key(service, choreography, key, stored).saga_id == saga_of(member):
            commit.drop_key(service, choreography, key, stored)
        commit.drop_member(self._keys("keys", service), member)
        await self._link.run(COMMIT, commit.keys, commit.arguments)

    async def _forget_quarantined(self, service: str, started_ms: int, limit: int) -> int:
        times = self._keys("quarantine", service)
        late: list[bytes] = await self._link.read("ZRANGEBYSCORE", times, "-inf", f"({started_ms}", "LIMIT", 0, limit)
        if not late:
            return 0
        keys = [self._keys(name) for name in ("quarantine", "moved", "tried")]
        words = [word for number in late for word in (number, len(keys) + 1)]
        return await self._link.run(DROP_LETTERS, keys + letter_block(self._keys, service), ["", started_ms, *words])

    async def _forget_held(self, service: str, started_ms: int, limit: int) -> int:
        told = self._keys("told", service)
        late: list[bytes] = await self._link.read("ZRANGEBYSCORE", told, "-inf", f"({started_ms}", "LIMIT", 0, limit)
        for message in await read_held(self._link, self._keys, service, [int(number) for number in late]):
            await self._link.write("ZREM", self._keys("held", service, message.definition), message.number)
        if late:
            await self._link.write("HDEL", self._keys("held"), *late)
            await self._link.write("ZREM", told, *late)
        return len(late)

    async def _forget_jobs(self, service: str, started_ms: int, limit: int) -> int:
        return await forget_jobs(self._link, self._keys, service, started_ms, limit)
