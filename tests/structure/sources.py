"""The project's own source files, parsed, for the tests of its shape."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["ROOT", "Source", "imported_modules", "package_sources", "sources"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Source:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def module(self) -> str:
        relative = self.path.relative_to(ROOT / "adapters" if "adapters" in self.path.parts else ROOT)
        return ".".join(relative.with_suffix("").parts).removesuffix(".__init__")

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)


def sources(*folders: str) -> list[Source]:
    """All Python files below these folders of the project, sorted."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [Source(path) for path in sorted(found)]


def package_sources() -> list[Source]:
    """What a wheel contains."""
    return sources("saga_choreo", "adapters")


def imported_modules(source: Source) -> Iterator[str]:
    """Modules that the source imports, wherever in the file; `from a import b` counts as a.b too, since b may be a module."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.name} line {node.lineno}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
