"""The version is said in two places; they must agree."""

import tomllib
from pathlib import Path

import saga_choreo

ROOT = Path(__file__).resolve().parents[2]


def test_the_package_and_the_project_file_name_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert saga_choreo.__version__ == project["version"]
