"""`dlq archive`, `restore`, `purge`, `export` and `import`: what becomes of quarantined messages beside a replay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from saga_choreo.cli.confirm import Consent, confirm
from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.letters import chosen, letter_row, read_rows, rows_in
from saga_choreo.cli.output import Output, emit_json, emit_rows, talk
from saga_choreo.cli.reading import with_store
from saga_choreo.cli.selecting import Selection
from saga_choreo.ports import Quarantined
from saga_choreo.runtime.deadletters.door import DeadLetters
from saga_choreo.runtime.deadletters.exchange import exported, imported
from saga_choreo.runtime.deadletters.letter import DeadLetter, LetterKind
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["export_letters", "import_letters", "shelve"]

_COLUMNS = ("id", "service", "step", "key", "code", "result")
_DONE = {"archive": "archived", "restore": "restored", "purge": "purged"}
_NEEDED = {"archive": "open", "restore": "archived", "purge": "archived"}


def shelve(store_url: str | None, out: Output, verb: str, selection: Selection, who: tuple[str, str], consent: Consent) -> None:
    quiet = out.format in {"json", "jsonl"}
    read = read_rows(selection)
    operator, reason = who

    async def work(store: WholeStore) -> tuple[list[DeadLetter], int | None]:
        letters = DeadLetters(store)
        found = [letter async for letter in chosen(letters, selection, read)]
        fit = [letter for letter in found if letter.kind is LetterKind.MESSAGE and letter.state == _NEEDED[verb]]
        _say_what_is_left(verb, found, fit)
        if not fit:
            raise CliError(ExitCode.NOT_FOUND, f"there is no message to {verb}", hint="look with: saga-choreo dlq list --state all")
        plan = [f"{one.id}  {one.service}  {one.key}  {one.code}: {one.detail}" for one in fit]
        action = f"{verb} messages{' for good' if verb == 'purge' else ''} as {operator}{f' ({reason})' if reason else ''}"
        if not confirm(action, plan, consent, quiet=quiet):
            return fit, None
        match verb:
            case "archive":
                return fit, await letters.archive(fit, operator=operator, reason=reason)
            case "restore":
                return fit, await letters.restore(fit, operator=operator, reason=reason)
            case _:
                return fit, await letters.purge(fit)

    fit, done = with_store(store_url, work)
    result = "planned" if done is None else _DONE[verb]
    if done is not None or quiet:
        # Who did it and why is nowhere else, once a message is purged.
        said = {"operator": operator, "note": reason} if done is not None else {}
        emit_rows([letter_row(one) | said | {"result": result} for one in fit], _COLUMNS, out)
    if done is not None and done < len(fit):
        raise CliError(
            ExitCode.PARTIAL, f"{len(fit) - done} of {len(fit)} were changed by somebody else meanwhile", hint="look again"
        )


def _say_what_is_left(verb: str, found: Sequence[DeadLetter], fit: Sequence[DeadLetter]) -> None:
    steps = sum(1 for letter in found if letter.kind is LetterKind.STEP)
    if steps:
        talk(f"{steps} parked steps are left alone: their sagas wait for them; resolve them with: saga-choreo steps")
    others = len(found) - steps - len(fit)
    if others:
        talk(f"{others} messages are left alone: to {verb} them they must be {_NEEDED[verb]}")


def export_letters(store_url: str | None, out: Output, selection: Selection) -> None:
    read = read_rows(selection)

    async def work(store: WholeStore) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        async for letter in chosen(DeadLetters(store), selection, read):
            row = exported(letter)
            if out.format == "jsonl":  # as they come: a store may hold more than fits into memory
                click.echo(json.dumps(row, ensure_ascii=False))
            else:
                rows.append(row)
        return rows

    rows = with_store(store_url, work)
    if out.format == "json":
        emit_json(rows)


def import_letters(store_url: str | None, out: Output, text: bytes, consent: Consent) -> None:
    messages, steps = _read(text)
    if steps:
        talk(f"{steps} parked steps are left out: they are records of their sagas, and stay in the store they are in")
    if not messages:
        raise CliError(ExitCode.NOT_FOUND, "there is no message to import", hint="give what `saga-choreo dlq export` writes")
    quiet = out.format in {"json", "jsonl"}

    async def work(store: WholeStore) -> int | None:
        plan = [f"{one.service}  {one.saga_id}  {one.channel}  {one.code}: {one.detail}" for one in messages]
        return await DeadLetters(store).bring_in(messages) if confirm("import messages", plan, consent, quiet=quiet) else None

    added = with_store(store_url, work)
    if added is not None or quiet:
        row = {"read": len(messages), "added": added, "known": None if added is None else len(messages) - added}
        emit_rows([row], ("read", "added", "known"), out, name="added")


def _read(text: bytes) -> tuple[list[Quarantined], int]:
    """All of it is checked before any of it is used."""
    messages: list[Quarantined] = []
    steps = 0
    for number, row in enumerate(rows_in(text), start=1):
        if row.get("kind") == LetterKind.STEP:
            steps += 1
            continue
        try:
            messages.append(imported(row))
        except ValueError as exc:
            raise CliError(
                ExitCode.USAGE, f"entry {number} ({row['id']!r}) is no dead letter: {exc}", hint="mend it; nothing was imported"
            ) from exc
    return messages, steps
