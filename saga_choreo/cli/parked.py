"""`steps list` and `steps show`: what waits for a person, and what can be said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from saga_choreo.cli.output import Output, emit_json, emit_rows, schema
from saga_choreo.cli.reading import find_saga, with_store
from saga_choreo.cli.table import clean
from saga_choreo.cli.when import shown
from saga_choreo.ports import Reader
from saga_choreo.runtime.parked import ParkedStep, find_step, parked_of, parked_steps

__all__ = ["list_steps", "show_step", "step_row"]

_COLUMNS = ("id", "key", "step", "state", "parked", "attempt", "changed_at", "operator", "error")
_FIELDS = (*_COLUMNS, "schema", "service", "choreography", "aborting", "possible", "resolution")
_SHOWN = ("id", "key", "choreography", "service", "step", "state", "parked", "attempt", "operator", "error")


def list_steps(store_url: str | None, out: Output, *, service: str, choreography: str, limit: int) -> None:
    async def work(store: Reader) -> list[ParkedStep]:
        return await parked_steps(store, service=service, choreography=choreography, limit=limit)

    rows = [step_row(one) for one in with_store(store_url, work)]
    emit_rows(rows, _COLUMNS, out, known=_FIELDS, empty="No parked steps.")


def show_step(store_url: str | None, out: Output, word: str, name: str) -> None:
    async def work(store: Reader) -> ParkedStep:
        records = await find_saga(store, word)
        return parked_of(*await find_step(store, records[0].saga_id, name))

    row = step_row(with_store(store_url, work))
    if out.format == "json":
        emit_json(row | {"changed_at": shown(row["changed_at"], "utc", 0)})
        return
    for field in _SHOWN:
        if row[field] not in ("", None):
            click.echo(f"{field + ':':<14}{clean(str(row[field]))}")
    click.echo(f"{'changed:':<14}{shown(row['changed_at'], 'utc', 0)}")
    if row["resolution"] is not None:
        click.echo(f"{'last word:':<14}{clean(_in_words(row['resolution']))}")
    click.echo(f"{'possible:':<14}{', '.join(row['possible']) or 'nothing: it is not parked'}")


def step_row(one: ParkedStep) -> dict[str, Any]:
    return {
        "schema": schema("parked-step"),
        "id": str(one.saga_id),
        "key": one.key,
        "choreography": one.choreography,
        "step": one.step,
        "service": one.service,
        "state": one.state.value,
        "parked": one.parked.value,
        "attempt": one.attempt,
        "changed_at": one.changed_ms,
        "operator": one.operator,
        "error": one.error,
        "aborting": one.aborting,
        "possible": [verb.replace("_", "-") for verb in one.possible],
        "resolution": None if one.resolution is None else _resolution(one),
    }


def _resolution(one: ParkedStep) -> dict[str, Any]:
    word = one.resolution
    assert word is not None
    return {
        "verb": word.verb.replace("_", "-"),
        "operator": word.operator,
        "reason": word.reason,
        "said_at": shown(word.at_ms, "utc", 0),
        "attempt": word.attempt,
        "number": word.number,
    }


def _in_words(word: Mapping[str, Any]) -> str:
    return f"{word['verb']} by {word['operator']}, {word['said_at']}: {word['reason']}"
