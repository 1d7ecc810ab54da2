"""`saga-choreo steps`: steps that are parked, and people's words on them. Works on the store of the participant that owns the step."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

import click

from saga_choreo.cli.confirm import Consent, consent_options, reason_option
from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import Output, output_options
from saga_choreo.cli.sagas import store_option

__all__ = ["steps"]

_STDIN = click.File("rb")


def _word_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every word on a parked step takes."""
    for add in (
        output_options("table", "json", "jsonl", "name"),
        consent_options,
        reason_option("Why; kept with the step and told with the notice."),
        click.option("--operator", default="", metavar="NAME", help="Who says it; default: your user name here."),
        store_option,
        click.argument("step"),
        click.argument("saga"),
    ):
        command = add(command)
    return command


@click.group
def steps() -> None:
    """List parked steps and decide what becomes of them.

    \b
    Examples:
      saga-choreo steps list --store sqlite:///payment.db
      saga-choreo steps retry ORDER-7712 charge-payment --reason "the bank is back"
    """


@steps.command("list")
@store_option
@click.option("--service", default="", help="Only steps of this service, where several share the store.")
@click.option("--choreography", default="", help="Only steps of sagas of this choreography.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="At most so many.")
@output_options("table", "json", "jsonl", "name")
def list_command(out: Output, store_url: str | None, service: str, choreography: str, limit: int) -> None:
    """List the steps that wait for a person's word, of the newest sagas first.

    \b
    Examples:
      saga-choreo steps list --store sqlite:///payment.db
      saga-choreo steps list --choreography order-processing -o jsonl
    """
    from saga_choreo.cli.parked import list_steps

    list_steps(store_url, out, service=service, choreography=choreography, limit=limit)


@steps.command("show")
@click.argument("saga")
@click.argument("step")
@store_option
@output_options("text", "json", tabular=False)
def show_command(out: Output, saga: str, step: str, store_url: str | None) -> None:
    """Show one step: why it is parked, what was decided before, and what can be decided now.

    \b
    Examples:
      saga-choreo steps show ORDER-7712 charge-payment
      saga-choreo steps show 019a2b charge-payment --json --store sqlite:///payment.db
    """
    from saga_choreo.cli.parked import show_step

    show_step(store_url, out, saga, step)


@steps.command("retry")
@_word_options
def retry_command(**said: Any) -> None:
    """Try the step (or its undo) again, from the first attempt; a call to the outside keeps its key.

    \b
    Examples:
      saga-choreo steps retry ORDER-7712 charge-payment --reason "the bank is back"
      saga-choreo steps retry 019a2b charge-payment --reason "fixed in 4.2" --yes
    """
    _say("retry", **said)


@steps.command("take")
@_word_options
def take_command(**said: Any) -> None:
    """Take over a step that has not run: you do its work by hand, and nobody else touches it until you say how it went.

    \b
    Examples:
      saga-choreo steps take ORDER-7712 charge-payment --reason "charging by phone"
      saga-choreo steps take ORDER-7712 charge-payment --operator ana --reason "ticket 4411" --yes
    """
    _say("take", **said)


@steps.command("give-back")
@_word_options
def give_back_command(**said: Any) -> None:
    """Give back a step that you have taken and did not do: it is parked again, or ends if the saga was aborted meanwhile.

    \b
    Examples:
      saga-choreo steps give-back ORDER-7712 charge-payment --reason "customer not reached"
      saga-choreo steps give-back ORDER-7712 charge-payment --operator ana --reason "shift ends" --yes
    """
    _say("give_back", **said)


@steps.command("done")
@click.option("--event", "events", multiple=True, metavar="NAME[@VERSION]", help="What the step has published; may be repeated.")
@click.option("--payload", "payloads", multiple=True, type=_STDIN, help="A file with the event's JSON, or -; one for each event.")
@_word_options
def done_command(events: tuple[str, ...], payloads: tuple[Any, ...], **said: Any) -> None:
    """Say that it has been done: by you (after `take`), or by the outside under the step's key (look it up there first).

    Say also what the step has published, if it publishes: the steps after it read that.

    \b
    Examples:
      saga-choreo steps done ORDER-7712 charge-payment --event payment.charged --payload charged.json --reason "by phone"
      saga-choreo steps done ORDER-7712 refund-payment --reason "found at the provider" --yes
    """
    if len(events) != len(payloads):
        raise CliError(
            ExitCode.USAGE,
            f"{len(events)} times --event and {len(payloads)} times --payload",
            hint="give each event with its payload: --event payment.charged --payload charged.json",
        )
    _say("done", events=[(name, payload.read()) for name, payload in zip(events, payloads, strict=True)], **said)


@steps.command("fail")
@_word_options
def fail_command(**said: Any) -> None:
    """Say that a call has not happened and never will: the step refuses. Only once the provider has voided the step's key.

    \b
    Examples:
      saga-choreo steps fail ORDER-7712 charge-payment --reason "voided at the provider, case 17"
      saga-choreo steps fail 019a2b charge-payment --reason "voided" --dry-run
    """
    _say("fail", **said)


@steps.command("waive")
@_word_options
def waive_command(**said: Any) -> None:
    """Do without: a step that has not run is skipped; an undo that keeps failing is given up, and the saga ends with a debt.

    \b
    Examples:
      saga-choreo steps waive ORDER-7712 send-mail --reason "no address"
      saga-choreo steps waive ORDER-7712 charge-payment --reason "refunded in cash" --yes
    """
    _say("waive", **said)


def _say(
    verb: str,
    *,
    out: Output,
    store_url: str | None,
    saga: str,
    step: str,
    operator: str,
    reason: str,
    yes: bool,
    dry_run: bool,
    expect_count: int | None,
    events: list[tuple[str, bytes]] | None = None,
) -> None:
    from saga_choreo.cli.resolve import Word, say

    word = Word(verb, operator or getpass.getuser(), reason, tuple(events or ()))
    say(store_url, out, saga, step, word, Consent(yes, dry_run, expect_count))
