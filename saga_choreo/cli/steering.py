"""Replay jobs on the command line: listed, shown, watched and steered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from saga_choreo.cli.confirm import require_writable
from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import Output, emit_rows, schema, talk
from saga_choreo.cli.reading import with_store
from saga_choreo.ports import ItemState, JobState
from saga_choreo.runtime.deadletters.door import DeadLetters
from saga_choreo.runtime.deadletters.replay import JobView
from saga_choreo.runtime.plugins import WholeStore

__all__ = [
    "JOB_COLUMNS",
    "JOB_FIELDS",
    "job_row",
    "list_jobs",
    "percent_of",
    "raise_unless_resolved",
    "show_job",
    "steer_job",
    "watch",
    "watch_jobs",
]

JOB_COLUMNS = (
    "id",
    "service",
    "state",
    "total",
    "staged",
    "running",
    "resolved",
    "failed",
    "skipped",
    "created_at",
    "operator",
    "reason",
)
JOB_FIELDS = (*JOB_COLUMNS, "schema", "cancelled", "detail", "wanted", "agent", "rate_per_minute", "changed_at", "finished_at")
_ITEM_COLUMNS = ("place", "letter", "state", "verdict", "changed_at", "detail")
_LOOK_EVERY_S = 0.5
# Agents look for jobs every second.
_TAKEN_WITHIN_MS = 5_000


def job_row(view: JobView) -> dict[str, Any]:
    job = view.job
    counts = {state.value: view.counts.get(state.value, 0) for state in ItemState}
    return {
        "schema": schema("job"),
        "id": job.id,
        "service": job.service,
        "state": str(job.state),
        "detail": job.detail,
        "total": job.total,
        **counts,
        "operator": job.operator,
        "reason": job.reason,
        "wanted": job.wanted,
        "agent": job.owner,
        "rate_per_minute": job.rate_per_min,
        "created_at": job.created_ms,
        "changed_at": job.changed_ms,
        "finished_at": job.finished_ms,
    }


def list_jobs(store_url: str | None, out: Output, *, service: str, active: bool, limit: int) -> None:
    async def work(store: WholeStore) -> list[JobView]:
        return await DeadLetters(store, service).jobs(active=active, limit=limit)

    emit_rows([job_row(view) for view in with_store(store_url, work)], JOB_COLUMNS, out, known=JOB_FIELDS, empty="No replays.")


def show_job(store_url: str | None, out: Output, job_id: str, states: Sequence[str]) -> None:
    wrong = [state for state in states if state not in set(ItemState)]
    if wrong:
        known = ", ".join(ItemState)
        raise CliError(ExitCode.USAGE, f"--state {wrong[0]!r} is no state of a letter in a replay", hint=f"known: {known}")

    async def work(store: WholeStore) -> tuple[JobView, list[dict[str, Any]]]:
        letters = DeadLetters(store)
        view = await letters.job(job_id)
        rows = [
            {
                "schema": schema("job-item"),
                "place": item.place,
                "letter": item.letter,
                "state": str(item.state),
                "verdict": item.verdict,
                "detail": item.detail,
                "tries": item.tries,
                "changed_at": item.changed_ms,
            }
            async for item in letters.items(view.job.id, tuple(states))
        ]
        return view, rows

    view, rows = with_store(store_url, work)
    if out.format == "table":
        talk(_in_words(view))
    emit_rows(rows, _ITEM_COLUMNS, out, name="letter", known=(*_ITEM_COLUMNS, "schema", "tries"), empty="No letters in that state.")


def steer_job(store_url: str | None, out: Output, job_id: str, verb: str, stop_when_failing: str | None = None) -> None:
    require_writable()
    percent = None if stop_when_failing is None else percent_of("--stop-when-failing", stop_when_failing)

    async def work(store: WholeStore) -> JobView:
        letters = DeadLetters(store)
        match verb:
            case "pause":
                return await letters.pause(job_id)
            case "resume":
                return await letters.resume(job_id, stop_percent=percent)
            case _:
                return await letters.cancel(job_id)

    emit_rows([job_row(with_store(store_url, work))], JOB_COLUMNS, out, known=JOB_FIELDS)


def watch_jobs(store_url: str | None, out: Output, job_ids: Sequence[str]) -> None:
    async def work(store: WholeStore) -> list[JobView]:
        return await watch(DeadLetters(store), job_ids, out)

    views = with_store(store_url, work)
    emit_rows([job_row(view) for view in views], JOB_COLUMNS, out, known=JOB_FIELDS)
    raise_unless_resolved(views)


async def watch(letters: DeadLetters, job_ids: Sequence[str], out: Output) -> list[JobView]:
    """Until all are over, or have stopped by themselves. Progress is told on stderr, to people only."""
    told: dict[str, str] = {}
    warned: set[str] = set()
    while True:
        views = [await letters.job(job_id) for job_id in job_ids]
        for view in views:
            words = _in_words(view)
            if out.format == "table" and told.get(view.job.id) != words:
                told[view.job.id] = words
                talk(words)
            if _is_left_lying(view) and out.format == "table" and view.job.id not in warned:
                warned.add(view.job.id)
                talk(f"No agent of {view.job.service!r} has taken it yet; is one running?")
        if all(view.is_over or view.job.state == JobState.STOPPED for view in views):
            return views
        await asyncio.sleep(_LOOK_EVERY_S)


def _is_left_lying(view: JobView) -> bool:
    waited_ms = time.time_ns() // 1_000_000 - view.job.created_ms
    return view.job.state == JobState.RUNNING and not view.job.owner and not view.is_over and waited_ms > _TAKEN_WITHIN_MS


def _in_words(view: JobView) -> str:
    counts = ", ".join(f"{view.counts[state]} {state.value}" for state in ItemState if view.counts.get(state))
    return f"Replay {view.job.id} of {view.job.service} is {view.job.state}: {counts}{'; ' + view.job.detail if view.job.detail else ''}"


def raise_unless_resolved(views: Sequence[JobView]) -> None:
    """Raises CliError unless every letter was resolved."""
    resolved = sum(view.counts.get(ItemState.RESOLVED, 0) for view in views)
    total = sum(view.job.total for view in views)
    if resolved < total:
        raise CliError(
            ExitCode.PARTIAL if resolved else ExitCode.FAILED,
            f"{total - resolved} of {total} letters were not resolved",
            hint=f"see why with: saga-choreo jobs show {views[0].job.id} --state failed",
        )


def percent_of(option: str, text: str) -> int:
    """'20' or '20%'. Raises CliError."""
    number = text.removesuffix("%").strip()
    if number.isdecimal() and int(number) <= 100:
        return int(number)
    raise CliError(ExitCode.USAGE, f"{option} {text!r} is no share", hint="write a whole number from 0 to 100, such as 20%")
