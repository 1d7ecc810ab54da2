"""The plan before a change, and the question. Never a hang: with nobody to ask, the command ends with exit code 9."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import talk
from saga_choreo.cli.table import clean

__all__ = ["Consent", "confirm", "consent_options", "reason_option", "require_writable"]

_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Consent:
    """What the caller said in advance."""

    yes: bool
    dry_run: bool
    expect_count: int | None


def consent_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--yes`, `--dry-run`, `--expect-count`; the command gets them as parameters of these names."""
    for option in (
        click.option("--expect-count", type=click.IntRange(min=0), metavar="N", help="Fail unless exactly N would be changed."),
        click.option("--dry-run", is_flag=True, help="Show the plan and stop."),
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
    ):
        command = option(command)
    return command


def reason_option(what: str, *, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--reason`; the command gets it with something in it, or empty where it is not required and not given."""
    if required:  # an explicit default, even None, would count as given
        return click.option("--reason", required=True, callback=_said, help=what)
    return click.option("--reason", default="", callback=_said, help=what)


def _said(ctx: click.Context, option: click.Parameter, text: str) -> str:
    if not text.strip() and ctx.get_parameter_source("reason") is click.core.ParameterSource.COMMANDLINE:
        raise click.BadParameter("it is empty; say why in a few words, as in --reason 'ticket 4411'", ctx, option)
    return text


def confirm(action: str, items: Sequence[str], consent: Consent, *, quiet: bool = False) -> bool:
    """Show the plan and get consent. False after `--dry-run`. CliError when the count differs, when nobody can be asked, when
    the answer is no, and where SAGA_READ_ONLY is set. `quiet` is for callers that read JSON: the plan is then shown only to a person who is asked."""
    if not consent.dry_run:
        require_writable()
    is_asking = not (consent.yes or consent.dry_run) and sys.stdin.isatty() and sys.stderr.isatty()
    if is_asking or not quiet:
        _show(action, items)
    if consent.expect_count is not None and consent.expect_count != len(items):
        raise CliError(
            ExitCode.FAILED,
            f"{len(items)} would be changed, but --expect-count says {consent.expect_count}; nothing was changed",
            hint="look at the plan again",
        )
    if consent.dry_run:
        if not quiet:
            talk("Dry run: nothing was changed.")
        return False
    if consent.yes:
        return True
    if not is_asking:
        raise CliError(
            ExitCode.CONFIRMATION_NEEDED,
            "this change needs a confirmation, and there is no terminal to ask on; nothing was changed",
            hint="add --yes, or look at the plan with --dry-run",
        )
    if not click.confirm("Go on?", err=True):
        raise CliError(ExitCode.CONFIRMATION_NEEDED, "not confirmed; nothing was changed")
    return True


def require_writable() -> None:
    """Raises CliError where SAGA_READ_ONLY is set."""
    from saga_choreo.runtime.settings import read_settings

    if read_settings(os.environ).read_only:
        raise CliError(
            ExitCode.NOT_PERMITTED,
            "SAGA_READ_ONLY is 1, so nothing may be changed from here",
            hint="look at the plan with --dry-run, or unset SAGA_READ_ONLY where changes are yours to make",
        )


def _show(action: str, items: Sequence[str]) -> None:
    talk(f"Plan: {action}, {len(items)} in all")
    for item in items[:_SHOWN_MAX]:
        talk(f"  {clean(item)}")
    if len(items) > _SHOWN_MAX:
        talk(f"  ... and {len(items) - _SHOWN_MAX} more")
