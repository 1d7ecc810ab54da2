"""Write `states.md` in this folder anew, from the code: `python docs/generate.py`, after a change of the transition table."""

from __future__ import annotations

from pathlib import Path

from saga_choreo.core.drawing import page


def main() -> None:
    (Path(__file__).parent / "states.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
