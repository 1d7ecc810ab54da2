"""`saga-choreo dlq`: quarantined messages and steps that keep failing. Works on the store of the participant they belong to."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

import click

from saga_choreo.cli.confirm import Consent, consent_options, reason_option
from saga_choreo.cli.output import Output, output_options
from saga_choreo.cli.sagas import store_option
from saga_choreo.cli.selecting import Selection, filter_options, ids_argument, selection_of, selection_options

__all__ = ["dlq"]


_operator_option = click.option("--operator", default="", metavar="NAME", help="Who says it; default: your user name here.")


def _who_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Who wants it, and why: kept with what is changed."""
    for add in (_operator_option, reason_option("Why; kept with what is changed.")):
        command = add(command)
    return command


@click.group
def dlq() -> None:
    """Look at dead letters, judge them, replay them, put them aside.

    Two kinds: a message that can never be applied as it is (quarantined), and a step that keeps failing (parked).

    \b
    Examples:
      saga-choreo dlq groups --store sqlite:///payment.db
      saga-choreo dlq replay --group 3fa9 --reason "the bank is back" --dry-run
    """


@dlq.command("groups")
@store_option
@selection_options
@output_options("table", "json", "jsonl", "name")
def groups_command(out: Output, store_url: str | None, **wanted: Any) -> None:
    """Group dead letters by their fault, the largest group first.

    \b
    Examples:
      saga-choreo dlq groups --store sqlite:///payment.db
      saga-choreo dlq groups --kind step --since 24h --json
    """
    from saga_choreo.cli.letters import list_groups

    list_groups(store_url, out, selection_of((), **wanted))


@dlq.command("list")
@store_option
@selection_options
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="At most so many.")
@output_options("table", "json", "jsonl", "name")
def list_command(out: Output, store_url: str | None, limit: int, **wanted: Any) -> None:
    """List dead letters, messages first, the newest first.

    \b
    Examples:
      saga-choreo dlq list --store sqlite:///payment.db
      saga-choreo dlq list --kind message --error stale --since 2h -o jsonl
    """
    from saga_choreo.cli.letters import list_letters

    list_letters(store_url, out, selection_of((), **wanted), limit)


@dlq.command("show")
@click.argument("letter")
@store_option
@output_options("text", "json", tabular=False)
def show_command(out: Output, store_url: str | None, letter: str) -> None:
    """Show one dead letter: what came, what went wrong, and what a replay would do now.

    \b
    Examples:
      saga-choreo dlq show m17 --store sqlite:///payment.db
      saga-choreo dlq show 019a2b3c-0000-7000-8000-000000000000:charge-payment --json
    """
    from saga_choreo.cli.letters import show_letter

    show_letter(store_url, out, letter)


@dlq.command("replay")
@ids_argument
@store_option
@selection_options
@click.option("--all", "everything", is_flag=True, help="Every dead letter, when no filter is given.")
@click.option("--rate", default="100/s", show_default=True, metavar="N/s", help="How many to begin: 20/s, 300/m, or max.")
@click.option("--max-in-flight", default=32, show_default=True, type=click.IntRange(1, 1000), help="So many under way at once.")
@click.option(
    "--stop-when-failing", default="20%", show_default=True, metavar="X%", help="Stop when more than this share fails again."
)
@click.option("--force", is_flag=True, help="Also what is expected to fail again.")
@click.option("--wait", is_flag=True, help="Follow it to its end; the exit code tells how it ended.")
@_who_options
@consent_options
@output_options("table", "json", "jsonl", "name")
def replay_command(
    out: Output,
    store_url: str | None,
    ids: tuple[str, ...],
    everything: bool,
    rate: str,
    max_in_flight: int,
    stop_when_failing: str,
    force: bool,
    wait: bool,
    operator: str,
    reason: str,
    yes: bool,
    dry_run: bool,
    expect_count: int | None,
    **wanted: Any,
) -> None:
    """Replay dead letters: to the step that failed, not to every subscriber.

    Each is judged first; --dry-run shows the verdicts and stops. The service's agents carry the replay out, at the rate asked for,
    and follow it to its outcome: see saga-choreo jobs. LETTER is an id; - reads letters as JSON lines, as dlq export writes them.

    \b
    Examples:
      saga-choreo dlq replay --group 3fa9 --reason "the bank is back" --rate 20/s --wait
      saga-choreo dlq export -o jsonl | jq -c 'select(.key | startswith("B-"))' | saga-choreo dlq replay - --reason mended --yes
    """
    from saga_choreo.cli.replays import Pace, replay_letters

    pace = Pace(rate, max_in_flight, stop_when_failing, force=force, wait=wait)
    selection = selection_of(ids, everything=everything, must_choose=True, **wanted)
    consent = Consent(yes, dry_run, expect_count)
    replay_letters(store_url, out, selection, pace, (operator or getpass.getuser(), reason), consent)


