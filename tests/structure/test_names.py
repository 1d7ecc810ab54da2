"""Public names: each module says which they are, and the door of the package has what it promises."""

from __future__ import annotations

import ast
import importlib

import pytest
from sources import ROOT, Source, package_sources

import saga_choreo

DOORS = {"saga_choreo", "saga_choreo.ports", "saga_choreo.testing", "saga_choreo_postgres"}


def _modules() -> list[Source]:
    return [source for source in package_sources() if source.path.name not in ("__init__.py", "__main__.py")]


def _docstring_only(source: Source) -> bool:
    return len(source.tree.body) == 1 and ast.get_docstring(source.tree) is not None


@pytest.mark.parametrize("source", _modules(), ids=lambda source: source.name)
def test_each_module_names_what_is_public_and_has_it(source: Source) -> None:
    module = importlib.import_module(source.module)
    names = getattr(module, "__all__", None)
    assert names is not None, f"{source.name} has no __all__"
    assert [name for name in names if not hasattr(module, name)] == []
    assert len(set(names)) == len(names), f"{source.name} names something twice in __all__"


@pytest.mark.parametrize("source", _modules(), ids=lambda source: source.name)
def test_each_module_opens_with_what_it_is_for(source: Source) -> None:
    assert ast.get_docstring(source.tree), f"{source.name} has no docstring"


def test_an_init_file_that_is_no_door_holds_a_docstring_only() -> None:
    others = [s for s in package_sources() if s.path.name == "__init__.py" and s.module not in DOORS]
    assert others, "no package was found"
    assert [source.name for source in others if not _docstring_only(source)] == []


def test_adapters_is_a_source_root_and_not_a_package() -> None:
    assert not (ROOT / "adapters" / "__init__.py").exists()


def test_the_door_hands_out_every_name_it_lists() -> None:
    found = {name: getattr(saga_choreo, name) for name in saga_choreo.__all__}
    assert all(value is not None for value in found.values())
    assert set(dir(saga_choreo)) == set(saga_choreo.__all__)


def test_the_door_says_the_same_to_type_checkers_and_to_the_running_program() -> None:
    tree = ast.parse((ROOT / "saga_choreo" / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    for_checkers = {alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    door = vars(saga_choreo)["_DOOR"]
    assert for_checkers == door
    assert set(saga_choreo.__all__) == {*door, "__version__"}


def test_a_name_the_door_does_not_have_is_refused_with_a_pointer() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Orchestrator'; see saga_choreo.__all__"):
        _ = saga_choreo.Orchestrator
