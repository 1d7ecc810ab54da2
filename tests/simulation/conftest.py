"""Tests here share the module `tried`; importing by path does not put their folder on the path.

Those of _LONG do the same few thousand lines again and again: counting these takes longer than running them, and the others reach them
anyway.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE))
_LONG = {"test_simulator", "test_own_agents", "test_guards"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == _HERE and item.path.stem in _LONG:
            item.add_marker(pytest.mark.no_cover)
