"""A fault of a declaration on its way to one DefinitionError that lists them all."""

from __future__ import annotations

from collections.abc import Sequence

from saga_choreo.errors import DefinitionError

__all__ = ["DeclarationFault", "raise_faults"]


class DeclarationFault(Exception):
    """One thing wrong with a declaration; the text says what, where, and how to write it instead."""


def raise_faults(what: str, faults: Sequence[str]) -> None:
    """Raise a DefinitionError with all faults, if there are any."""
    if faults:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        raise DefinitionError(f"{what} cannot be used; {len(faults)} to correct:{listed}", faults)
