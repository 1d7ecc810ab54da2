"""Replays as rows: the port `Jobs`. A job is a hash with its version and owner as fields, which a commit can check; its items are packed
in a hash by place, and in one sorted set for each of their states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from saga_choreo.errors import StoreConflict
from saga_choreo.ports import ItemState, Job, JobItem
from saga_choreo_redis.draft import Commit
from saga_choreo_redis.keys import Keys
from saga_choreo_redis.link import Link
from saga_choreo_redis.packing import item_of, job_of, pack_row
from saga_choreo_redis.rows import services_of
from saga_choreo_redis.scripts import COMMIT

__all__ = ["RedisJobs", "forget_jobs"]

# Words of one command inside a script: Lua's stack takes some thousands.
_AT_ONCE = 500
_STATES = tuple(str(state) for state in ItemState)


class RedisJobs:
    _link: Link
    _keys: Keys

    async def add_job(self, job: Job, items: Sequence[JobItem]) -> None:
        commit = Commit(self._keys)
        commit.check(self._keys("job", job.id), "version", "", "it is there")
        self._put_job(commit, job)
        commit.do("ZADD", self._keys("jobs", job.service), 0, job.id)
        commit.serves(job.service)
        self._put_items(commit, job.id, items)
        if await self._link.run(COMMIT, commit.keys, commit.arguments):
            raise StoreConflict(f"a job {job.id!r} is in this store already; nothing was saved: ask for the replay anew")

    async def jobs(self, service: str = "", *, id_: str = "", active: bool = False, limit: int = 50) -> Sequence[Job]:
        ids = [id_] if id_ else await self._newest("active" if active else "jobs", service, limit)
        stored = await self._link.read_all([("HGET", self._keys("job", one), "row") for one in ids])
        found = [job_of(one) for one in stored if one]
        return [job for job in found if service in ("", job.service) and not (active and job.finished_ms is not None)][:limit]

    async def save_job(self, job: Job) -> bool:
        commit = Commit(self._keys)
        commit.check(self._keys("job", job.id), "version", str(job.version - 1), "it was changed")
        self._put_job(commit, job)
        return not await self._link.run(COMMIT, commit.keys, commit.arguments)

    async def items(self, job: str, states: Sequence[str] = (), *, after: int = -1, limit: int = 500) -> Sequence[JobItem]:
        found = await self._link.read_all(
            [
                ("ZRANGEBYSCORE", self._keys("items", job, state), f"({after}", "+inf", "LIMIT", 0, limit)
                for state in sorted(set(map(str, states))) or _STATES
            ]
        )
        # In two of them only if it changed its state between the two reads.
        places = sorted({int(place) for one in found for place in one})[:limit]
        if not places:
            return []
        stored = await self._link.read("HMGET", self._keys("items", job), *places)
        return [item_of(one) for one in stored if one]

    async def item_counts(self, job: str) -> Mapping[str, int]:
        found = await self._link.read_all([("ZCARD", self._keys("items", job, state)) for state in _STATES])
        return {state: int(count) for state, count in zip(_STATES, found, strict=True) if count}

    async def save_items(self, job: str, owner: str, items: Sequence[JobItem]) -> bool:
        commit = Commit(self._keys)
        commit.check(self._keys("job", job), "owner", _owner(owner), "it is another's")
        self._put_items(commit, job, items)
        return not await self._link.run(COMMIT, commit.keys, commit.arguments)

    async def _newest(self, index: str, service: str, limit: int) -> list[str]:
        if limit <= 0:
            return []
        services = await services_of(self._link, self._keys, service)
        found = await self._link.read_all(
            [("ZREVRANGEBYLEX", self._keys(index, one), "+", "-", "LIMIT", 0, limit) for one in services]
        )
        return sorted((id_.decode() for one in found for id_ in one), reverse=True)[:limit]

    def _put_job(self, commit: Commit, job: Job) -> None:
        named = self._keys
        commit.do("HSET", named("job", job.id), "row", pack_row(job), "version", job.version, "owner", _owner(job.owner))
        if job.finished_ms is None:
            commit.do("ZADD", named("active", job.service), 0, job.id)
            commit.do("ZREM", named("over", job.service), job.id)
        else:
            commit.do("ZREM", named("active", job.service), job.id)
            commit.do("ZADD", named("over", job.service), job.finished_ms, job.id)

    def _put_items(self, commit: Commit, job: str, items: Iterable[JobItem]) -> None:
        by_state = sorted(items, key=lambda item: str(item.state))
        for state, some in groupby(by_state, key=lambda item: str(item.state)):
            alike = list(some)
            for at in range(0, len(alike), _AT_ONCE):
                self._put_alike(commit, job, state, alike[at : at + _AT_ONCE])

    def _put_alike(self, commit: Commit, job: str, state: str, items: Sequence[JobItem]) -> None:
        places = [item.place for item in items]
        commit.do("HSET", self._keys("items", job), *(word for item in items for word in (item.place, pack_row(item))))
        for other in _STATES:
            if other != state:
                commit.do("ZREM", self._keys("items", job, other), *places)
        commit.do("ZADD", self._keys("items", job, state), *(place for place in places for _ in range(2)))


async def forget_jobs(link: Link, keys: Keys, service: str, before_ms: int, limit: int) -> int:
    """Items of jobs that ended before then, and those jobs; at most `limit` rows."""
    over, gone = keys("over", service), 0
    for id_ in [one.decode() for one in await link.read("ZRANGEBYSCORE", over, "-inf", f"({before_ms}", "LIMIT", 0, limit)]:
        if gone >= limit:
            break
        gone += await _forget_job(link, keys, service, id_, limit - gone)
    return gone


async def _forget_job(link: Link, keys: Keys, service: str, id_: str, limit: int) -> int:
    """Up to so many of its items, and itself once none is left; nothing if it changes meanwhile."""
    job, indexes = keys("job", id_), [keys("items", id_, state) for state in _STATES]
    version, *found = await link.read_all([("HGET", job, "version"), *(("ZRANGE", index, 0, limit - 1) for index in indexes)])
    places = sorted({int(place) for one in found for place in one})[:limit]
    is_last = len(places) < limit
    commit = Commit(keys)
    commit.check(job, "version", (version or b"").decode(), "it was changed")
    for at in range(0, len(places), _AT_ONCE):
        some = places[at : at + _AT_ONCE]
        commit.do("HDEL", keys("items", id_), *some)
        for index in indexes:
            commit.do("ZREM", index, *some)
    if is_last:
        commit.do("DEL", job)
        for name in ("jobs", "active", "over"):
            commit.do("ZREM", keys(name, service), id_)
    if await link.run(COMMIT, commit.keys, commit.arguments):
        return 0
    return len(places) + is_last


def _owner(owner: str) -> str:
    """Never empty: a job that is not there belongs to nobody, not to the agent without a name."""
    return f"by {owner}"
