"""`sagas list` and `sagas show`: what a participant's store knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import click

from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import Output, emit_json, emit_rows, talk
from saga_choreo.cli.reading import find_saga, ids_by_key, with_store
from saga_choreo.cli.table import clean
from saga_choreo.cli.views import Plans, plans_from, saga_row, step_rows
from saga_choreo.cli.when import shown
from saga_choreo.ports import Reader, Record, SagaFilter

__all__ = ["list_sagas", "show_saga"]

_COLUMNS = ("id", "key", "choreography", "state", "started_at", "steps")
_FIELDS = (*_COLUMNS, "schema", "origin", "definition", "deadline_at", "changed_at", "cause", "reason")
_STEP_COLUMNS = ("step", "service", "state", "attempt", "changed_at", "note")
_STEP_FIELDS = (*_STEP_COLUMNS, "due_at", "parked", "debt", "reason", "error", "waiting_for")
_PAGE = 200
# States are derived here, not in the store: a rare one must not make a command read a whole store.
_SCAN_MAX = 20_000


def list_sagas(
    store_url: str | None, out: Output, *, states: Sequence[str], choreography: str, service: str, key: str, limit: int, cursor: str
) -> None:
    before = _cursor(cursor)
    wanted = SagaFilter(service=service, choreography=choreography, states=tuple(states), limit=limit, before=before)

    async def work(store: Reader) -> tuple[list[dict[str, Any]], UUID | None]:
        plans = plans_from(await store.definitions())
        return await (_by_key(store, key, wanted, plans) if key else _scan(store, wanted, plans))

    rows, further = with_store(store_url, work)
    emit_rows(rows, _COLUMNS, out, known=_FIELDS, empty="No sagas.")
    if further is not None:
        talk(f"There may be more; go on with: --cursor {further}")


def _cursor(cursor: str) -> UUID | None:
    try:
        return UUID(cursor) if cursor else None
    except ValueError:
        raise CliError(ExitCode.USAGE, f"cursor {cursor!r} is not a saga id", hint="give the last id of the page before") from None


async def _by_key(store: Reader, key: str, wanted: SagaFilter, plans: Plans) -> tuple[list[dict[str, Any]], UUID | None]:
    found = await ids_by_key(store, key, wanted.service, wanted.choreography)
    ids = sorted((saga_id for saga_id in found if wanted.before is None or saga_id < wanted.before), reverse=True)
    groups = [await store.records(saga_id, wanted.service) for saga_id in ids[: wanted.limit]]
    return [row for group in groups if group and _matches(row := saga_row(group, plans), wanted)], None


async def _scan(store: Reader, wanted: SagaFilter, plans: Plans) -> tuple[list[dict[str, Any]], UUID | None]:
    """Page through the store until enough match. The second value says where to go on, if there may be more."""
    rows: list[dict[str, Any]] = []
    before, seen = wanted.before, 0
    page_size = _PAGE if wanted.states else min(_PAGE, wanted.limit)
    while seen < _SCAN_MAX:
        page = await store.sagas(
            SagaFilter(service=wanted.service, choreography=wanted.choreography, limit=page_size, before=before)
        )
        for group in filter(None, page):
            before = group[0].saga_id
            row = saga_row(group, plans)
            if _matches(row, wanted):
                rows.append(row)
                if len(rows) == wanted.limit:
                    return rows, before
        seen += len(page)
        if len(page) < page_size:
            return rows, None
    return rows, before


def _matches(row: dict[str, Any], wanted: SagaFilter) -> bool:
    return not wanted.states or row["state"] in wanted.states


def show_saga(store_url: str | None, out: Output, word: str) -> None:
    async def work(store: Reader) -> tuple[Sequence[Record], Plans]:
        return await find_saga(store, word), plans_from(await store.definitions())

    records, plans = with_store(store_url, work)
    saga, steps = saga_row(records, plans), step_rows(records, plans)
    if out.format == "json":
        emit_json(_document(saga, steps))
        return
    _show(saga, steps, out)


def _document(saga: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    from_ms = {name: shown(value, "utc", 0) for name, value in saga.items() if name.endswith("_at") and value is not None}
    times = [{n: shown(v, "utc", 0) for n, v in step.items() if n.endswith("_at") and v is not None} for step in steps]
    return saga | from_ms | {"steps": [step | time for step, time in zip(steps, times, strict=True)]}


def _show(saga: dict[str, Any], steps: list[dict[str, Any]], out: Output) -> None:
    for name in ("id", "key", "choreography", "definition", "origin", "state", "cause", "reason"):
        if saga[name]:
            click.echo(f"{name + ':':<14}{clean(str(saga[name]))}")
    for name in ("started_at", "deadline_at"):
        if saga[name] is not None:
            click.echo(f"{name.removesuffix('_at') + ':':<14}{shown(saga[name], 'utc', 0)}")
    click.echo("")
    emit_rows([step | {"note": _note(step)} for step in steps], _STEP_COLUMNS, out, known=_STEP_FIELDS, empty="No steps here yet.")
    services = sorted({step["service"] for step in steps})
    talk(f"As known to {', '.join(services) or saga['origin']}; other participants' steps are in their own stores.")


def _note(step: dict[str, Any]) -> str:
    """The one thing to know about a step."""
    if step["waiting_for"]:
        return "waiting for " + ", ".join(step["waiting_for"])
    parked = "parked: " if step["parked"] else ""
    return parked + (step["reason"] or step["error"]) or "-"
