"""Which dead letters a command means: ids, filters that all verbs share, or JSON lines from standard input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from saga_choreo.cli.exits import CliError, ExitCode

__all__ = ["Selection", "filter_options", "ids_argument", "selection_of", "selection_options"]

_STATES = ("open", "archived", "resolved", "all")


@dataclass(frozen=True, slots=True)
class Selection:
    """`since` and `until` as they were written; `ids` may be ('-',)."""

    ids: tuple[str, ...] = ()
    service: str = ""
    kind: str = ""
    saga: str = ""
    step: str = ""
    group: str = ""
    error: str = ""
    since: str = ""
    until: str = ""
    state: str = "open"

    @property
    def is_from_input(self) -> bool:
        return self.ids == ("-",)


def ids_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("ids", nargs=-1, metavar="[LETTER]...")(command)


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the filters, and `--state`."""
    state = click.option("--state", default="open", show_default=True, type=click.Choice(_STATES), help="Only this state.")
    return filter_options(state(command))


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the filters; the command gets them as parameters of the names of `Selection`."""
    for option in reversed(
        (
            click.option("--saga", default="", metavar="ID|KEY", help="Only those of this saga."),
            click.option("--step", default="", help="Only those of this step."),
            click.option("--group", default="", metavar="HEX", help="Only those with this fault: a group, or its beginning."),
            click.option("--kind", default="", type=click.Choice(["", "message", "step"]), help="Only this kind."),
            click.option("--since", default="", metavar="TIME", help="Failed last since then: 2h, 7d, or 2026-11-23T01:40:00Z."),
            click.option("--until", default="", metavar="TIME", help="Failed last before then."),
            click.option("--error", default="", metavar="TEXT", help="Only those with this text in code or message."),
            click.option("--service", default="", help="Only those of this service, where several share the store."),
        )
    ):
        command = option(command)
    return command


def selection_of(ids: tuple[str, ...], *, everything: bool = False, must_choose: bool = False, **wanted: str) -> Selection:
    """Raises CliError for a choice that says nothing, or two things at once."""
    chosen = {name: value for name, value in wanted.items() if value and name != "state"}
    if ids and chosen:
        raise CliError(
            ExitCode.USAGE,
            f"both letters and a filter ({', '.join('--' + name for name in chosen)}) are given",
            hint="give ids, or filters, or - for JSON lines from standard input",
        )
    if "-" in ids and len(ids) > 1:
        raise CliError(ExitCode.USAGE, "- stands for all letters that come in; it cannot be given with others", hint="give - alone")
    if must_choose and not ids and not chosen and not everything:
        raise CliError(
            ExitCode.USAGE,
            "nothing says which dead letters are meant",
            hint="give ids, a filter such as --group or --saga, or --all for every one",
        )
    return Selection(ids=ids, **wanted)