def _shelf_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for add in (
        output_options("table", "json", "jsonl", "name"),
        consent_options,
        click.option("--all", "everything", is_flag=True, help="Every one, when no filter is given."),
        filter_options,
        store_option,
        ids_argument,
    ):
        command = add(command)
    return command


@dlq.command("archive")
@_shelf_options
@_who_options
def archive_command(**said: Any) -> None:
    """Put quarantined messages aside: out of the default list, and kept until they are purged.

    A parked step cannot be put aside: its saga waits for it. Resolve it with saga-choreo steps.

    \b
    Examples:
      saga-choreo dlq archive m17 m18 --reason "known, ticket 4411"
      saga-choreo dlq archive --error stale --until 2026-11-01 --reason "before the move" --yes
    """
    _shelve("archive", "open", **said)


@dlq.command("restore")
@_shelf_options
@_who_options
def restore_command(**said: Any) -> None:
    """Take archived messages up again.

    \b
    Examples:
      saga-choreo dlq restore m17 --reason "the publisher is mended"
      saga-choreo dlq restore --group 3fa9 --reason "to be replayed" --yes
    """
    _shelve("restore", "archived", **said)


@dlq.command("purge")
@_shelf_options
@_operator_option
@reason_option("Why; shown with the plan and in the result, since nothing of the message is kept.", required=False)
def purge_command(**said: Any) -> None:
    """Delete archived messages for good. What is not archived is left alone.

    \b
    Examples:
      saga-choreo dlq purge --until 90d --expect-count 120
      saga-choreo dlq purge m17 --reason "older than we must keep" --yes --json >> purged.json
    """
    _shelve("purge", "archived", **said)


def _shelve(
    verb: str,
    of: str,
    *,
    out: Output,
    store_url: str | None,
    ids: tuple[str, ...],
    everything: bool,
    operator: str,
    reason: str,
    yes: bool,
    dry_run: bool,
    expect_count: int | None,
    **wanted: Any,
) -> None:
    from saga_choreo.cli.shelving import shelve

    selection: Selection = selection_of(ids, everything=everything, must_choose=True, state=of, **wanted)
    shelve(store_url, out, verb, selection, (operator or getpass.getuser(), reason), Consent(yes, dry_run, expect_count))


@dlq.command("export")
@ids_argument
@store_option
@selection_options
@output_options("jsonl", "json", tabular=False)
def export_command(out: Output, store_url: str | None, ids: tuple[str, ...], **wanted: Any) -> None:
    """Write dead letters in full, with headers and bodies, one JSON object a line.

    \b
    Examples:
      saga-choreo dlq export --store sqlite:///payment.db > letters.jsonl
      saga-choreo dlq export --group 3fa9 | jq -r .key
    """
    from saga_choreo.cli.shelving import export_letters

    export_letters(store_url, out, selection_of(ids, **wanted))


@dlq.command("import")
@click.argument("file", type=click.File("rb"))
@store_option
@consent_options
@output_options("table", "json", "jsonl")
def import_command(out: Output, store_url: str | None, file: Any, yes: bool, dry_run: bool, expect_count: int | None) -> None:
    """Bring exported messages into a store. What is there already is not added again. FILE may be -.

    \b
    Examples:
      saga-choreo dlq import letters.jsonl --store sqlite:///payment.db
      zcat letters.jsonl.gz | saga-choreo dlq import - --yes
    """
    from saga_choreo.cli.shelving import import_letters

    import_letters(store_url, out, file.read(), Consent(yes, dry_run, expect_count))
