"""The output contract of every command: formats, fields, times, and what changes when nobody watches.

A command hands over rows as JSON-ready mappings, each with the columns a table shows; this module does the rest. Columns named
`*_at` hold Unix milliseconds here; JSON gets RFC 3339 in UTC, tables what `--time` says.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import click

from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.lazy import suggestion
from saga_choreo.cli.table import clean, render
from saga_choreo.cli.when import rfc3339, shown

__all__ = ["Output", "Row", "debug_option", "emit_json", "emit_rows", "output_options", "schema", "talk"]

Row = Mapping[str, Any]
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Output:
    """What the caller asked for."""

    format: str
    fields: tuple[str, ...] = ()
    header: bool = True
    time: str = "utc"
    is_tty: bool = False
    has_colour: bool = False


def schema(kind: str) -> str:
    """The name of a JSON shape; shapes only ever grow."""
    return f"saga-choreo/v1/{kind}"


def talk(text: str) -> None:
    """A remark for people, on stderr, so that it never mixes with data."""
    click.echo(text, err=True)


def debug_option(command: _F) -> _F:
    """`--debug`: tracebacks with errors. Read from the arguments by `main`, because parsing itself may fail."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(command)


def _collect(out_format: str, as_json: bool, fields: str, no_header: bool, time_style: str | None) -> Output:
    is_tty = sys.stdout.isatty()
    return Output(
        format="json" if as_json else out_format,
        fields=tuple(part.strip() for part in fields.split(",") if part.strip()),
        header=not no_header,
        time=time_style or ("relative" if is_tty else "utc"),
        is_tty=is_tty,
        has_colour=is_tty and not os.environ.get("NO_COLOR"),
    )


def output_options(*formats: str, tabular: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the output options; the command gets `out: Output`. The first format is the default."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_output(*args: Any, **kwargs: Any) -> Any:
            out = _collect(
                kwargs.pop("out_format"),
                kwargs.pop("as_json"),
                kwargs.pop("fields", ""),
                kwargs.pop("no_header", False),
                kwargs.pop("time_style", None),
            )
            return command(*args, out=out, **kwargs)

        decorated: Callable[..., Any] = with_output
        for option in reversed(_options(formats, tabular)):
            decorated = option(decorated)
        return debug_option(decorated)

    return decorate


def _options(formats: Sequence[str], tabular: bool) -> list[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    default = formats[0]
    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option(
            "-o", "--output", "out_format", type=click.Choice(formats), default=default, show_default=True, help="Format."
        ),
        click.option("--json", "as_json", is_flag=True, help="The same as -o json."),
    ]
    if tabular:
        options += [
            click.option("--fields", default="", metavar="A,B", help="Only these fields, in this order."),
            click.option("--no-header", is_flag=True, help="No line of titles above a table."),
            click.option(
                "--time",
                "time_style",
                type=click.Choice(["relative", "local", "utc"]),
                help="How tables show times: relative on a terminal, else utc.",
            ),
        ]
    return options


def emit_json(value: Any) -> None:
    """One document, indented for people when they watch."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None, default=str))


def _ready(row: Row, fields: Sequence[str]) -> dict[str, Any]:
    wanted = fields or tuple(row)
    return {name: rfc3339(row[name]) if name.endswith("_at") and row[name] is not None else row[name] for name in wanted}


def _cell(row: Row, name: str, out: Output, now_ms: int) -> str:
    value = row[name]
    match value:
        case None:
            return "-"
        case int() if name.endswith("_at"):
            return shown(value, out.time, now_ms)
        case dict() if name == "steps":
            counts = cast("dict[str, int]", value)  # by state
            return ", ".join(f"{count} {state}" for state, count in counts.items())
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        case _:
            return str(value)


def _check_fields(out: Output, known: Sequence[str]) -> None:
    for name in out.fields:
        if name not in known:
            raise CliError(
                ExitCode.USAGE,
                f"there is no field {name!r}.{suggestion(name, tuple(known))} Known: {', '.join(known)}.",
                hint="name known fields with --fields",
            )


def emit_rows(
    rows: Sequence[Row], columns: Sequence[str], out: Output, *, name: str = "id", known: Sequence[str] = (), empty: str = ""
) -> None:
    """Write rows in the format asked for. `columns` are a table's; JSON gives all of a row's keys. `empty` is said on stderr
    when a table has no rows. `known` are the fields a row has, for when there is no row to look at."""
    _check_fields(out, tuple(known or columns))
    match out.format:
        case "json":
            emit_json([_ready(row, out.fields) for row in rows])
        case "jsonl":
            for row in rows:
                click.echo(json.dumps(_ready(row, out.fields), ensure_ascii=False, default=str))
        case "name":
            for row in rows:
                click.echo(clean(str(row[name])))
        case _:
            _emit_table(rows, out.fields or tuple(columns), out, empty)


def _emit_table(rows: Sequence[Row], columns: Sequence[str], out: Output, empty: str) -> None:
    if not rows:
        if empty:
            talk(empty)
        return
    now_ms = time.time_ns() // 1_000_000
    cells = [[_cell(row, column, out, now_ms) for column in columns] for row in rows]
    titles = [column.removesuffix("_at") for column in columns]
    limit = shutil.get_terminal_size().columns if out.is_tty else None
    lines, was_cut = render(titles, cells, limit=limit, header=out.header, colour=out.has_colour)
    for line in lines:
        click.echo(line)
    if was_cut:
        talk("Columns were cut to fit the terminal; widen it, pick some with --fields, or use -o json.")
