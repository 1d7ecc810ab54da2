"""The entry point: parses, runs one command, and turns every ending into an exit code and one message.

stdout carries data and nothing else, so all talk and all errors go to stderr; with `-o json` an error is a JSON object there.
"""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Sequence

import click

from saga_choreo import __version__
from saga_choreo.cli.exits import CliError, ExitCode, as_json, as_text, describe
from saga_choreo.cli.lazy import LazyCommand, LazyGroup

__all__ = ["cli", "main", "run_command"]

_COMMANDS = {
    "asyncapi": LazyCommand("saga_choreo.cli.asyncapi", "asyncapi", "Describe a choreography's events as AsyncAPI."),
    "broker": LazyCommand("saga_choreo.cli.broker", "broker", "Plan, declare and check the channels on the broker."),
    "demo": LazyCommand("saga_choreo.cli.demo", "demo", "Run four services on a real broker here, and judge the outcome."),
    "dlq": LazyCommand("saga_choreo.cli.dlq", "dlq", "Look at dead letters, judge them, replay them, put them aside."),
    "graph": LazyCommand("saga_choreo.cli.graph", "graph", "Draw a choreography: steps, owners, events, compensations."),
    "jobs": LazyCommand("saga_choreo.cli.jobs", "jobs", "Watch and steer replays."),
    "run": LazyCommand("saga_choreo.cli.run", "run", "Run one participant's agent."),
    "sagas": LazyCommand("saga_choreo.cli.sagas", "sagas", "List, show, wait for and cancel sagas of a participant."),
    "steps": LazyCommand("saga_choreo.cli.steps", "steps", "List parked steps, and decide what becomes of them."),
    "store": LazyCommand("saga_choreo.cli.store", "store", "Migrate and check a participant's store."),
    "check-model": LazyCommand("saga_choreo.cli.check_model", "check_model", "Explore every interleaving of a choreography."),
    "simulate": LazyCommand("saga_choreo.cli.simulate", "simulate", "Run sagas under random faults, in virtual time."),
    "verify": LazyCommand("saga_choreo.cli.verify", "verify", "Check that a choreography is well-formed."),
    "states": LazyCommand("saga_choreo.cli.states", "states", "Show the state machine: what becomes of a step, and why."),
    "version": LazyCommand("saga_choreo.cli.version", "version", "Show the versions of toolkit, Python and adapters."),
}


class _Root(LazyGroup):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader (head, less) has seen enough. Python would complain once more when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(ExitCode.BROKEN_PIPE) from None


@click.group(cls=_Root, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="saga-choreo", message="%(prog)s %(version)s")
def cli() -> None:
    """Sagas without a coordinator.

    \b
    Examples:
      saga-choreo graph shop.choreography
      saga-choreo run shop.payment:agent
    """


def _wants_json(args: Sequence[str]) -> bool:
    """Whether the caller reads JSON; asked of the raw arguments, since they may be what is wrong."""
    formats = {"json", "jsonl"}
    for before, word in zip(["", *args], args, strict=False):
        if word == "--json" or (before in {"-o", "--output"} and word in formats):
            return True
        if word.startswith(("-o", "--output=")) and word.removeprefix("--output=").removeprefix("-o").removeprefix("=") in formats:
            return True
    return False


def _usage(error: click.ClickException) -> CliError:
    exit_code = ExitCode.USAGE if isinstance(error, click.UsageError) else ExitCode.FAILED
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"run: {context.command_path} --help" if context is not None else ""
    return CliError(exit_code, error.format_message(), hint=hint)


def _report(error: BaseException, args: Sequence[str]) -> ExitCode:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # a group without a command: its help is the answer, and no error
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    failure = _usage(error) if isinstance(error, click.ClickException) else describe(error)
    is_bug = failure.code == "SAGA-E0199"
    if is_bug or "--debug" in args:
        traceback.print_exception(error, file=sys.stderr)
    if is_bug:
        click.echo(f"saga-choreo {__version__}, Python {platform.python_version()}, {platform.platform()}", err=True)
    click.echo(as_json(failure) if _wants_json(args) else as_text(failure), err=True)
    return failure.exit_code


def run_command(args: list[str]) -> int:
    """Run one command line; the exit code. Never raises, and never leaves the process."""
    try:
        result = cli.main(args, prog_name="saga-choreo", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return ExitCode.INTERRUPTED
    except Exception as exc:  # noqa: BLE001  (the last place: every failure becomes a message and an exit code)
        return _report(exc, args)
    return result if isinstance(result, int) else ExitCode.DONE


def main() -> None:
    """What the console script calls."""
    sys.exit(int(run_command(sys.argv[1:])))


if __name__ == "__main__":
    main()
