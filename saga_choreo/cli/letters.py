"""Dead letters as rows, found as a `Selection` says; `dlq groups`, `list` and `show`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

import click

from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import Output, emit_json, emit_rows, schema, talk
from saga_choreo.cli.reading import with_store
from saga_choreo.cli.selecting import Selection
from saga_choreo.cli.table import clean
from saga_choreo.cli.when import shown
from saga_choreo.runtime.deadletters.door import DeadLetters
from saga_choreo.runtime.deadletters.exchange import exported
from saga_choreo.runtime.deadletters.find import Group, WantedLetters
from saga_choreo.runtime.deadletters.letter import DeadLetter
from saga_choreo.runtime.deadletters.replay import Planned
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["chosen", "letter_row", "list_groups", "list_letters", "read_rows", "rows_in", "show_letter", "time_of", "wanted_of"]

_GROUP_COLUMNS = ("group", "kind", "count", "service", "step", "code", "first_at", "last_at", "detail")
_COLUMNS = ("id", "kind", "service", "step", "key", "code", "attempts", "last_at", "group", "detail")
_FIELDS = (
    *_COLUMNS,
    "schema",
    "state",
    "saga",
    "choreography",
    "definition",
    "channel",
    "first_at",
    "agent",
    "version",
    "operator",
    "note",
)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_BODY_SHOWN = 2_000
_PAGE = 500


def list_groups(store_url: str | None, out: Output, selection: Selection) -> None:
    wanted = wanted_of(selection)

    async def work(store: WholeStore) -> list[Group]:
        return await DeadLetters(store).groups(wanted)

    rows = [_group_row(group) for group in with_store(store_url, work)]
    known = (*_GROUP_COLUMNS, "schema", "choreography", "stack", "example", "agent", "version")
    emit_rows(rows, _GROUP_COLUMNS, out, name="group", known=known, empty="No dead letters.")


def _group_row(group: Group) -> dict[str, Any]:
    newest = group.newest
    return {
        "schema": schema("dead-letter-group"),
        "group": group.group,
        "kind": newest.kind.value,
        "count": group.count,
        "service": newest.service,
        "choreography": newest.choreography,
        "step": newest.step,
        "code": newest.code,
        "detail": newest.detail,
        "stack": newest.stack.splitlines(),
        "first_at": group.first_ms,
        "last_at": group.last_ms,
        "example": newest.id,
        "agent": newest.agent,
        "version": newest.version,
    }


def list_letters(store_url: str | None, out: Output, selection: Selection, limit: int) -> None:
    wanted = wanted_of(selection)

    async def work(store: WholeStore) -> tuple[list[dict[str, Any]], bool]:
        rows: list[dict[str, Any]] = []
        async for letter in DeadLetters(store).find(wanted):
            if len(rows) == limit:
                return rows, True
            rows.append(letter_row(letter))
        return rows, False

    rows, has_more = with_store(store_url, work)
    emit_rows(rows, _COLUMNS, out, known=_FIELDS, empty="No dead letters.")
    if has_more:
        talk(f"There are more than {limit}; give a larger --limit, or a filter.")


def letter_row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "schema": schema("dead-letter"),
        "id": letter.id,
        "kind": letter.kind.value,
        "service": letter.service,
        "state": letter.state,
        "step": letter.step,
        "saga": letter.saga_id,
        "key": letter.key,
        "choreography": letter.choreography,
        "definition": letter.definition,
        "code": letter.code,
        "detail": letter.detail,
        "group": letter.group,
        "attempts": letter.attempts,
        "first_at": letter.first_ms,
        "last_at": letter.last_ms,
        "channel": letter.channel,
        "agent": letter.agent,
        "version": letter.version,
        "operator": letter.operator,
        "note": letter.note,
    }


def show_letter(store_url: str | None, out: Output, letter_id: str) -> None:
    async def work(store: WholeStore) -> tuple[DeadLetter, Planned]:
        letters = DeadLetters(store)
        (letter,) = await letters.get(letter_id)
        (planned,) = await letters.preflight([letter])
        return letter, planned

    letter, planned = with_store(store_url, work)
    document = exported(letter) | {"verdict": planned.judged.verdict.value, "verdict_why": planned.judged.why}
    if out.format == "json":
        emit_json(document)
        return
    hidden = {"schema", "headers", "body", "encoding", "inputs", "stack", "verdict", "verdict_why"}
    for name, value in document.items():
        if name not in hidden and value not in ("", None):
            click.echo(f"{name.replace('_', ' ') + ':':<16}{clean(str(value))}")
    for line in letter.stack.splitlines():
        click.echo(f"{'stack:':<16}{clean(line)}")
    for name, value in letter.headers.items():
        click.echo(f"{'header:':<16}{clean(name)}: {clean(value)}")
    bodies = [("body", letter.body)] if letter.body else [(f"input {one.event}", one.payload) for one in letter.inputs]
    for name, body in bodies:
        text = body[:_BODY_SHOWN].decode("utf-8", "backslashreplace")
        more = f" ... and {len(body) - _BODY_SHOWN} bytes more; see --json" if len(body) > _BODY_SHOWN else ""
        click.echo(f"{name + ':':<15} {clean(text)}{more}")
    why = f" ({planned.judged.why})" if planned.judged.why else ""
    click.echo(f"{'replay now:':<16}{planned.judged.verdict.value}{clean(why)}")


def wanted_of(selection: Selection) -> WantedLetters:
    now_ms = time.time_ns() // 1_000_000
    return WantedLetters(
        service=selection.service,
        kind=selection.kind,
        saga=selection.saga,
        step=selection.step,
        group=selection.group,
        error=selection.error,
        since_ms=time_of("--since", selection.since, now_ms),
        until_ms=time_of("--until", selection.until, now_ms),
        state=selection.state,
    )


def time_of(option: str, text: str, now_ms: int) -> int | None:
    """'2h' ago, or a time (UTC, unless it says otherwise). Raises CliError."""
    if not text:
        return None
    if text[:-1].isdecimal() and text[-1] in _UNITS:
        return now_ms - int(text[:-1]) * _UNITS[text[-1]] * 1000
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError) as exc:
        raise CliError(ExitCode.USAGE, f"{option} {text!r} is no time", hint="write 30m, 2h, 7d, or 2026-11-23T01:40:00Z") from exc


async def chosen(letters: DeadLetters, selection: Selection, rows: list[dict[str, Any]]) -> AsyncIterator[DeadLetter]:
    """The letters that are meant; `rows` are those read from standard input. What is not there (any more) is said on stderr."""
    if not selection.ids:
        async for letter in letters.find(wanted_of(selection)):
            yield letter
        return
    if not selection.is_from_input:
        for letter in await letters.get(*dict.fromkeys(selection.ids)):
            yield letter
        return
    by_id = {str(row["id"]): row for row in rows}
    missing, ids = 0, list(by_id)
    for at in range(0, len(ids), _PAGE):
        page = ids[at : at + _PAGE]
        found = await letters.present(page)
        missing += len(page) - len(found)
        for letter in found:
            if _is_exported(by_id[letter.id], letter):
                yield letter
            else:
                talk(f"{letter.id} is not the letter that was exported, and is left out: import it into this store first")
    if missing:
        talk(f"{missing} of {len(by_id)} letters are not in this store (any more), and are left out.")


def _is_exported(row: dict[str, Any], letter: DeadLetter) -> bool:
    """Ids are of one store; whoever exported elsewhere must not replay something else here."""
    first = shown(letter.first_ms, "utc", 0)
    return (row.get("service", letter.service), row.get("first_failed", first)) == (letter.service, first)


def read_rows(selection: Selection) -> list[dict[str, Any]]:
    """The letters on standard input, if that is what the selection says. Raises CliError."""
    return rows_in(sys.stdin.buffer.read()) if selection.is_from_input else []


def rows_in(text: bytes) -> list[dict[str, Any]]:
    """JSON lines, or one JSON array, of objects with an id. Raises CliError, which names the line."""
    rows: list[Any] = []
    lines = [(1, text)] if text.lstrip()[:1] == b"[" else list(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as exc:
            raise CliError(
                ExitCode.USAGE,
                f"line {number} is no JSON: {exc}",
                hint="give what `saga-choreo dlq export` writes; nothing was changed",
            ) from exc
        rows += found if isinstance(found, list) else [found]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(cast("dict[str, Any]", row).get("id"), str):
            raise CliError(
                ExitCode.USAGE,
                f"entry {number} is no dead letter: it has no 'id'",
                hint="give what `saga-choreo dlq export` writes (with jq -c 'select(...)', not single fields); nothing was changed",
            )
    return rows
