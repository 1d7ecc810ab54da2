"""The RabbitMQ server that tests start: it is real, goes with its parent, and stands beside others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from tests.conftest import require_local


def test_two_servers_stand_beside_each_other_and_a_killed_one_starts_again(shared_rabbitmq: RabbitMqServer) -> None:
    with TemporaryDirectory(prefix="saga-rabbitmq-") as folder, RabbitMqServer(folder) as other:
        other.ctl("add_vhost", "kept")
        other.kill()
        other.start()
        assert "kept" in other.ctl("list_vhosts")
        assert "kept" not in shared_rabbitmq.ctl("list_vhosts")
        assert Path(folder, "home", ".erlang.cookie").exists()


def test_the_server_dies_with_the_process_that_started_it() -> None:
    require_local("rabbitmq")
    with TemporaryDirectory(prefix="saga-rabbitmq-") as folder:
        program = (
            "import time\n"
            "from saga_choreo.testing.rabbitmq_server import RabbitMqServer\n"
            f"server = RabbitMqServer({folder!r}).start()\n"
            "print(server.pid, server._epmd.pid, flush=True)\n"
            "time.sleep(600)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and any(_runs(pid) for pid in pids):
            time.sleep(0.02)
        assert not [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_server_that_cannot_start_tells_what_it_complained_of(tmp_path: Path) -> None:
    require_local("rabbitmq")
    with pytest.raises(BrokerUnavailable, match="nonsense"):
        RabbitMqServer(tmp_path, settings="nonsense = 1").start()


def test_a_missing_server_program_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="apt-get install"):
        RabbitMqServer.programs()
