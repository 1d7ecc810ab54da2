"""One fault of a choreography, as a value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One fault: the rule's code, the step it is about ('' for the choreography as a whole), and what to change."""

    code: str
    step: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
