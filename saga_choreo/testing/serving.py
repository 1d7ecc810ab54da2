"""`python -m saga_choreo.testing.serving start|stop [NAME ...]`: the servers for tests, in the background.

`start` leaves one process behind that holds the servers, waits until they run, and prints what to put into the environment. It may
itself be run in the background: the process it leaves belongs to no terminal. Called again it says where the servers are that run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from saga_choreo.errors import SagaError
from saga_choreo.testing.services import SERVICES, find

__all__ = ["main"]

_STATE = Path(".services")
_START_S = 600.0
_STOP_S = 60.0


def _holder() -> int | None:
    """The process that holds the servers, if it runs. Its command line tells it from a stranger with a used number."""
    try:
        pid = int((_STATE / "pid").read_text())
        os.kill(pid, 0)
        if not Path("/proc").exists():
            return pid
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        # Without a command line it has just begun, or is dead and not buried.
        is_dead = not words and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, ValueError):
        return None
    return None if is_dead or (words and b"saga_choreo.testing.serving" not in words) else pid


def _report() -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((_STATE / "report.json").read_text()))
    return None


@click.group()
def main() -> None:
    """The servers for tests, in the background."""


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SERVICES)))
def start(names: Sequence[str]) -> None:
    """Start or find servers (all of them, if none is named), and print their URLs as export lines."""
    _STATE.mkdir(exist_ok=True)
    if _holder() is None:
        (_STATE / "report.json").unlink(missing_ok=True)
        with (_STATE / "log").open("wb") as log:
            command = [sys.executable, "-m", "saga_choreo.testing.serving", "hold", *(names or SERVICES)]
            child = subprocess.Popen(  # noqa: S603  (ourselves)
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (_STATE / "pid").write_text(str(child.pid))
    deadline = time.monotonic() + _START_S
    while (found := _report()) is None:
        if _holder() is None or time.monotonic() > deadline:
            raise click.ClickException(f"the servers did not come up; {str(_STATE / 'log')!r} says why")
        time.sleep(0.1)
    for variable, url in found["urls"].items():
        click.echo(f"export {variable}={shlex.quote(url)}")
    for name, reason in found["missing"].items():
        click.echo(f"# no {name}: {' '.join(reason.split())}")
    for name in names:
        if name not in found["missing"] and SERVICES[name].variable not in found["urls"]:
            click.echo(f"# no {name}: the servers that run were started without it; stop them first: make services-stop")


@main.command()
def stop() -> None:
    """Stop the servers that `start` started."""
    holder = _holder()
    if holder is not None:
        os.kill(holder, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while _holder() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        if _holder() is not None:
            raise click.ClickException(f"process {holder} does not end; its servers end with it: kill -9 {holder}")
    for name in ("pid", "report.json"):
        (_STATE / name).unlink(missing_ok=True)


@main.command(hidden=True)
@click.argument("names", nargs=-1)
def hold(names: Sequence[str]) -> None:
    """Start the servers, write down where they are, and stay."""
    told_to_stop = threading.Event()

    def stop_soon(_number: int, _frame: object) -> None:
        told_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_soon)
    urls: dict[str, str] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as servers:
        for name in names:
            try:
                urls[SERVICES[name].variable] = servers.enter_context(find(name)).url
            except SagaError as error:
                missing[name] = str(error)
        whole = _STATE / "report.json.new"
        whole.write_text(json.dumps({"urls": urls, "missing": missing}))
        whole.rename(_STATE / "report.json")
        told_to_stop.wait()


if __name__ == "__main__":
    main()
