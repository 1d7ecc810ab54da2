"""A business effect, as the independent ledger sees it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

__all__ = ["Effect"]


@dataclass(frozen=True, slots=True)
class Effect:
    """`is_undo` tells a compensation's effect from a step's. `by` says who did it: a step, a provider, a person."""

    saga_id: UUID
    step: int
    is_undo: bool
    by: str = "step"
