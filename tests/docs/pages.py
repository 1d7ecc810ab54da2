"""Pages taken apart: what of them can be run, and what a page says must not be.

A comment on the line above a block says what to do with it; without one a Python block is a script of its own, and each of
its `print(...)  # text` lines must print that text.

    <!-- continues -->            the block goes on where the one before it ended
    <!-- printed -->              a block of text: what the script before it prints besides
    <!-- not run: the reason -->  the block is not run: it needs a server, or minutes; commands in it are still checked
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Page", "Script", "pages"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Script:
    page: str
    number: int
    text: str
    printed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"

    @property
    def promised(self) -> list[str]:
        return [*re.findall(r"^\s*print\(.*\)  # (.*)", self.text, re.MULTILINE), *self.printed]


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[tuple[str, str]]:
        """Mark and text of each block in this language."""
        return [(found["mark"] or "", found["text"]) for found in _BLOCK.finditer(self.text) if found["language"] == language]

    def marks(self) -> list[str]:
        return [found["mark"] for found in _BLOCK.finditer(self.text) if found["mark"]]

    def scripts(self) -> list[Script]:
        found: list[Script] = []
        for block in _BLOCK.finditer(self.text):
            match block["language"], block["mark"] or "":
                case "python", "continues":
                    found[-1] = replace(found[-1], text=found[-1].text + block["text"])
                case "python", mark if not mark.startswith("not run: "):
                    found.append(Script(self.name, len(found), block["text"]))
                case "text", "printed":
                    found[-1] = replace(found[-1], printed=(*found[-1].printed, *block["text"].splitlines()))
                case _:
                    pass
        return found

    def commands(self, *, run: bool) -> list[str]:
        """The command lines in its console blocks, without their comments: those to run, or all."""
        lines = [
            line for mark, text in self.blocks("console") if not (run and mark.startswith("not run")) for line in text.splitlines()
        ]
        return [re.split(r"\s{2,}#", line[2:])[0].strip() for line in lines if line.startswith("$ ")]

    def links(self) -> list[str]:
        return sorted(set(re.findall(r"\]\(([^)]+)\)", self.text)))

    def anchors(self) -> set[str]:
        titles = re.findall(r"^#+ (.*)$", self.text, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def pages() -> list[Page]:
    return [Page(path) for path in PAGES]
