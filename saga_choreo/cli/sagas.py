"""`saga-choreo sagas`: the sagas of one participant, read from its store. A participant knows its own steps only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from saga_choreo.cli.confirm import Consent, consent_options
from saga_choreo.cli.output import Output, output_options

__all__ = ["sagas", "store_option"]

# The values of model.states.SagaState, which is too heavy to import for help and completion; a test compares them.
STATES = (
    "pending",
    "running",
    "step_completed",
    "completed",
    "compensating",
    "compensated",
    "failed",
    "cancelled",
    "timed_out",
)


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--store`; the command gets `store_url`."""
    return click.option("--store", "store_url", metavar="URL", help="The participant's store; default: SAGA_STORE_URL.")(command)


@click.group
def sagas() -> None:
    """List, show, wait for and cancel the sagas of a participant.

    \b
    Examples:
      saga-choreo sagas list --state running --store sqlite:///payment.db
      saga-choreo sagas show ORDER-7712
    """


@sagas.command("list")
@store_option
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only these states; may be repeated.")
@click.option("--choreography", default="", help="Only sagas of this choreography.")
@click.option("--service", default="", help="Only what this service knows, where several share the store.")
@click.option("--key", default="", help="Only sagas with this business key.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="At most so many.")
@click.option("--cursor", default="", metavar="ID", help="Go on below this saga: the last one of the page before.")
@output_options("table", "json", "jsonl", "name")
def list_command(out: Output, store_url: str | None, states: tuple[str, ...], **wanted: Any) -> None:
    """List sagas, newest first.

    \b
    Examples:
      saga-choreo sagas list --state compensating --state failed
      saga-choreo sagas list --choreography order-processing -o jsonl --limit 1000
    """
    from saga_choreo.cli.observe import list_sagas

    list_sagas(store_url, out, states=states, **wanted)


@sagas.command("show")
@click.argument("saga")
@store_option
@output_options("text", "json")
def show_command(out: Output, saga: str, store_url: str | None) -> None:
    """Show one saga with its steps. SAGA is an id, the beginning of one, or a business key.

    \b
    Examples:
      saga-choreo sagas show ORDER-7712
      saga-choreo sagas show 019a2b --json --store sqlite:///payment.db
    """
    from saga_choreo.cli.observe import show_saga

    show_saga(store_url, out, saga)


@sagas.command("stuck")
@store_option
@click.option(
    "--for", "longer", default="1m", show_default=True, metavar="TIME", help="Nothing has changed for so long: 90s, 5m, 2h."
)
@click.option("--service", default="", help="Only what this service knows, where several share the store.")
@click.option("--broker", default="", metavar="URL", help="Where agents leave signs of life; default: SAGA_BROKER_URL.")
@click.option("--prefix", default="saga", show_default=True, help="The prefix of the agents' channels there.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="At most so many.")
@output_options("table", "json", "jsonl", "name")
def stuck_command(out: Output, store_url: str | None, **wanted: Any) -> None:
    """Say which sagas wait: for what, from whom, since when, and why. Those that wait longest come first.

    \b
    Examples:
      saga-choreo sagas stuck --store sqlite:///order.db --broker nats://localhost:4222
      saga-choreo sagas stuck --for 10m --json
    """
    from saga_choreo.cli.stuck import list_stuck

    list_stuck(store_url, out, **wanted)


@sagas.command("wait")
@click.argument("saga")
@store_option
@click.option("--timeout", default="", metavar="TIME", help="Give up after so long: 90s, 5m, 2h; default: never.")
@output_options("table", "json", "jsonl", "name")
def wait_command(out: Output, saga: str, store_url: str | None, timeout: str) -> None:
    """Wait until a saga has ended. Exit code 0: completed; 11: it ended otherwise; 10: it has not ended in time.

    SAGA is an id, the beginning of one, or a business key.

    \b
    Examples:
      saga-choreo sagas wait ORDER-7712 --timeout 5m
      saga-choreo sagas wait 019a2b --json && deploy
    """
    from saga_choreo.cli.stuck import milliseconds
    from saga_choreo.cli.wait import wait_for_saga

    code = wait_for_saga(store_url, out, saga, milliseconds(timeout) / 1000 if timeout else None)
    if code:
        raise click.exceptions.Exit(code)


@sagas.command("cancel")
@click.argument("saga", nargs=-1, required=True)
@store_option
@click.option("--reason", default="cancelled by an operator", show_default=True, help="Why; kept with the saga.")
@consent_options
@output_options("table", "json", "jsonl", "name")
def cancel_command(
    out: Output, saga: tuple[str, ...], store_url: str | None, reason: str, yes: bool, dry_run: bool, expect_count: int | None
) -> None:
    """Ask for sagas to be cancelled: what is done will be undone. SAGA is an id, the beginning of one, or a business key.

    The request is written to the participant's store; its agents carry it out. A saga that has completed is not undone.

    \b
    Examples:
      saga-choreo sagas cancel ORDER-7712 --reason "customer called"
      saga-choreo sagas cancel 019a2b 019a2c --dry-run
    """
    from saga_choreo.cli.cancel import cancel_sagas

    cancel_sagas(store_url, out, saga, reason, Consent(yes, dry_run, expect_count))
