"""What decides is pure; what awaits takes time and chance from the Clock port; adapters see ports and errors only."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from sources import Source, imported_modules, sources

PURE = ("saga_choreo/model", "saga_choreo/core", "saga_choreo/codec")
# Modules that bring a clock, randomness, environment, logging or I/O.
IMPURE_MODULES = {
    "asyncio",
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "sys",
    "threading",
    "time",
}
IMPURE_CALLS = {"open", "input", "print", "eval", "exec"}
CLOCK_CALLS = {"now", "utcnow", "today", "uuid1", "uuid4", "uuid6", "uuid7", "getenv", "urandom"}
CLOCK_MODULES = {"random", "secrets", "time"}
# The one place that makes a Clock of the system's own.
CLOCK_HOME = {"saga_choreo/runtime/clock.py"}


def _impurities(source: Source) -> Iterator[str]:
    for module in imported_modules(source):
        if module.partition(".")[0] in IMPURE_MODULES:
            yield f"imports {module}"
    for node in ast.walk(source.tree):
        match node:
            case ast.AsyncFunctionDef(name=name) | ast.AsyncFor(target=ast.Name(id=name)):
                yield f"line {node.lineno}: async {name}"
            case ast.AsyncWith() | ast.Await():
                yield f"line {node.lineno}: awaits"
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS | CLOCK_CALLS:
                yield f"line {node.lineno}: calls {name}()"
            case ast.Call(func=ast.Attribute(attr=name)) if name in CLOCK_CALLS:
                yield f"line {node.lineno}: calls .{name}()"
            case _:
                pass


def _own_clock(source: Source) -> Iterator[str]:
    for module in imported_modules(source):
        if module.partition(".")[0] in CLOCK_MODULES:
            yield f"imports {module}"
    for node in ast.walk(source.tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in CLOCK_CALLS - {"getenv"}:
                yield f"line {node.lineno}: calls {name}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="asyncio"), attr="sleep")):
                yield f"line {node.lineno}: calls asyncio.sleep()"
            case _:
                pass


@pytest.mark.parametrize("source", sources(*PURE), ids=lambda source: source.name)
def test_a_pure_module_has_no_clock_no_chance_no_environment_and_no_io(source: Source) -> None:
    assert list(_impurities(source)) == []


@pytest.mark.parametrize("source", sources("saga_choreo/runtime"), ids=lambda source: source.name)
def test_the_runtime_takes_time_and_chance_from_the_clock_port(source: Source) -> None:
    assert source.name in CLOCK_HOME or list(_own_clock(source)) == []


@pytest.mark.parametrize("source", sources("adapters", "saga_choreo/memory"), ids=lambda source: source.name)
def test_an_adapter_sees_ports_and_errors_only(source: Source) -> None:
    own = "saga_choreo.memory" if source.module.startswith("saga_choreo.memory") else source.module.partition(".")[0]
    allowed = ("saga_choreo.ports", "saga_choreo.errors", own)
    ours = [module for module in imported_modules(source) if module.partition(".")[0].startswith("saga_choreo")]
    # `from saga_choreo import ports` also names the package itself, which hands out everything.
    assert [m for m in ours if not any(m == place or m.startswith(f"{place}.") for place in allowed)] == []


def test_the_check_of_purity_sees_what_it_looks_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("impure") / "impure.py"
    path.write_text(
        "import os\nfrom time import time\nasync def f(): await g()\nx = open('x')\ny = uuid.uuid4()\nz = datetime.now()\n"
    )
    found = " ".join(_impurities(_Loose(path)))
    expected = ("imports os", "imports time.time", "async f", "awaits", "calls open()", ".uuid4()", ".now()")
    assert [word for word in expected if word not in found] == []


class _Loose(Source):
    """A file that is not part of the project."""

    @property
    def name(self) -> str:
        return self.path.name
