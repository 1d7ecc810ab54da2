"""Carries out replay jobs, in the service's agents: one agent at a time per job, by lease.

A job and its items are rows, and every item is safe to begin again: a message that is applied twice changes nothing the second time,
and whether the word on a parked step was said is seen on the step's own record. So when the agent dies, whenever that is, another
one takes the job once its lease is over, and goes on. When the tool dies that asked for the job, nobody notices.

Execution is what a replay paces; messages that arrive are taken all the same, this is a loop beside the consumer's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from saga_choreo.core.facts import Refusal
from saga_choreo.errors import Refused, SagaError
from saga_choreo.model.record import Record
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.letters import ItemState, Job, JobItem, JobState, LetterFilter
from saga_choreo.ports.store import Quarantined
from saga_choreo.runtime.arrivals import Arrival, Replay
from saga_choreo.runtime.deadletters.find import Plans, number_in, parked_record
from saga_choreo.runtime.deadletters.progress import Budget, Over, Say, UnderWay, is_over, of_step, room, stops
from saga_choreo.runtime.hopeless import CODE
from saga_choreo.runtime.plugins import LetterStore
from saga_choreo.runtime.stored import channel_from, storable

__all__ = ["Replays"]

_log = logging.getLogger("saga_choreo.replays")
_LOOK_EVERY_S = 1.0
_FOLLOW_EVERY_S = 0.2
_LEASE_S = 10.0
# Jobs of one service that are carried out beside each other, of so many that are not over.
_JOBS_MAX, _LISTED_MAX = 16, 1_000
_RESTING = (JobState.PAUSED, JobState.STOPPED)
_BATCH_MAX = 32
# A message that was begun so often without an end has killed its agent each time.
_TRIES_MAX = 3
_PAGE = 500

Apply = Callable[[Sequence[Arrival]], Awaitable[None]]
# A person's word on a parked record: who, and why.
Speak = Callable[[Record, str, str], Awaitable[Any]]


class Replays:
    """`apply` takes messages through the pipeline, `speak` says 'retry' of a parked record."""

    def __init__(self, service: str, agent: str, store: LetterStore, clock: Clock, apply: Apply, speak: Speak) -> None:
        self._service = service
        self._agent = agent
        self._store = store
        self._clock = clock
        self._apply = apply
        self._speak = speak
        self._budgets: dict[str, Budget] = {}
        self._mine: dict[str, Job] = {}

    @property
    def running(self) -> int:
        """Jobs that this process carries out."""
        return len(self._mine)

    async def run(self) -> None:
        """Look for jobs again and again, until cancelled."""
        while True:
            began = False
            try:
                began = await self.look()
            except SagaError as error:
                _log.warning("carrying out a replay failed and is tried again: %s", error)
                await self._clock.sleep(_LOOK_EVERY_S)
            except Exception:  # noqa: BLE001  a bug of ours over a job must not end the agent
                _log.exception("carrying out a replay met an unexpected error")
                await self._clock.sleep(_LOOK_EVERY_S * 5)
            await self._clock.sleep(0.0 if began else _FOLLOW_EVERY_S if self._mine else _LOOK_EVERY_S)

    async def look(self) -> bool:
        """One round over the service's jobs. Returns whether anything was begun."""
        listed = await self._store.jobs(self._service, active=True, limit=_LISTED_MAX)
        self._mine = {job.id: self._mine[job.id] for job in listed if job.id in self._mine}
        # Those that rest are followed until nothing of them is under way, and take no other's place.
        going = [job for job in reversed(listed) if job.state not in _RESTING]
        resting = [job for job in listed if job.state in _RESTING]
        began = False
        for job in (*going[:_JOBS_MAX], *resting[:_JOBS_MAX]):
            began = await self._carry_on(job) or began
        return began

    async def let_go(self) -> None:
        """The agent stops: others may take its jobs at once."""
        for job in self._mine.values():
            try:
                await self._store.save_job(replace(job, owner="", lease_ms=0, version=job.version + 1))
            except SagaError as error:
                _log.info("replay %s goes on elsewhere after its lease: %s", job.id, error)
        self._mine = {}

    async def _carry_on(self, job: Job) -> bool:
        counts = await self._store.item_counts(job.id)
        if job.state in _RESTING and not counts.get(ItemState.RUNNING, 0):
            self._mine.pop(job.id, None)
            return False
        owned = await self._owned(job)
        if owned is None:
            return False
        await self._follow(owned)
        counts = await self._store.item_counts(job.id)
        if is_over(owned, counts):  # there is nothing left to stop
            await self._end(owned, counts)
            return True
        why = stops(owned, counts)
        if why:
            await self._change(owned, state=JobState.STOPPED, detail=why)
            _log.warning("replay %s stops: %s; look at them, then: saga-choreo jobs resume %s", job.id, why, job.id)
            return True
        budget = self._budgets.setdefault(job.id, Budget(job.rate_per_min, self._clock.monotonic()))
        return await self._begin(owned, min(room(owned, counts, budget.left(self._clock.monotonic())), _BATCH_MAX), budget)

    async def _owned(self, job: Job) -> Job | None:
        """The job with a lease of ours, taken or renewed; None while another agent has it."""
        now_ms = self._now_ms()
        if job.owner == self._agent and job.lease_ms - now_ms > _LEASE_S * 500:
            self._mine[job.id] = job
            return job
        if job.owner not in ("", self._agent) and job.lease_ms > now_ms:
            self._mine.pop(job.id, None)
            return None
        mine = replace(job, owner=self._agent, lease_ms=now_ms + int(_LEASE_S * 1000), version=job.version + 1)
        if not await self._store.save_job(mine):
            return None
        if job.owner != self._agent:
            goes = "goes on here" if job.owner or job.version > 1 else "begins"
            _log.info("replay %s %s: %d letters, asked for by %r: %s", job.id, goes, job.total, job.operator, job.reason)
        self._mine[job.id] = mine
        return mine

    async def _change(self, job: Job, **changes: Any) -> None:
        """Nothing when a person has changed it meanwhile: the next round sees that."""
        await self._store.save_job(replace(job, **changes, changed_ms=self._now_ms(), version=job.version + 1))

    async def _end(self, job: Job, counts: Any) -> None:
        while staged := await self._store.items(job.id, (ItemState.STAGED,), limit=_PAGE):
            gone = [replace(item, state=ItemState.CANCELLED, changed_ms=self._now_ms()) for item in staged]
            if not await self._store.save_items(job.id, self._agent, gone):
                return
        state = job.state if job.state == JobState.CANCELLED else JobState.DONE
        await self._change(job, state=state, finished_ms=self._now_ms(), owner="", lease_ms=0)
        self._mine.pop(job.id, None)
        self._budgets.pop(job.id, None)
        told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        _log.info("replay %s is %s: %s", job.id, state, told)

    async def _follow(self, job: Job) -> None:
        """What was begun: by this agent, or by one that died."""
        running = await self._store.items(job.id, (ItemState.RUNNING,), limit=_PAGE)
        await self._work_on(job, running)

    async def _begin(self, job: Job, count: int, budget: Budget) -> bool:
        staged = await self._store.items(job.id, (ItemState.STAGED,), limit=count) if count > 0 else ()
        if not staged:
            return False
        budget.spend(len(staged))
        await self._work_on(job, staged)
        return True

    async def _work_on(self, job: Job, items: Sequence[JobItem]) -> None:
        messages = [item for item in items if number_in(item.letter) is not None]
        steps = [item for item in items if number_in(item.letter) is None]
        # In a commit of its own, before anything is done: what kills its agent is counted.
        begun = [replace(item, state=ItemState.RUNNING, tries=item.tries + 1, changed_ms=self._now_ms()) for item in messages]
        first = [replace(item, state=ItemState.RUNNING, tries=1, changed_ms=self._now_ms()) for item in steps if not item.tries]
        if (begun or first) and not await self._store.save_items(job.id, self._agent, [*begun, *first]):
            return
        done = [*await self._messages(job, begun), *await self._steps(job, steps)]
        if done:
            await self._store.save_items(job.id, self._agent, done)

    async def _messages(self, job: Job, items: Sequence[JobItem]) -> list[JobItem]:
        if not items:
            return []
        numbers = tuple(number for item in items if (number := number_in(item.letter)) is not None)
        found = {f"m{one.number}": one for one in await self._store.letters(LetterFilter(numbers=numbers))}
        done: list[JobItem] = []
        batch: list[tuple[JobItem, Quarantined, Arrival]] = []
        for item in items:
            letter = found.get(item.letter)
            if letter is None or letter.state == "archived":
                done.append(self._over(item, ItemState.SKIPPED, "it is not there any more" if letter is None else "it is archived"))
            elif letter.state == "resolved":
                done.append(self._over(item, ItemState.RESOLVED, item.detail or "applied"))
            elif item.tries > _TRIES_MAX:
                done.append(self._over(item, ItemState.FAILED, "its agent died each time it was applied"))
            else:
                again = Replay(is_suspect=item.tries > 1)
                batch.append((item, letter, Arrival(channel_from(letter.channel), letter.headers, letter.body, replay=again)))
        await self._apply_patiently([arrival for _, _, arrival in batch])
        return [*done, *await self._settled(job, batch)]

    async def _apply_patiently(self, arrivals: Sequence[Arrival]) -> None:
        """A message that meets a bug of ours fails alone."""
        if not arrivals:
            return
        try:
            await self._apply(arrivals)
        except SagaError:
            raise
        except Exception as error:  # noqa: BLE001  (as in the session)
            if len(arrivals) > 1:
                for one in arrivals:
                    await self._apply_patiently([one])
                return
            _log.exception("a message that is replayed met an unexpected error")
            again = arrivals[0].replay
            assert again is not None
            again.code, again.detail = CODE, storable(f"{type(error).__name__}: {error}")

    async def _settled(self, job: Job, batch: Sequence[tuple[JobItem, Quarantined, Arrival]]) -> list[JobItem]:
        """The letters first, then their items: an agent that dies in between finds what it was."""
        failed: list[tuple[int, str, str]] = []
        applied: list[int] = []
        done: list[JobItem] = []
        for item, letter, arrival in batch:
            again = arrival.replay
            assert again is not None
            if again.code:
                failed.append((letter.number, again.code, again.detail))
                done.append(self._over(item, ItemState.FAILED, f"{again.code}: {again.detail}"))
            else:
                applied.append(letter.number)
                done.append(self._over(item, ItemState.RESOLVED, again.detail))
        now_ms = self._now_ms()
        if failed:
            await self._store.tried_again(failed, now_ms)
        if applied:
            note = f"{job.reason} (replay {job.id})"
            await self._store.move_letters(applied, "open", "resolved", job.operator, note, now_ms)
        return done

    async def _steps(self, job: Job, items: Sequence[JobItem]) -> list[JobItem]:
        if not items:
            return []
        plans = Plans(await self._store.definitions())
        done: list[JobItem] = []
        for item in items:
            record, plan = await parked_record(self._store, item.letter, plans, self._service)
            step = plan.step(record.step) if plan is not None and record is not None else None
            match of_step(record, step, item.round):
                case Over(state=state, detail=detail):
                    done.append(self._over(item, state, detail))
                case Say():
                    assert record is not None
                    refused = await self._said(job, record)
                    if refused:
                        done.append(self._over(item, ItemState.SKIPPED, refused))
                case UnderWay():
                    pass
        return done

    async def _said(self, job: Job, record: Record) -> str:
        """Why the word was refused, if it was."""
        try:
            answer = await self._speak(record, job.operator, f"{job.reason} (replay {job.id})")
        except Refused as refused:
            return str(refused)
        return answer.reason if isinstance(answer, Refusal) else ""

    def _over(self, item: JobItem, state: ItemState, detail: str) -> JobItem:
        return replace(item, state=state, detail=detail, changed_ms=self._now_ms())

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000
