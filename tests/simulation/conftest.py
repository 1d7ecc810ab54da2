"""Tests here share the module `tried`; importing by path does not put their folder on the path.

They do the same few thousand lines again and again: counting these takes as long as running them, and the unit tests reach them anyway.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == _HERE:
            item.add_marker(pytest.mark.no_cover)
