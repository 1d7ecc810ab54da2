"""The four services as operating-system processes, each with its own database and log. None outlives the demo.

Each is in a process group of its own, so that Ctrl-C in a terminal reaches the demo alone and the services are stopped in
order: agents first, then the server. Should the demo be killed, Linux kills its children (the parent-death signal).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from saga_choreo.errors import ConfigurationError, SagaError

__all__ = ["DemoFailed", "Service", "command", "environment", "stop_all", "watch"]

_PR_SET_PDEATHSIG = 1
_STOP_S = 15.0
_POLL_S = 0.02
_WATCH_S = 0.2
_LOG_LINES = 15


class DemoFailed(SagaError):
    """The demo could not be brought to its end."""


def _die_with_parent() -> None:  # pragma: no cover  (runs in the child, between fork and exec)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def command() -> tuple[str, ...]:
    """`saga-choreo` as installed beside this interpreter, else the one on PATH."""
    beside = Path(sys.executable).parent / "saga-choreo"
    found = str(beside) if beside.exists() else shutil.which("saga-choreo")
    if not found:
        raise ConfigurationError(
            "the command 'saga-choreo' was found neither beside Python nor on PATH; run: pip install -e '.[demo]'"
        )
    return (found,)


def environment(inherited: Mapping[str, str], broker_url: str, store_url: str) -> dict[str, str]:
    """A service's environment: nothing of the caller's SAGA_* settings may reach into the demo."""
    kept = {name: value for name, value in inherited.items() if not name.startswith("SAGA_")}
    return kept | {"SAGA_BROKER_URL": broker_url, "SAGA_STORE_URL": store_url, "SAGA_LOG_FORMAT": "human"}


class Service:
    """One service: a process that can be started again on the same database."""

    def __init__(self, name: str, arguments: Sequence[str], directory: Path, root: Path, broker_url: str) -> None:
        self.name = name
        self.database = directory / f"{name}.db"
        self.log = directory / f"{name}.log"
        self.store_url = f"sqlite:///{self.database}"
        self._arguments = tuple(arguments)
        self._environment = environment(os.environ, broker_url, self.store_url)
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs (or before it was started)."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own command and arguments)
                self._arguments,
                cwd=self._root,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                # Called from the main thread only: the death signal follows the thread that forks.
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log_end(self) -> str:
        """The last lines of its log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(lines[-_LOG_LINES:])


async def stop_all(services: Iterable[Service]) -> list[Service]:
    """Ask all to stop, wait, kill those that do not. Returns those that did not end by themselves with 0."""
    asked = [service for service in services if service.exit_code is None]
    for service in asked:
        service.signal(signal.SIGTERM)
        service.signal(signal.SIGCONT)
    give_up = asyncio.get_running_loop().time() + _STOP_S
    while any(one.exit_code is None for one in asked) and asyncio.get_running_loop().time() < give_up:  # noqa: ASYNC110  a process has no event
        await asyncio.sleep(_POLL_S)
    unclean = [service for service in asked if service.exit_code != 0]
    for service in asked:
        service.kill()
    return unclean


async def watch(services: Iterable[Service]) -> None:
    """Until cancelled. Raises DemoFailed when a service ends although nobody stopped it."""
    watched = tuple(services)
    while True:
        for service in watched:
            if service.exit_code is not None:
                raise DemoFailed(
                    f"service {service.name!r} ended by itself with exit code {service.exit_code}; the end of {str(service.log)!r} "
                    f"says:\n{service.log_end()}"
                )
        await asyncio.sleep(_WATCH_S)
