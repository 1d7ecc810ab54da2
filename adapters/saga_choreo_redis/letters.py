"""What people do with dead letters: the port `Letters`. None of it is in the hot path.

A row stays as it came. What people and replays say of it later is kept beside it, so that a body is never written twice, and which index
of a state a letter is in is its state: a script that finds it there moves it, and whoever comes second finds nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from saga_choreo.errors import StoreConflict
from saga_choreo.ports import Held, LetterFilter, Quarantined
from saga_choreo_redis.draft import Commit
from saga_choreo_redis.keys import Keys, letter_block
from saga_choreo_redis.link import Link
from saga_choreo_redis.packing import fades_ms, pack_moved, pack_tried
from saga_choreo_redis.rows import read_held, read_letters, services_of
from saga_choreo_redis.scripts import COMMIT, DROP_LETTERS, MOVE_LETTERS, TRY_LETTERS

__all__ = ["RedisLetters"]

_PAGE = 200
# Imports that meet each other: one of them gets through at each round.
_IMPORT_TRIES = 8


class RedisLetters:
    _link: Link
    _keys: Keys

    async def letters(self, wanted: LetterFilter) -> Sequence[Quarantined]:
        found: list[Quarantined] = []
        async for page in self._pages(wanted):
            found += [one for one in await read_letters(self._link, self._keys, page) if _matches(one, wanted)]
            if len(found) >= wanted.limit:
                break
        return found[: wanted.limit]

    async def waiting(self, service: str, limit: int) -> Sequence[Held]:
        found: list[Held] = []
        for owner in await services_of(self._link, self._keys, service) if limit > 0 else []:
            numbers = await self._link.read("ZRANGE", self._keys("told", owner), 0, limit - 1)
            found += await read_held(self._link, self._keys, owner, [int(number) for number in numbers])
        return sorted(found, key=lambda message: (message.received_ms, message.number))[:limit]

    async def add_letters(self, letters: Sequence[Quarantined]) -> int:
        """Rests on nobody else having brought in anything since it looked; else it looks again."""
        meta = self._keys("meta")
        for _ in range(_IMPORT_TRIES):
            imports = (await self._link.read("HGET", meta, "imports") or b"").decode()
            new = await self._not_there(letters)
            if not new:
                return 0
            commit = Commit(self._keys)
            commit.check(meta, "imports", imports, "letters were brought in from another side")
            commit.do("HINCRBY", meta, "imports", 1)
            for letter in new:
                commit.add_letter(letter)
            if not await self._link.run(COMMIT, commit.keys, commit.arguments):
                return len(new)
        raise StoreConflict(
            f"letters were brought in from other sides {_IMPORT_TRIES} times while this import looked; nothing was added: try again"
        )

    async def move_letters(self, numbers: Sequence[int], of: str, to: str, operator: str, note: str, now_ms: int) -> int:
        found = await self._found(numbers)
        keys, bases = self._blocks(service for _, service, _ in found)
        words: list[Any] = [of, to, pack_moved(to, now_ms, operator, note)]
        for number, service, received_ms in found:
            words += (number, bases[service], fades_ms(to, max(received_ms, now_ms)))
        return await self._link.run(MOVE_LETTERS, keys, words) if found else 0

    async def tried_again(self, found: Sequence[tuple[int, str, str]], now_ms: int) -> None:
        keys = [self._keys("quarantine"), self._keys("tried")]
        words = [word for number, code, detail in found for word in (number, pack_tried(code, detail, now_ms))]
        if words:
            await self._link.run(TRY_LETTERS, keys, words)

    async def delete_letters(self, numbers: Sequence[int], of: str) -> int:
        found = await self._found(numbers)
        keys, bases = self._blocks(service for _, service, _ in found)
        words = [word for number, service, _ in found for word in (number, bases[service])]
        return await self._link.run(DROP_LETTERS, keys, [of, "", *words]) if found else 0

    async def _found(self, numbers: Sequence[int]) -> list[tuple[int, str, int]]:
        """Number, service and time of receipt of those that are there: neither of the latter ever changes."""
        wanted, found = sorted(set(numbers)), list[tuple[int, str, int]]()
        for at in range(0, len(wanted), _PAGE):
            page = await read_letters(self._link, self._keys, wanted[at : at + _PAGE])
            found += [(one.number, one.service, one.received_ms) for one in page]
        return found

    def _blocks(self, services: Iterable[str]) -> tuple[list[str], dict[str, int]]:
        """The scripts' keys, and at which of them the indexes of a service begin."""
        keys, bases = [self._keys(name) for name in ("quarantine", "moved", "tried")], dict[str, int]()
        for service in sorted(set(services)):
            bases[service] = len(keys) + 1
            keys += letter_block(self._keys, service)
        return keys, bases

    async def _pages(self, wanted: LetterFilter) -> AsyncGenerator[list[int]]:
        """Numbers of letters that may match, newest first."""
        if wanted.numbers:
            numbers = sorted(set(wanted.numbers), reverse=True)
            for at in range(0, len(numbers), _PAGE):
                yield numbers[at : at + _PAGE]
            return
        services = await services_of(self._link, self._keys, wanted.service)
        indexes = [self._keys("letters", one, wanted.state) if wanted.state else self._keys("quarantined", one) for one in services]
        below = "+inf" if wanted.before is None else f"({wanted.before}"
        while True:
            found = await self._link.read_all([("ZREVRANGEBYSCORE", one, below, "-inf", "LIMIT", 0, _PAGE) for one in indexes])
            page = sorted((int(number) for one in found for number in one), reverse=True)[:_PAGE]
            if not page:
                return
            yield page
            below = f"({page[-1]}"

    async def _not_there(self, letters: Sequence[Quarantined]) -> list[Quarantined]:
        """Only what came at the same time can be the same."""
        times = sorted({(one.service, one.received_ms) for one in letters})
        found = await self._link.read_all([("ZRANGEBYSCORE", self._keys("came", service), at, at) for service, at in times])
        numbers = [int(number) for one in found for number in one]
        known: set[tuple[object, ...]] = set()
        for at in range(0, len(numbers), _PAGE):
            known.update(_identity(one) for one in await read_letters(self._link, self._keys, numbers[at : at + _PAGE]))
        new: list[Quarantined] = []
        for one in letters:
            if _identity(one) not in known:
                known.add(_identity(one))
                new.append(one)
        return new


def _matches(one: Quarantined, wanted: LetterFilter) -> bool:
    return (
        wanted.service in ("", one.service)
        and wanted.state in ("", one.state)
        and wanted.saga_id in ("", one.saga_id)
        and (wanted.before is None or one.number < wanted.before)
    )


def _identity(one: Quarantined) -> tuple[object, ...]:
    return one.service, one.received_ms, one.channel, frozenset(one.headers.items()), one.body
