"""Write the schemas and samples in this folder anew, from the code: `python schemas/generate.py`, after a change of the codec."""

from __future__ import annotations

from pathlib import Path

from saga_choreo.codec.schemas import files


def main() -> None:
    target = Path(__file__).parent
    for path, text in files().items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
