"""A real RabbitMQ for tests and examples, as a plain child process on free loopback ports, durable as in production.

The programs are Debian's (`/usr/lib/rabbitmq/bin`) or those on PATH. Debian's wrappers in `/usr/sbin` are passed by: they change to
another account and write to system folders. Starting takes three to ten seconds, mostly of CPU: start one server and share it by prefix.
Node name, ports, Erlang cookie, database and port mapper (epmd) are the server's own, so that several run beside each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo.testing.servers import free_port

__all__ = ["RabbitMqServer"]

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: after it nothing may be.
_LIBC = ctypes.CDLL(None)
# Three seconds on an idle machine; a machine that tests run on is not idle.
_READY_S = 120.0
_STOP_S = 30.0
_POLL_S = 0.05
_GRACE_S = 1.0
_PROGRAMS = ("rabbitmq-server", "rabbitmqctl")
_GREETING = b"AMQP\x00\x00\x09\x01"


def _die_with_parent() -> None:  # pragma: no cover  (runs in the child, between fork and exec)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stands_still(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] in "TtZX"
    except OSError:
        return True


class RabbitMqServer:
    """One node in one directory, always on the same ports. The calls block; call them from the main thread.

    `settings` are lines of `rabbitmq.conf`, `plugins` names of plugins to enable, `tls_port` a port that the settings give
    certificates for (0: no TLS).
    """

    def __init__(
        self, data_dir: Path | str, *, port: int = 0, settings: str = "", plugins: Sequence[str] = (), tls_port: int = 0
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.port = port or free_port()
        self.tls_port = tls_port
        self._settings = settings
        self._plugins = tuple(plugins)
        self._dist_port, self._epmd_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        return self.data_dir / "server.log"

    @property
    def node(self) -> str:
        return f"saga{self.port}@localhost"

    @staticmethod
    def programs() -> Path:
        """The folder of `rabbitmq-server` and `rabbitmqctl`. Raises ConfigurationError when there is none."""
        on_path = shutil.which("rabbitmq-server")
        found = [Path("/usr/lib/rabbitmq/bin")] + ([Path(on_path).resolve().parent] if on_path else [])
        for folder in found:
            if all((folder / name).exists() for name in _PROGRAMS) and shutil.which("epmd"):
                return folder
        raise ConfigurationError(
            "no RabbitMQ server was found under '/usr/lib/rabbitmq/bin' or on PATH, or Erlang's epmd is not on PATH;"
            " run: apt-get install --no-install-recommends rabbitmq-server"
        )

    def start(self) -> Self:
        """Start (again), and return when the server takes connections. Raises BrokerUnavailable with what it complained of."""
        if self._process is not None and self._process.poll() is None:
            return self
        programs = self.programs()
        self._prepare()
        if self._epmd is None or self._epmd.poll() is not None:
            # In the foreground, as our child: left alone, Erlang starts one that outlives everybody.
            self._epmd = self._run("epmd")
        self._process = self._run(str(programs / "rabbitmq-server"))
        self._wait_until_ready(self._process)
        return self

    def _prepare(self) -> None:
        for name in ("home", "mnesia"):
            (self.data_dir / name).mkdir(parents=True, exist_ok=True)
        (self.data_dir / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
        (self.data_dir / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            + (f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n" if self.tls_port else "")
            + "loopback_users = none\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
            "disk_free_limit.absolute = 50MB\n"
            "log.console = false\n"
            "log.file = server.log\n"
            f"{self._settings}\n"
        )

    def _environment(self) -> dict[str, str]:
        folder = self.data_dir
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": str(folder / "home"),
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
            # Then the start script becomes the server, instead of a parent that a kill would leave behind.
            "RUNNING_UNDER_SYSTEMD": "true",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_CRASH_DUMP_SECONDS": "0",
        }

    def _run(self, program: str) -> subprocess.Popen[bytes]:
        with (self.data_dir / "console.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  (our own programs and arguments)
                [program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                env=self._environment(),
                # Ctrl-C in a terminal is for whoever started the server, and has to stop it after its clients.
                process_group=0,
                # The parent's death signal follows the *thread* that forks, so a short-lived thread must not do this.
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and process.poll() is None:
            if self._answers():
                return
            time.sleep(_POLL_S)
        self.kill()
        raise BrokerUnavailable(f"RabbitMQ on port {self.port} did not come up; {str(self.log)!r} says:\n{self._complaints()}")

    def _complaints(self) -> str:
        """What it calls errors. The end of its log would show nothing but a dying tree of processes."""
        logs = [path.read_text(errors="replace") for path in (self.data_dir / "console.log", self.log) if path.exists()]
        lines = [line for log in logs for line in log.splitlines()[-400:]]
        return "\n".join(([line for line in lines if "[error]" in line] or lines)[:30])

    def _answers(self) -> bool:
        """The listeners come last, so an answer to the greeting means that the node is up."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as probe:
                probe.sendall(_GREETING)
                return probe.recv(1) == b"\x01"
        except OSError:
            return False

    def ctl(self, *words: str) -> str:
        """`rabbitmqctl` on this node (half a second a call); what it printed. Raises BrokerUnavailable with what it complained of."""
        done = subprocess.run(  # noqa: S603  (our own program)
            [str(self.programs() / "rabbitmqctl"), "--quiet", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.data_dir,
            env=self._environment(),
            timeout=60,
        )
        if done.returncode != 0:
            raise BrokerUnavailable(
                f"rabbitmqctl {words[0]!r} failed on node {self.node!r}: {(done.stderr or done.stdout)[-1000:]}"
            )
        return done.stdout

    def stop(self) -> None:
        """Ask it to end, and wait; kill it when it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: what was not on disk is lost. That may be a whole queue, with all that was confirmed to it: RabbitMQ notes the
        names of new queues half a second late. A moment's grace keeps that out of tests that are about something else."""
        if self._process is not None and self._process.poll() is None:
            time.sleep(_GRACE_S)
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers. Undone by `resume`. Returns when each thread of it stands still, which
        takes a moment on a busy machine."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            threads = Path(f"/proc/{self._process.pid}/task")
            deadline = time.monotonic() + _STOP_S
            while time.monotonic() < deadline and not all(map(_stands_still, threads.glob("*/stat"))):
                time.sleep(_POLL_S)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            if how is not signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            process.kill()
            process.wait()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.kill()
            epmd.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
