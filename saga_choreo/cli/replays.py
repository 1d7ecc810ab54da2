"""`dlq replay`: find, judge, show the plan, ask, and hand it to the service's agents as a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saga_choreo.cli.confirm import Consent, confirm
from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.letters import chosen, letter_row, read_rows, wanted_of
from saga_choreo.cli.output import Output, emit_rows, talk
from saga_choreo.cli.reading import with_store
from saga_choreo.cli.selecting import Selection
from saga_choreo.cli.steering import JOB_COLUMNS, JOB_FIELDS, job_row, percent_of, watch
from saga_choreo.runtime.deadletters.door import DeadLetters
from saga_choreo.runtime.deadletters.replay import JobView, Planned, ReplayOrder
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["Pace", "rate_of", "replay_letters"]

_PLAN_COLUMNS = ("id", "kind", "step", "key", "code", "verdict", "why")
_PER_MINUTE = {"s": 60, "m": 1, "h": 1 / 60}


@dataclass(frozen=True, slots=True)
class Pace:
    rate: str
    in_flight_max: int
    stop_when_failing: str
    force: bool
    wait: bool


def replay_letters(
    store_url: str | None, out: Output, selection: Selection, pace: Pace, who: tuple[str, str], consent: Consent
) -> None:
    order = ReplayOrder(
        operator=who[0],
        reason=who[1],
        rate_per_min=rate_of(pace.rate),
        in_flight_max=pace.in_flight_max,
        stop_percent=percent_of("--stop-when-failing", pace.stop_when_failing),
        force=pace.force,
    )
    wanted = wanted_of(selection)
    words = " ".join(selection.ids[:5]) if selection.ids else wanted.in_words()
    rows = read_rows(selection)

    async def work(store: WholeStore) -> tuple[list[Planned], list[JobView]]:
        letters = DeadLetters(store)
        planned = await letters.preflight(chosen(letters, selection, rows))
        if not _agreed(planned, order, consent, out):
            return planned, []
        jobs = await letters.replay(planned, order, words)
        views = [await letters.job(job.id) for job in jobs]
        return planned, await watch(letters, [view.job.id for view in views], out) if pace.wait else views

    planned, views = with_store(store_url, work)
    if views:
        emit_rows([job_row(view) for view in views], JOB_COLUMNS, out, known=JOB_FIELDS)
        _say_how_to_follow(views, pace)
    else:
        emit_rows([_plan_row(one, order) for one in planned], _PLAN_COLUMNS, out, known=(*_PLAN_COLUMNS, *letter_row_fields()))


def letter_row_fields() -> tuple[str, ...]:
    return ("schema", "service", "state", "saga", "group", "moves", "detail", "attempts", "first_at", "last_at")


def _plan_row(one: Planned, order: ReplayOrder) -> dict[str, Any]:
    judged = one.judged
    verdict = {"verdict": judged.verdict.value, "why": judged.why, "moves": one.moves(force=order.force)}
    return letter_row(one.letter) | verdict


def _agreed(planned: Sequence[Planned], order: ReplayOrder, consent: Consent, out: Output) -> bool:
    """Raises CliError when nothing would be replayed, or nobody agrees."""
    if not planned:
        raise CliError(ExitCode.NOT_FOUND, "no dead letter matches", hint="look with: saga-choreo dlq list")
    moving = [one for one in planned if one.moves(force=order.force)]
    staying = [one for one in planned if not one.moves(force=order.force)]
    quiet = out.format in {"json", "jsonl"}
    if staying and not quiet:
        told = ", ".join(f"{count} {verdict}" for verdict, count in Counter(one.judged.verdict for one in staying).most_common())
        talk(f"{len(staying)} of {len(planned)} stay where they are: {told}.")
        for verdict in dict.fromkeys(one.judged.verdict for one in staying):
            talk(f"  {verdict}: {next(one.judged.why for one in staying if one.judged.verdict is verdict)}")
    if not moving and not consent.dry_run:
        raise CliError(
            ExitCode.FAILED,
            f"none of {len(planned)} can be replayed: {staying[0].judged.why}",
            hint="see why with --dry-run"
            + ("; --force tries all the same" if any(one.judged.may_force for one in staying) else ""),
            details={"verdicts": dict(Counter(one.judged.verdict.value for one in staying))},
        )
    if not moving:
        return confirm("replay nothing", [], consent, quiet=quiet)
    rate = f"{order.rate_per_min / 60:g} a second" if order.rate_per_min else "as fast as it goes"
    services = ", ".join(sorted({one.letter.service for one in moving}))
    action = f"replay for {services}, {rate}, as {order.operator} ({order.reason})"
    plan = [
        f"{one.letter.id}  {one.letter.kind}  {one.letter.step}  {one.letter.code}  {one.judged.verdict}: {one.letter.detail}"
        for one in moving
    ]
    return confirm(action, plan, consent, quiet=quiet)


def _say_how_to_follow(views: Sequence[JobView], pace: Pace) -> None:
    if not pace.wait:
        for view in views:
            talk(f"The agents of {view.job.service} carry it out; follow it with: saga-choreo jobs watch {view.job.id}")
        return
    from saga_choreo.cli.steering import raise_unless_resolved

    raise_unless_resolved(views)


def rate_of(text: str) -> int:
    """Letters a minute from '20/s', '300/m', '20' (a second) or 'max' (0). Raises CliError."""
    if text == "max":
        return 0
    number, slash, unit = text.partition("/")
    try:
        per_minute = round(float(number) * _PER_MINUTE[unit if slash else "s"])
        if 1 <= per_minute <= 10**9:
            return per_minute
    except (KeyError, ValueError, OverflowError):
        pass
    raise CliError(ExitCode.USAGE, f"--rate {text!r} is no rate", hint="write 20/s, 300/m, 50/h (at least one a minute), or max")
