"""The one object for work on dead letters: `agent.dead_letters` in code, and what `saga-choreo dlq` and `jobs` use."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from saga_choreo.errors import LetterNotFound, Refused
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.letters import Job, JobItem
from saga_choreo.ports.store import Quarantined
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.deadletters.find import Group, WantedLetters, by_ids, groups_of, walk
from saga_choreo.runtime.deadletters.letter import DeadLetter, LetterKind
from saga_choreo.runtime.deadletters.replay import JobView, Planned, ReplayOrder, check_words, job_view, preflight, start, steer
from saga_choreo.runtime.plugins import WholeStore, with_letters
from saga_choreo.runtime.timing import Limits

__all__ = ["DeadLetters"]

_PAGE = 500


class DeadLetters:
    """Dead letters of one store; with `service` of that service only. Raises ConfigurationError on a store that cannot do this.

    `find`, `groups`, `get` look; `preflight` judges; `replay` makes jobs that the service's agents carry out, also when this
    process ends; `job`, `jobs`, `items`, `pause`, `resume`, `cancel` follow and steer them; `archive`, `restore`, `purge` tidy up.
    """

    def __init__(self, store: WholeStore, service: str = "", *, clock: Clock | None = None, limits: Limits | None = None) -> None:
        self._store = with_letters(store)
        self._service = service
        self._clock = clock or SystemClock()
        self._limits = limits or Limits()

    async def find(self, wanted: WantedLetters | None = None) -> AsyncIterator[DeadLetter]:
        """Those that match, messages first, the newest first."""
        async for letter in walk(self._store, self._mine(wanted or WantedLetters())):
            yield letter

    async def groups(self, wanted: WantedLetters | None = None) -> list[Group]:
        """Dead letters by their fault, the largest group first."""
        return groups_of([letter async for letter in self.find(wanted)])

    async def get(self, *ids: str) -> list[DeadLetter]:
        """Raises LetterNotFound."""
        found = await self.present(ids)
        missing = sorted({*ids} - {letter.id for letter in found})
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise LetterNotFound(f"no dead letter {missing[0]!r}{more} is in this store; list them with: saga-choreo dlq list")
        return found

    async def present(self, ids: Sequence[str]) -> list[DeadLetter]:
        """Those of them that are there."""
        found = await by_ids(self._store, ids)
        return [letter for letter in found.values() if self._service in ("", letter.service)]

    async def preflight(self, letters: Iterable[DeadLetter] | AsyncIterable[DeadLetter]) -> list[Planned]:
        """A verdict for each, before anything moves."""
        found = letters if isinstance(letters, AsyncIterable) else _each(letters)
        return await preflight(self._store, found, self._clock, self._limits)

    async def replay(self, planned: Sequence[Planned], order: ReplayOrder, wanted: str = "") -> list[Job]:
        """Jobs for those that move: one for each service. Raises Refused (no operator, no reason)."""
        return await start(self._store, planned, order, self._clock, wanted)

    async def job(self, job_id: str) -> JobView:
        """Raises LetterNotFound."""
        return await job_view(self._store, job_id)

    async def jobs(self, *, active: bool = False, limit: int = 50) -> list[JobView]:
        """Newest first."""
        found = await self._store.jobs(self._service, active=active, limit=limit)
        return [JobView(job, await self._store.item_counts(job.id)) for job in found]

    async def items(self, job_id: str, states: Sequence[str] = ()) -> AsyncIterator[JobItem]:
        """What has become of each letter of a job."""
        after = -1
        while page := await self._store.items(job_id, states, after=after, limit=_PAGE):
            for item in page:
                yield item
            after = page[-1].place

    async def pause(self, job_id: str) -> JobView:
        """Begin nothing more for now. Raises Refused, LetterNotFound; so do the next two."""
        return await steer(self._store, job_id, "pause", self._clock)

    async def resume(self, job_id: str, *, stop_percent: int | None = None) -> JobView:
        """Go on: one that had stopped by itself without a limit, unless a new one is given."""
        return await steer(self._store, job_id, "resume", self._clock, stop_percent=stop_percent)

    async def cancel(self, job_id: str) -> JobView:
        """Begin nothing more. What was begun is followed to its end."""
        return await steer(self._store, job_id, "cancel", self._clock)

    async def archive(self, letters: Iterable[DeadLetter], *, operator: str, reason: str) -> int:
        """Put open messages aside: out of the default list, and kept until they are purged. Returns how many."""
        return await self._moved(letters, "open", "archived", operator, reason)

    async def restore(self, letters: Iterable[DeadLetter], *, operator: str, reason: str) -> int:
        """Take archived messages up again. Returns how many."""
        return await self._moved(letters, "archived", "open", operator, reason)

    async def purge(self, letters: Iterable[DeadLetter]) -> int:
        """Delete archived messages for good. Returns how many."""
        return await self._by_pages(letters, lambda numbers: self._store.delete_letters(numbers, "archived"))

    async def bring_in(self, letters: Sequence[Quarantined]) -> int:
        """Add messages (see `exchange`); those that are there already are not added again. Returns how many were added."""
        wrong = next((one.service for one in letters if self._service not in ("", one.service)), None)
        if wrong is not None:
            raise Refused(f"a letter belongs to {wrong!r}, not to {self._service!r}; bring it into the store of its service")
        now_ms = self._clock.time_ns() // 1_000_000
        added = 0
        for at in range(0, len(letters), _PAGE):
            # Counted from now on, or the old ones among them would be forgotten within the hour.
            page = [_taken_up(one, now_ms) for one in letters[at : at + _PAGE]]
            added += await self._store.add_letters(page)
        return added

    async def _moved(self, letters: Iterable[DeadLetter], of: str, to: str, operator: str, reason: str) -> int:
        check_words(operator, reason)
        now_ms = self._clock.time_ns() // 1_000_000
        return await self._by_pages(letters, lambda numbers: self._store.move_letters(numbers, of, to, operator, reason, now_ms))

    async def _by_pages(self, letters: Iterable[DeadLetter], work: Callable[[Sequence[int]], Awaitable[int]]) -> int:
        numbers = [one.number for one in letters if one.kind is LetterKind.MESSAGE and one.state != "waiting"]
        return sum([await work(numbers[at : at + _PAGE]) for at in range(0, len(numbers), _PAGE)])

    def _mine(self, wanted: WantedLetters) -> WantedLetters:
        return replace(wanted, service=wanted.service or self._service)


async def _each(letters: Iterable[DeadLetter]) -> AsyncIterator[DeadLetter]:
    for letter in letters:
        yield letter


def _taken_up(one: Quarantined, now_ms: int) -> Quarantined:
    return replace(one, state="open", state_ms=now_ms, number=0)
