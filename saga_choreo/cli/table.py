"""Tables for terminals and pipes. On a terminal columns are cut to its width; in a pipe nothing is cut and nothing coloured.

Cells may hold what strangers chose (business keys, reasons), so control characters are shown as escapes: they must neither
break a line nor steer the reader's terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import click

__all__ = ["clean", "render", "width_of"]

_GAP = "  "
# Below this a cut column says nothing any more.
_WIDTH_MIN = 8
_COLOURS: Mapping[str, str] = {
    "completed": "green",
    "running": "cyan",
    "compensating": "yellow",
    "compensated": "yellow",
    "cancelled": "yellow",
    "timed_out": "yellow",
    "failed": "red",
}


def clean(text: str) -> str:
    """The text on one line, with what is not printable as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width_of(text: str) -> int:
    """Columns a terminal needs for the text: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, width: int) -> str:
    if width_of(text) <= width:
        return text
    kept, used = "", 1
    for c in text:
        used += width_of(c)
        if used > width:
            break
        kept += c
    return kept + "…"


def _fit(widths: list[int], limit: int) -> list[int]:
    """Narrow the widest column again and again until the line fits, or nothing can give."""
    fitted = list(widths)
    while sum(fitted) + len(_GAP) * (len(fitted) - 1) > limit and max(fitted) > _WIDTH_MIN:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def render(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, limit: int | None = None, header: bool = True, colour: bool = False
) -> tuple[list[str], bool]:
    """The table's lines, and whether something was cut. `limit` is the width to fit into; None never cuts."""
    titles = [name.upper().replace("_", " ") for name in headers]
    cells = [[clean(cell) for cell in row] for row in rows]
    shown = [titles, *cells] if header else cells
    widths = [max((width_of(line[i]) for line in shown), default=0) for i in range(len(titles))]
    fitted = _fit(widths, limit) if limit is not None and widths else widths

    lines: list[str] = []
    for number, line in enumerate(shown):
        parts: list[str] = []
        for cell, width in zip(line, fitted, strict=True):
            text = _cut(cell, width)
            padding = " " * (width - width_of(text))
            is_title = header and number == 0
            parts.append((click.style(text, fg=_COLOURS[cell]) if colour and not is_title and cell in _COLOURS else text) + padding)
        lines.append(_GAP.join(parts).rstrip())
    return lines, fitted != widths
