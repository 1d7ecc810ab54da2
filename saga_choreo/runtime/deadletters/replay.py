"""Asking for a replay, and steering it: rows in the store, which the service's agents carry out (`runner`).

The set is frozen when it is asked for: a job holds the ids of the letters that were judged, so what fails meanwhile is not in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from saga_choreo.codec.notices import OPERATOR_BYTES_MAX, TEXT_BYTES_MAX
from saga_choreo.errors import LetterNotFound, Refused, StoreConflict
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.letters import ItemState, Job, JobItem, JobState
from saga_choreo.runtime.deadletters.find import Plans, parked_record
from saga_choreo.runtime.deadletters.letter import DeadLetter, LetterKind, envelope_in
from saga_choreo.runtime.deadletters.preflight import Facts, Judged, judge_message, judge_step
from saga_choreo.runtime.plugins import LetterStore
from saga_choreo.runtime.timing import Limits

__all__ = ["JobView", "ReplayOrder", "Planned", "check_words", "job_view", "preflight", "start", "steer"]

# The longest words that fit beside the id of a job into what is kept with a step.
_REASON_BYTES_MAX = TEXT_BYTES_MAX - 64
_CONFLICTS_MAX = 8
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOrder:
    """Who wants a replay, why, and how fast. `rate_per_min` 0: as fast as it goes. It stops by itself when more than `stop_percent`
    of what was replayed failed again. `force`: also letters that are expected to fail."""

    operator: str
    reason: str
    rate_per_min: int = 6_000
    in_flight_max: int = 32
    stop_percent: int = 20
    force: bool = False

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("rate_per_min", self.rate_per_min, 0, 10**9),
            ("in_flight_max", self.in_flight_max, 1, 1_000),
            ("stop_percent", self.stop_percent, 0, 100),
        ):
            if not least <= value <= most:
                raise ValueError(f"a replay's {name} is {value!r}; give a number from {least} to {most}")


@dataclass(frozen=True, slots=True)
class Planned:
    """A letter (without its contents) and its verdict. `moves`: the job will have it."""

    letter: DeadLetter
    judged: Judged

    def moves(self, *, force: bool) -> bool:
        return self.judged.moves or (force and self.judged.may_force)


@dataclass(frozen=True, slots=True)
class JobView:
    job: Job
    counts: Mapping[str, int]

    @property
    def is_over(self) -> bool:
        return self.job.finished_ms is not None


async def preflight(store: LetterStore, letters: AsyncIterable[DeadLetter], clock: Clock, limits: Limits) -> list[Planned]:
    """A verdict for each."""
    plans = Plans(await store.definitions())
    busy = await _busy(store)
    held: dict[str, Sequence[str]] = {}
    planned: list[Planned] = []
    async for letter in letters:
        if letter.definition not in held:
            held[letter.definition] = await store.holders(letter.definition) if letter.definition else ()
        records = await _records(store, letter)
        facts = Facts(
            now_ms=clock.time_ns() // 1_000_000,
            horizon_ms=int(limits.horizon_s * 1000),
            clock_bound_ms=int(limits.clock_bound_s * 1000),
            records=records,
            plan=plans.get(letter.definition),
            is_held=letter.service in held[letter.definition],
            is_busy=letter.id in busy,
        )
        if letter.kind is LetterKind.MESSAGE:
            judged = judge_message(letter, envelope_in(letter.channel, letter.headers, letter.body), facts)
        else:
            record, _ = await parked_record(store, letter.id, plans, letter.service)
            judged = judge_step(letter, record, facts)
        planned.append(Planned(replace(letter, headers={}, body=b"", inputs=(), stack=""), judged))
    return planned


async def _records(store: LetterStore, letter: DeadLetter) -> Sequence[Record]:
    try:
        return await store.records(UUID(letter.saga_id), letter.service) if letter.saga_id else ()
    except ValueError:  # the header of a message that cannot be decoded
        return ()


async def _busy(store: LetterStore) -> frozenset[str]:
    """Letters in jobs that are not over."""
    found: set[str] = set()
    for job in await store.jobs(active=True, limit=1_000):
        after = -1
        while page := await store.items(job.id, (ItemState.STAGED, ItemState.RUNNING), after=after, limit=_PAGE):
            found.update(item.letter for item in page)
            after = page[-1].place
    return frozenset(found)


async def start(store: LetterStore, planned: Sequence[Planned], order: ReplayOrder, clock: Clock, wanted: str = "") -> list[Job]:
    """One job for each service that has letters among those that move; the oldest failure first, so that a saga's are replayed in
    their order. Raises Refused for words that cannot be kept."""
    check_words(order.operator, order.reason)
    moving: dict[str, list[Planned]] = {}
    for one in sorted(planned, key=lambda one: (one.letter.first_ms, one.letter.number)):
        if one.moves(force=order.force):
            moving.setdefault(one.letter.service, []).append(one)
    jobs: list[Job] = []
    for service, chosen in sorted(moving.items()):
        now_ms = clock.time_ns() // 1_000_000
        job = Job(
            id=str(saga_id_at(now_ms, clock.entropy(10))),
            service=service,
            operator=order.operator,
            reason=order.reason,
            wanted=wanted,
            total=len(chosen),
            rate_per_min=order.rate_per_min,
            in_flight_max=order.in_flight_max,
            stop_percent=order.stop_percent,
            created_ms=now_ms,
            changed_ms=now_ms,
        )
        await store.add_job(job, [_item(job, place, one) for place, one in enumerate(chosen)])
        jobs.append(job)
    return jobs


def _item(job: Job, place: int, one: Planned) -> JobItem:
    verdict = one.judged.verdict.value
    return JobItem(
        job=job.id, place=place, letter=one.letter.id, verdict=verdict, round=one.letter.round, changed_ms=job.created_ms
    )


def check_words(operator: str, reason: str) -> None:
    """Raises Refused."""
    for what, text, most in (("operator", operator, OPERATOR_BYTES_MAX), ("reason", reason, _REASON_BYTES_MAX)):
        size = len(text.encode("utf-8", "replace"))
        if not text.strip() or size > most:
            raise Refused(f"this needs the {what} (at most {most} bytes), and has {size}; say who you are, and why")


async def job_view(store: LetterStore, job_id: str) -> JobView:
    """Raises LetterNotFound; the beginning of an id is enough where it names one."""
    found = list(await store.jobs(id_=job_id))
    if not found and len(job_id) >= 4:
        found = [job for job in await store.jobs(limit=1_000) if job.id.startswith(job_id) or job.id.endswith(job_id)]
    if len(found) != 1:
        what = f"{len(found)} replays in this store go" if found else "no replay in this store goes"
        raise LetterNotFound(f"{what} by {job_id!r}; list them with: saga-choreo jobs list")
    return JobView(found[0], await store.item_counts(found[0].id))


async def steer(store: LetterStore, job_id: str, verb: str, clock: Clock, *, stop_percent: int | None = None) -> JobView:
    """'pause', 'resume' or 'cancel'. What is under way is followed to its end in any case. A job that had stopped by itself is resumed
    without that limit, unless a new one is given. Raises LetterNotFound, Refused."""
    for _ in range(_CONFLICTS_MAX):
        view = await job_view(store, job_id)
        job = view.job
        changes: dict[str, object] = {}
        match verb, job.state:
            case "pause", JobState.RUNNING if not view.is_over:
                changes["state"] = JobState.PAUSED
            case "resume", JobState.PAUSED | JobState.STOPPED:
                limit = 100 if job.state == JobState.STOPPED else job.stop_percent
                changes |= {
                    "state": JobState.RUNNING,
                    "detail": "",
                    "stop_percent": limit if stop_percent is None else stop_percent,
                }
            case "cancel", _ if not view.is_over and job.state != JobState.CANCELLED:
                changes["state"] = JobState.CANCELLED
            case _:
                raise Refused(f"replay {job.id} is {job.state}{' and over' if view.is_over else ''}; it cannot {verb} now")
        changed = replace(job, **changes, changed_ms=clock.time_ns() // 1_000_000, version=job.version + 1)  # type: ignore[arg-type]  # fields by name
        if await store.save_job(changed):
            return JobView(changed, view.counts)
    raise StoreConflict(f"replay {job_id} was changed again and again by others; try again")
