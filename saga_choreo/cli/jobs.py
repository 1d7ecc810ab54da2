"""`saga-choreo jobs`: replays that agents carry out, watched and steered. Imports nothing heavy, as every command's module."""

from __future__ import annotations

import click

from saga_choreo.cli.output import Output, output_options
from saga_choreo.cli.sagas import store_option

__all__ = ["jobs"]


@click.group
def jobs() -> None:
    """Watch and steer replays.

    \b
    Examples:
      saga-choreo jobs list --store sqlite:///payment.db
      saga-choreo jobs pause 019a2b
    """


@jobs.command("list")
@store_option
@click.option("--service", default="", help="Only those of this service, where several share the store.")
@click.option("--active", is_flag=True, help="Only those that are not over.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@output_options("table", "json", "jsonl", "name")
def list_command(out: Output, store_url: str | None, service: str, active: bool, limit: int) -> None:
    """List replays, newest first.

    \b
    Examples:
      saga-choreo jobs list --store sqlite:///payment.db
      saga-choreo jobs list --active --json
    """
    from saga_choreo.cli.steering import list_jobs

    list_jobs(store_url, out, service=service, active=active, limit=limit)


@jobs.command("show")
@click.argument("job")
@store_option
@click.option("--state", "states", multiple=True, help="Only letters in this state, such as failed; may be repeated.")
@output_options("table", "json", "jsonl")
def show_command(out: Output, store_url: str | None, job: str, states: tuple[str, ...]) -> None:
    """Show what has become of each letter of a replay. JOB is an id, or the beginning or end of one.

    \b
    Examples:
      saga-choreo jobs show 019a2b --store sqlite:///payment.db
      saga-choreo jobs show 019a2b --state failed -o jsonl
    """
    from saga_choreo.cli.steering import show_job

    show_job(store_url, out, job, states)


@jobs.command("watch")
@click.argument("job")
@store_option
@output_options("table", "json", "jsonl", "name")
def watch_command(out: Output, store_url: str | None, job: str) -> None:
    """Follow a replay to its end. The exit code tells how it ended: 0 all resolved, 7 some, 1 none.

    \b
    Examples:
      saga-choreo jobs watch 019a2b --store sqlite:///payment.db
      saga-choreo jobs watch 019a2b --json
    """
    from saga_choreo.cli.steering import watch_jobs

    watch_jobs(store_url, out, [job])


@jobs.command("pause")
@click.argument("job")
@store_option
@output_options("table", "json", "jsonl", "name")
def pause_command(out: Output, store_url: str | None, job: str) -> None:
    """Begin nothing more for now. What is under way is followed to its end.

    \b
    Examples:
      saga-choreo jobs pause 019a2b --store sqlite:///payment.db
      saga-choreo jobs pause 019a2b --json
    """
    from saga_choreo.cli.steering import steer_job

    steer_job(store_url, out, job, "pause")


@jobs.command("resume")
@click.argument("job")
@store_option
@click.option("--stop-when-failing", metavar="X%", help="A new limit; without one, a replay that had stopped has none any more.")
@output_options("table", "json", "jsonl", "name")
def resume_command(out: Output, store_url: str | None, job: str, stop_when_failing: str | None) -> None:
    """Go on with a replay that is paused, or that has stopped by itself.

    \b
    Examples:
      saga-choreo jobs resume 019a2b --store sqlite:///payment.db
      saga-choreo jobs resume 019a2b --stop-when-failing 50%
    """
    from saga_choreo.cli.steering import steer_job

    steer_job(store_url, out, job, "resume", stop_when_failing)


@jobs.command("cancel")
@click.argument("job")
@store_option
@output_options("table", "json", "jsonl", "name")
def cancel_command(out: Output, store_url: str | None, job: str) -> None:
    """Begin nothing more. What was begun is followed to its end; the other letters stay as they are.

    \b
    Examples:
      saga-choreo jobs cancel 019a2b --store sqlite:///payment.db
      saga-choreo jobs cancel 019a2b --json
    """
    from saga_choreo.cli.steering import steer_job

    steer_job(store_url, out, job, "cancel")
