"""A person's word on a parked step from the command line: find the step, show the plan, ask, say it."""

from __future__ import annotations

from dataclasses import dataclass

from saga_choreo.cli.confirm import Consent, confirm
from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import Output, Row, emit_rows
from saga_choreo.cli.parked import step_row
from saga_choreo.cli.reading import find_saga, with_store
from saga_choreo.errors import Refused
from saga_choreo.model.event import Event, EventRef
from saga_choreo.runtime.commands import rehearse, resolve
from saga_choreo.runtime.parked import ParkedStep, Published, find_step, parked_of
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["Word", "say"]

_COLUMNS = ("id", "key", "step", "result", "state", "parked", "operator")


@dataclass(frozen=True, slots=True)
class Word:
    """What is said. `events` are names (with '@' and a version, if it is not 1) and JSON."""

    verb: str
    operator: str
    reason: str
    events: tuple[tuple[str, bytes], ...] = ()


def say(store_url: str | None, out: Output, saga: str, step: str, word: Word, consent: Consent) -> None:
    is_read_by_program = out.format in {"json", "jsonl"}
    events: list[Event | Published] = [_event(name, payload) for name, payload in word.events]

    async def work(store: WholeStore) -> list[Row]:
        records = await find_saga(store, saga)
        record, plan_of_saga = await find_step(store, records[0].saga_id, step)
        found = parked_of(record, plan_of_saga)
        _check(found, word)
        rehearse(record, plan_of_saga, word.verb, word.operator, word.reason, events)
        shown = word.verb.replace("_", "-")
        plan = [f"{found.saga_id}  {found.key}  {found.step}  {found.state}, parked after {found.attempt} attempts: {found.error}"]
        if not confirm(f"{shown} as {word.operator} ({word.reason})", plan, consent, quiet=is_read_by_program):
            return [step_row(found) | {"result": "planned"}] if is_read_by_program else []
        saga_id, verb = found.saga_id, word.verb
        await resolve(store, saga_id, step, verb, operator=word.operator, reason=word.reason, event=events)
        return [step_row(parked_of(*await find_step(store, saga_id, step))) | {"result": "said"}]

    results = with_store(store_url, work)
    if results:
        emit_rows(results, _COLUMNS, out)


def _check(found: ParkedStep, word: Word) -> None:
    """Before anybody is asked to confirm what cannot be."""
    if word.verb not in found.possible:
        possible = ", ".join(verb.replace("_", "-") for verb in found.possible)
        raise Refused(
            f"step {found.step!r} of saga {str(found.saga_id)!r} cannot be resolved as {word.verb.replace('_', '-')!r}: "
            + (f"possible now: {possible}" if possible else f"it is not parked, but {found.state}")
        )


def _event(name: str, payload: bytes) -> Published:
    base, at, version = name.partition("@")
    try:
        return Published(EventRef(base, int(version) if at else 1), payload)
    except ValueError as exc:
        raise CliError(
            ExitCode.USAGE,
            f"{name!r} is no event: {exc}",
            hint="write its name, as in --event payment.charged or payment.charged@2",
        ) from exc
