"""The compose files: well-formed, pinned, reachable from this machine only, and fit to be included in one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "compose"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "all.yaml")


def _read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_server_is_pinned_healthy_when_it_answers_and_open_to_this_machine_only(path: Path) -> None:
    (service,) = _read(path)["services"].values()
    _, _, version = service["image"].partition(":")
    assert version.count(".") >= 1, f"{service['image']} names no version"
    assert service["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_file_of_all_includes_all() -> None:
    included = _read(FOLDER / "all.yaml")["include"]
    assert set(included) == {path.name for path in FILES}


def test_included_together_no_two_files_share_a_volume_a_port_or_a_name() -> None:
    included = [_read(FOLDER / name) for name in _read(FOLDER / "all.yaml")["include"]]
    volumes = Counter(name for one in included for name in one["volumes"])
    ports = Counter(port for one in included for service in one["services"].values() for port in service["ports"])
    services = Counter(name for one in included for name in one["services"])
    for counted in (volumes, ports, services):
        assert max(counted.values()) == 1, counted
