"""Events: facts of the business, as pydantic models with a name and a version.

A service with its own model of the same event is fine: name and version are what the choreography knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

__all__ = ["Event", "EventRef", "event_ref"]

_NAME = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)+")


@dataclass(frozen=True, slots=True, order=True)
class EventRef:
    """An event's name (`order.created`) and version (1, 2, ...): all a choreography knows of it."""

    name: str
    version: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > 128:
            raise ValueError(
                f"event name {self.name!r} is not valid; use two or more lower-case words joined by dots, such as 'order.created'"
            )
        if self.version < 1:
            raise ValueError(f"event {self.name!r} has version {self.version!r}; versions start at 1")

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"


class Event(BaseModel):
    """Base of all events. Subclass with a name: `class OrderCreated(Event, name="order.created", version=1)`.

    Unknown fields are kept, so that a newer publisher does not lose data at an older reader.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    event: ClassVar[EventRef]

    def __init_subclass__(cls, *, name: str | None = None, version: int = 1, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.event = EventRef(name, version)
        elif not hasattr(cls, "event"):
            raise TypeError(
                f"event class {cls.__name__!r} has no name; write: class {cls.__name__}(Event, name='order.created', version=1)"
            )


def event_ref(event: type[Event] | EventRef | str, version: int = 1) -> EventRef:
    """The reference of an event class, of a name with a version, or the reference itself."""
    match event:
        case EventRef():
            return event
        case str():
            return EventRef(event, version)
        case type() if isinstance(ref := getattr(event, "event", None), EventRef):
            return ref
        case _:
            raise TypeError(f"{event!r} is no event; give a subclass of Event, or a name such as 'order.created'")
