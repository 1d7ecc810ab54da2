"""What people get: the wheel's contents, and entry points that lead somewhere."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest
from sources import ROOT, package_sources


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)], cwd=ROOT, check=True, timeout=120
    )
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_toolkit_and_adapters_at_its_top_and_nothing_else(wheel_names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_names if ".dist-info/" not in name}
    assert tops == {"saga_choreo", *(path.name for path in (ROOT / "adapters").glob("saga_choreo_*"))}


def test_the_wheel_holds_every_module(wheel_names: list[str]) -> None:
    expected = {source.path.relative_to(ROOT).as_posix().removeprefix("adapters/") for source in package_sources()}
    assert expected - set(wheel_names) == set()


def test_each_package_in_the_wheel_says_that_it_is_typed(wheel_names: list[str]) -> None:
    assert {
        "saga_choreo/py.typed",
        "saga_choreo_nats/py.typed",
        "saga_choreo_postgres/py.typed",
        "saga_choreo_redis/py.typed",
        "saga_choreo_sqlite/py.typed",
    } - set(wheel_names) == set()


def test_the_wheel_carries_its_licence(wheel_names: list[str]) -> None:
    assert [name for name in wheel_names if name.endswith(".dist-info/licenses/LICENSE")] != []


def test_an_editable_install_finds_the_adapters_and_their_entry_points() -> None:
    found = {(entry.group, entry.name) for entry in distribution("saga-choreo").entry_points}
    assert ("console_scripts", "saga-choreo") in found
    assert {entry.name for entry in entry_points(group="saga_choreo.brokers")} >= {"memory", "nats", "tls"}
    assert {entry.name for entry in entry_points(group="saga_choreo.stores")} >= {
        "memory",
        "postgres",
        "postgresql",
        "redis",
        "sqlite",
    }
    assert (Path(sys.executable).parent / "saga-choreo").exists()


@pytest.mark.parametrize("group", ["saga_choreo.brokers", "saga_choreo.stores"])
def test_every_entry_point_of_an_adapter_can_be_loaded(group: str) -> None:
    loaded = {entry.name: entry.load() for entry in entry_points(group=group)}
    assert [name for name, value in loaded.items() if not isinstance(value, type)] == []
