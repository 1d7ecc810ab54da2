"""Brokers and stores by URL scheme, and the four answers a scheme can get."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from saga_choreo.errors import AdapterNotInstalled, ConfigurationError
from saga_choreo.runtime.plugins import broker_schemes, make_broker, make_store, redacted, store_schemes


def _distribution(folder: Path, name: str, module: str, source: str, entries: str) -> None:
    """Install a distribution by hand: a module and the metadata that pip would write beside it."""
    (folder / f"{module}.py").write_text(source)
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entries)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_own_adapters_are_known_by_their_schemes() -> None:
    assert {"memory", "nats", "tls"} <= set(broker_schemes())
    assert {"memory", "sqlite"} <= set(store_schemes())


def test_a_store_is_made_from_its_url(tmp_path: Path) -> None:
    assert make_store("memory://").features.name == "memory"
    assert make_store(f"sqlite:///{tmp_path}/a.db").features.name == "sqlite"
    assert [make_store(f"{scheme}://localhost").features.name for scheme in ("redis", "rediss", "redis+unix")] == ["redis"] * 3


def test_a_broker_is_made_from_its_url_and_prefix() -> None:
    assert make_broker("nats://localhost:4222", prefix="shop").features.name == "nats"


def test_an_adapter_of_somebody_else_is_found_too(site: Path) -> None:
    source = "class Pigeon:\n    def __init__(self, url, *, prefix): self.said = (url, prefix)\n"
    _distribution(site, "saga-pigeons", "saga_pigeons", source, "[saga_choreo.brokers]\npigeon = saga_pigeons:Pigeon\n")
    assert vars(make_broker("PIGEON://loft", prefix="p"))["said"] == ("PIGEON://loft", "p")


def test_an_unknown_scheme_lists_the_known_ones_and_guesses() -> None:
    with pytest.raises(
        ConfigurationError, match=r"store scheme 'sqlit' is not known; did you mean 'sqlite'\? use one of: .*sqlite"
    ) as info:
        make_store("sqlit:///a.db")
    assert not isinstance(info.value, AdapterNotInstalled)


def test_a_url_without_a_scheme_says_how_to_begin_it() -> None:
    with pytest.raises(ConfigurationError, match=r"broker URL 'localhost' has no scheme; begin it with one of: .*nats://"):
        make_broker("localhost")


def test_a_missing_client_library_names_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['nats'] = None\n"
        "from saga_choreo.runtime.plugins import make_broker\n"
        "try: make_broker('nats://u:secret@h')\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == (
        "AdapterNotInstalled broker 'nats' needs the package nats, which is not installed; run: pip install 'saga-choreo[nats]'"
    )


def test_a_client_missing_from_somebody_elses_adapter_names_their_distribution(site: Path) -> None:
    _distribution(site, "saga-owls", "saga_owls", "import owl_client\n", "[saga_choreo.stores]\nowl = saga_owls:Owl\n")
    with pytest.raises(AdapterNotInstalled, match=r"needs the package owl_client, .* pip install 'saga-owls'"):
        make_store("owl://tree")


def test_a_broken_adapter_is_not_taken_for_a_missing_client(site: Path) -> None:
    _distribution(site, "saga-moths", "saga_moths", "import saga_moths.wing\n", "[saga_choreo.stores]\nmoth = saga_moths:Moth\n")
    with pytest.raises(ModuleNotFoundError, match=r"saga_moths\.wing"):
        make_store("moth://lamp")


def test_two_adapters_for_one_scheme_are_refused(site: Path) -> None:
    for name in ("one", "two"):
        _distribution(site, f"saga-{name}", f"saga_{name}", "class A: pass\n", f"[saga_choreo.stores]\nboth = saga_{name}:A\n")
    with pytest.raises(ConfigurationError, match=r"'both' has several adapters: \['saga_one:A', 'saga_two:A'\]"):
        make_store("both://x")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://user:pa:ss@wo/rd@host:4222", "nats://***@host:4222"),
        ("nats://token@host", "nats://***@host"),
        ("nats://a:b@h1,nats://c:d@h2", "nats://***@h2"),
        ("postgresql://h/db?sslmode=require&password=x&Token=y#z", "postgresql://h/db?sslmode=require&password=***&Token=***#z"),
        ("sqlite:///home/me@work/a.db", "sqlite:///home/me@work/a.db"),
        ("memory://", "memory://"),
    ],
)
def test_no_secret_of_a_url_is_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown
