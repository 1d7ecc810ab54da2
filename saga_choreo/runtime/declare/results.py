"""What a handler may answer beside an event: nothing yet (`Pending`) or a chosen subset (`Chosen`); and what an answer means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from saga_choreo.model.event import Event

__all__ = ["Chosen", "Handled", "Pending", "choose"]

E = TypeVar("E", bound=Event, covariant=True)
T = TypeVar("T", bound=Event)


class Pending:
    """Returned by an external step that somebody else will finish: `agent.complete_step(token, event)`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Pending()"


@dataclass(frozen=True, slots=True)
class Chosen(Generic[E]):
    """A non-empty subset of the events a step declares, as the result of `-> Chosen[A | B | C]`. Made by `choose`."""

    events: tuple[E, ...]

    def get(self, kind: type[T]) -> T | None:
        """The chosen event of this class, if it was chosen."""
        for event in self.events:
            if isinstance(event, kind):
                return event
        return None


def choose(*events: T) -> Chosen[T]:
    """Publish these events and skip the branches of the others. At least one, each at most once."""
    if not events:
        raise ValueError(
            "choose() was given no event; a step that publishes nothing at all raises Reject, or is optional and fails"
        )
    return Chosen(events)


@dataclass(frozen=True, slots=True)
class Handled:
    """What a handler's answer means: `results` maps the number of a published event to its JSON payload; `choice` is the
    bit mask of these numbers. `pending`: no result yet."""

    results: Mapping[int, bytes]
    choice: int
    pending: bool = False
