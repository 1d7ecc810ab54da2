"""Files stay short enough to read at one sitting, functions short enough to see at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from sources import Source, sources

FILE_LINES_MAX = 400
BODY_LINES_MAX = 50


def _all() -> list[Source]:
    return sources("saga_choreo", "adapters", "examples", "tests")


def _long_bodies(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > BODY_LINES_MAX:
                yield f"{node.name} in line {node.lineno} has a body of {lines} lines"


@pytest.mark.parametrize("source", _all(), ids=lambda source: source.name)
def test_no_file_is_too_long(source: Source) -> None:
    assert len(source.text.splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("source", _all(), ids=lambda source: source.name)
def test_no_function_body_is_too_long(source: Source) -> None:
    assert list(_long_bodies(source)) == []
