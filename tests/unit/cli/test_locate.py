"""From a name to an object, and every way it can go wrong."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from process import APP, write_app

from saga_choreo.cli.locate import app_or_setting, find_agent, find_choreographies
from saga_choreo.errors import ConfigurationError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a module `shop`, forgotten afterwards."""
    monkeypatch.chdir(write_app(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shopp", r"there is no module 'shopp'.* Did you mean 'shop'\?"),
        ("shop.inner:x", "there is no module"),
        ("shop:order", r"'shop' has no attribute 'order'. Did you mean 'orders'"),
        ("shop:number", "'shop:number' is a int, neither a Choreography nor an Agent"),
        ("shop.py", "is not of the form"),
        ("./shop:x", "is not of the form"),
        ("shop:", "is not of the form"),
        ("empty", "holds no Choreography and no Agent"),
        ("needs_more", "importing 'needs_more' failed with ModuleNotFoundError: No module named 'not_there'"),
        ("raises", "importing 'raises' failed with ValueError: bad luck"),
        ("leaves", "importing 'leaves' failed with SystemExit: 3"),
        ("lazy:app.orders", "reading 'lazy:app.orders' failed with KeyError: 'deep'"),
    ],
)
def test_each_mistake_has_its_own_message(here: Path, target: str, message: str) -> None:
    write_app(here, "", "empty")
    write_app(here, "import not_there", "needs_more")
    write_app(here, "raise ValueError('bad luck')", "raises")
    write_app(here, "raise SystemExit(3)", "leaves")
    write_app(here, "class App:\n    @property\n    def orders(self): raise KeyError('deep')\napp = App()", "lazy")
    with pytest.raises(ConfigurationError, match=message):
        find_choreographies(target)


def test_a_choreography_is_found_by_module_and_attribute(here: Path) -> None:
    assert [c.name for c in find_choreographies("shop:orders")] == ["orders"]
    assert [c.name for c in find_choreographies("shop")] == ["orders", "broken"]


def test_what_is_no_agent_is_not_run(here: Path) -> None:
    with pytest.raises(ConfigurationError, match="'shop:orders' is a Choreography, not an Agent"):
        find_agent("shop:orders")
    with pytest.raises(ConfigurationError, match=r"module 'shop' holds 0 agents \(none\); name one: 'shop:attribute'"):
        find_agent("shop")


def test_the_only_agent_of_a_module_needs_no_name_and_two_do(here: Path) -> None:
    agent = """
class Sidecar:
    def __init__(self, name):
        self.name, self.choreographies = name, (orders,)
    async def run(self, *, stop):
        pass
"""
    write_app(here, f"{APP}\n{agent}\nfirst = Sidecar('first')\nsame = first\n", "one")
    write_app(here, f"{APP}\n{agent}\nfirst = Sidecar('first')\nsecond = Sidecar('second')\n", "two")
    found = find_agent("one")
    assert found.name == "first"
    assert asyncio.run(found.run(stop=asyncio.Event())) is None
    assert [c.name for c in find_choreographies("one:first")] == ["orders"]
    with pytest.raises(ConfigurationError, match=r"holds 2 agents \(two:first, two:second\)"):
        find_agent("two")


def test_the_app_comes_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGA_APP", "shop.stock:agent")
    assert app_or_setting(None) == "shop.stock:agent"
    assert app_or_setting("shop:other") == "shop:other"
    monkeypatch.delenv("SAGA_APP")
    with pytest.raises(ConfigurationError, match="no app was named"):
        app_or_setting("")
