"""`saga-choreo demo`: everything for real, on this machine, in a minute."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from saga_choreo.cli.exits import ExitCode
from saga_choreo.cli.output import debug_option, talk

if TYPE_CHECKING:
    from saga_choreo.demo.run import Options, Played

__all__ = ["demo"]

_CUT_SHORT = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class _Screen:
    """The audience: on a terminal one line of progress that rewrites itself, else a line a second."""

    def __init__(self) -> None:
        self._is_tty = sys.stderr.isatty()
        self._shown = ""
        self._next = 0.0

    def say(self, text: str) -> None:
        self._wipe()
        talk(text)

    def progress(self, text: str) -> None:
        if self._is_tty:
            click.echo("\r\x1b[K" + text, err=True, nl=False)
            self._shown = text
        elif text != self._shown and time.monotonic() >= self._next:
            talk(text)
            self._shown, self._next = text, time.monotonic() + 1.0

    def _wipe(self) -> None:
        """A line of progress stays above the remark that follows it."""
        if self._is_tty and self._shown:
            click.echo("", err=True)
            self._shown = ""


@click.command
@click.option(
    "--sagas",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    envvar="SAGAS",
    show_envvar=True,
    help="How many orders are placed.",
)
@click.option(
    "--fail-every",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    envvar="FAIL_EVERY",
    show_envvar=True,
    help="Every n-th saga is refused, by payment and shipping in turn; 0: none.",
)
@click.option(
    "--chaos/--no-chaos",
    default=False,
    envvar="CHAOS",
    show_envvar=True,
    help="Kill three services (SIGKILL) while each has work in flight, and start them again.",
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1), help="Seconds for all sagas to end. [default: 120 + sagas / 5]"
)
@click.option("--keep", is_flag=True, help="Keep databases and logs in .demo/.")
@debug_option
def demo(sagas: int, fail_every: int, chaos: bool, timeout_s: float | None, keep: bool) -> None:
    """Run four services and a real broker here, send sagas through them, and judge the outcome by the services' own ledgers.

    Exit code 1 when anything was wrong. The last line on stdout is one JSON object. Run it from the project's checkout.

    \b
    Examples:
      saga-choreo demo
      SAGAS=500 FAIL_EVERY=5 CHAOS=1 saga-choreo demo
    """
    from saga_choreo.demo.run import Options

    options = Options(sagas=sagas, fail_every=fail_every, chaos=chaos, keep=keep, timeout_s=timeout_s or 120 + sagas / 5)
    screen = _Screen()
    with asyncio.Runner() as runner:
        played = runner.run(_interruptible(options, screen))
    if isinstance(played, ExitCode):
        raise click.exceptions.Exit(played)
    _show(played)
    if not played.found.is_right:
        raise click.exceptions.Exit(ExitCode.FAILED)


async def _interruptible(options: Options, screen: _Screen) -> Played | ExitCode:
    """The first SIGINT or SIGTERM stops everything in order; more of them change nothing, since stopping has an end of its own."""
    from saga_choreo.demo.run import run_demo

    loop, running, cut_short = asyncio.get_running_loop(), asyncio.current_task(), list[signal.Signals]()
    assert running is not None

    def on_signal(number: signal.Signals) -> None:
        if not cut_short:
            screen.say(f"{number.name}: stopping all processes")
            running.cancel()
        cut_short.append(number)

    for number in _CUT_SHORT:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await run_demo(options, screen)
    except asyncio.CancelledError:
        if not cut_short:
            raise
        return _CUT_SHORT[cut_short[0]]
    finally:
        for number in _CUT_SHORT:
            loop.remove_signal_handler(number)


def _show(played: Played) -> None:
    from saga_choreo.demo.report import faults, services_table, summary, timeline

    found = played.found
    for state in ("completed", "compensated"):
        saga_id = played.example_of(state)
        if saga_id:
            click.echo(f"\nA {state} saga, {saga_id}:")
            for line in timeline(saga_id, played.effects, played.heard):
                click.echo(f"  {line}")
    click.echo("\nWhat the services' ledgers say:")
    for line in services_table(played.effects, found):
        click.echo(f"  {line}")
    for fault in faults(found):
        talk(f"WRONG: {fault}")
    click.echo("")
    click.echo(json.dumps(summary(found)))
