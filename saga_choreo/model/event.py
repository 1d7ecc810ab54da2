"""Events: facts of the business, as pydantic models with a name and a version.

A service with its own model of the same event is fine: name and version are what the choreography knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

__all__ = ["Event", "EventRef", "Upcast", "event_ref", "older_of", "upcasts_from"]

# The fields of a payload as the next version has them, from those of the version before.
Upcast = Callable[[dict[str, Any]], dict[str, Any]]

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

    Unknown fields are kept, so that a newer publisher does not lose data at an older reader. `upcast={1: add_currency}` says how a
    payload of an older version becomes one of the next; a handler that takes this class then takes the older versions too.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    event: ClassVar[EventRef]
    event_upcasts: ClassVar[Mapping[int, Upcast]] = MappingProxyType({})

    def __init_subclass__(
        cls, *, name: str | None = None, version: int = 1, upcast: Mapping[int, Upcast] | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        steps = dict(upcast or {})
        if steps and (name is None or sorted(steps) != list(range(max(1, min(steps)), version))):
            raise TypeError(
                f"event class {cls.__name__!r} of version {version} has upcasts from {sorted(steps)}; name each version from the oldest "
                f"it reads up to {version - 1}, each to the next: class {cls.__name__}(Event, name=..., version=2, upcast={{1: function}})"
            )
        if name is not None:
            cls.event = EventRef(name, version)
            cls.event_upcasts = MappingProxyType(steps)
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


def older_of(event: type[Event]) -> tuple[EventRef, ...]:
    """The older versions that the class can be made from, the newest first."""
    return tuple(EventRef(event.event.name, version) for version in sorted(event.event_upcasts, reverse=True))


def upcasts_from(event: type[Event], version: int) -> tuple[Upcast, ...]:
    """What makes a payload of that version one of the class's own, one after the other."""
    return tuple(event.event_upcasts[one] for one in range(version, event.event.version))
