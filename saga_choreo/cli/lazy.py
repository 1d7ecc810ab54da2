"""Groups that import a command only when it runs or is asked for help.

The group knows name, place and one line of help of each command, so that listing them imports none of them. The modules of
commands are light themselves: what does the work is imported inside a command's function, because help and completion of a
single command must not import pydantic either.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

__all__ = ["LazyCommand", "LazyGroup", "suggestion"]


class LazyCommand(NamedTuple):
    module: str
    attribute: str
    help: str


def suggestion(word: str, known: list[str] | tuple[str, ...]) -> str:
    """' Did you mean ...?', or nothing when no known word is close."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


class LazyGroup(click.Group):
    """A group whose commands are places to import from."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # A noun in the singular is understood, and not listed.
        place = self.lazy.get(cmd_name) or self.lazy.get(f"{cmd_name}s")
        if place is None:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(place.module), place.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if not word.startswith("-") and self.get_command(ctx, word) is None:
            known = self.list_commands(ctx)
            ctx.fail(f"There is no command {word!r}.{suggestion(word, known)} Known: {', '.join(known)}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                rows.append((name, self.lazy[name].help))
            elif (command := super().get_command(ctx, name)) is not None and not command.hidden:
                rows.append((name, command.get_short_help_str()))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
