"""Dead letters and replay jobs of the memory store: the ports `Letters` and `Jobs` on its tables.

Every method is done before it awaits anything, so nobody sees half of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from saga_choreo.memory.tables import Tables
from saga_choreo.ports import Held, Job, JobItem, LetterFilter, Quarantined

__all__ = ["MemoryLetters", "forget_jobs", "may_forget_letter"]


class MemoryLetters:
    def _committed(self) -> Tables:
        raise NotImplementedError

    async def letters(self, wanted: LetterFilter) -> Sequence[Quarantined]:
        found = [one for _, one in sorted(self._committed().quarantined.items(), reverse=True) if _matches(one, wanted)]
        return found[: wanted.limit]

    async def waiting(self, service: str, limit: int) -> Sequence[Held]:
        found = [m for _, m in sorted(self._committed().held.items()) if m.told and service in ("", m.service)]
        return found[:limit]

    async def add_letters(self, letters: Sequence[Quarantined]) -> int:
        tables, added = self._committed(), 0
        for letter in letters:
            if not any(_is_same(one, letter) for one in tables.quarantined.values()):
                number = tables.next_number()
                tables.quarantined[number] = replace(letter, number=number)
                added += 1
        return added

    async def move_letters(self, numbers: Sequence[int], of: str, to: str, operator: str, note: str, now_ms: int) -> int:
        letters = self._committed().quarantined
        moved = [letters[number] for number in set(numbers) if number in letters and letters[number].state == of]
        for one in moved:
            letters[one.number] = replace(one, state=to, state_ms=now_ms, operator=operator, note=note)
        return len(moved)

    async def tried_again(self, found: Sequence[tuple[int, str, str]], now_ms: int) -> None:
        letters = self._committed().quarantined
        for number, code, detail in found:
            if number in letters:
                again = letters[number].attempts + 1
                letters[number] = replace(letters[number], code=code, detail=detail, attempts=again, last_ms=now_ms)

    async def delete_letters(self, numbers: Sequence[int], of: str) -> int:
        letters = self._committed().quarantined
        gone = [number for number in set(numbers) if number in letters and letters[number].state == of]
        for number in gone:
            del letters[number]
        return len(gone)

    async def add_job(self, job: Job, items: Sequence[JobItem]) -> None:
        tables = self._committed()
        tables.jobs[job.id] = job
        tables.items[job.id] = {item.place: item for item in items}

    async def jobs(self, service: str = "", *, id_: str = "", active: bool = False, limit: int = 50) -> Sequence[Job]:
        found = [
            job
            for job in sorted(self._committed().jobs.values(), key=lambda job: job.id, reverse=True)
            if service in ("", job.service) and id_ in ("", job.id) and not (active and job.finished_ms is not None)
        ]
        return found[:limit]

    async def save_job(self, job: Job) -> bool:
        jobs = self._committed().jobs
        if job.id not in jobs or jobs[job.id].version != job.version - 1:
            return False
        jobs[job.id] = job
        return True

    async def items(self, job: str, states: Sequence[str] = (), *, after: int = -1, limit: int = 500) -> Sequence[JobItem]:
        items = sorted(self._committed().items.get(job, {}).items())
        return [item for place, item in items if place > after and (not states or item.state in states)][:limit]

    async def item_counts(self, job: str) -> Mapping[str, int]:
        return dict(Counter(str(item.state) for item in self._committed().items.get(job, {}).values()))

    async def save_items(self, job: str, owner: str, items: Sequence[JobItem]) -> bool:
        tables = self._committed()
        if job not in tables.jobs or tables.jobs[job].owner != owner:
            return False
        tables.items[job].update((item.place, item) for item in items)
        return True


def _matches(one: Quarantined, wanted: LetterFilter) -> bool:
    return (
        wanted.service in ("", one.service)
        and wanted.state in ("", one.state)
        and wanted.saga_id in ("", one.saga_id)
        and (not wanted.numbers or one.number in wanted.numbers)
        and (wanted.before is None or one.number < wanted.before)
    )


def _is_same(one: Quarantined, other: Quarantined) -> bool:
    def identity(letter: Quarantined) -> tuple[object, ...]:
        return letter.service, letter.received_ms, letter.channel, dict(letter.headers), letter.body

    return identity(one) == identity(other)


def may_forget_letter(one: Quarantined, before_ms: int) -> bool:
    """What a person put aside stays until a person deletes it."""
    return one.state != "archived" and max(one.received_ms, one.state_ms) < before_ms


def forget_jobs(tables: Tables, service: str, before_ms: int, limit: int) -> int:
    """Items of jobs that ended before then, and those jobs; at most `limit` rows."""
    gone = 0
    for job in [job for job in tables.jobs.values() if job.service == service and (job.finished_ms or before_ms) < before_ms]:
        items = tables.items[job.id]
        for place in list(items)[: limit - gone]:
            del items[place]
            gone += 1
        if not items and gone < limit:
            del tables.jobs[job.id], tables.items[job.id]
            gone += 1
    return gone
