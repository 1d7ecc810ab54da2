"""`saga-choreo store`: the tables of a participant's store, and what is in them."""

from __future__ import annotations

import click

from saga_choreo.cli.confirm import Consent, consent_options, reason_option
from saga_choreo.cli.output import Output, output_options
from saga_choreo.cli.sagas import store_option

__all__ = ["store"]


@click.group
def store() -> None:
    """Migrate and check a participant's store.

    \b
    Examples:
      saga-choreo store migrate --dry-run --store sqlite:///payment.db
      saga-choreo store check
      saga-choreo store accept-epoch --service payment --reason "restored last night's backup, compared with shipping"
    """


@store.command("migrate")
@store_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@output_options("text", "json", tabular=False)
def migrate_command(out: Output, store_url: str | None, dry_run: bool) -> None:
    """Bring the tables of a store up to date.

    An agent does it by itself when it opens its store; run this first where agents may not change tables. A migration that only adds
    leaves agents of the release before at work; any other shuts them out.

    \b
    Examples:
      saga-choreo store migrate --dry-run
      saga-choreo store migrate --store postgresql://admin@db/payment
    """
    from saga_choreo.cli.upkeep import migrate_store

    migrate_store(store_url, out, dry_run=dry_run)


@store.command("check")
@store_option
@click.option(
    "--late", "late_s", default=300, show_default=True, type=click.IntRange(1), help="Seconds after which waiting is a fault."
)
@click.option(
    "--limit", default=10_000, show_default=True, type=click.IntRange(1, 1_000_000), help="Look at the newest so many sagas."
)
@click.option(
    "--ledger",
    default="",
    metavar="SQL",
    help="A statement for rows of saga id, step and 'do' or 'undo', to compare with the records.",
)
@click.option(
    "--ledger-step",
    "ledger_steps",
    multiple=True,
    metavar="STEP",
    help="A step that writes to the ledger; may be given several times. Default: all local steps.",
)
@output_options("table", "json", "jsonl")
def check_command(out: Output, store_url: str | None, late_s: int, limit: int, ledger: str, ledger_steps: tuple[str, ...]) -> None:
    """Check version and durability of a store, and name everything in it that contradicts itself.

    Records are compared with their definitions, with each other, with locks, business keys, quarantine and messages on hold, and with a
    ledger of yours. Exit code 6 when something was found. Nothing is changed.

    \b
    Examples:
      saga-choreo store check --store sqlite:///payment.db
      saga-choreo store check --ledger "select saga, step, effect from ledger" --json
      saga-choreo store check --ledger "select saga, step, effect from ledger" --ledger-step charge --ledger-step refund
    """
    from saga_choreo.cli.upkeep import check_the_store

    check_the_store(store_url, out, late_s=late_s, limit=limit, ledger=ledger, ledger_steps=ledger_steps)


@store.command("accept-epoch")
@store_option
@click.option("--service", required=True, help="The service whose agents have stopped.")
@reason_option("Why the store may be worked with as it is; kept in it.")
@consent_options
@output_options("table", "json", "jsonl", "name")
def accept_command(
    out: Output, store_url: str | None, service: str, reason: str, yes: bool, dry_run: bool, expect_count: int | None
) -> None:
    """Let agents go on with a store that went back in time.

    Agents stop when their store misses commits that it had confirmed: after a restore, or a failover to a replica that lagged. This lists
    the sagas that are open in the store, whose commits may be missing. Compare them with the other participants first: what they did
    because of a commit that is gone is not undone by this. Agents that run go on within a second or two.

    \b
    Examples:
      saga-choreo store accept-epoch --service payment --reason "restored the backup of 04:00" --dry-run
      saga-choreo store accept-epoch --service payment --reason "restored the backup of 04:00" --yes
    """
    from saga_choreo.cli.upkeep import accept_epoch

    accept_epoch(store_url, out, service, reason, Consent(yes, dry_run, expect_count))
