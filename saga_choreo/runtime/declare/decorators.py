"""The decorators for what types cannot say, or for people who like it in words. Each leaves a note on the function and
returns it unchanged; notes are merged when the agent is frozen, so their order does not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import AnyEvent, Join, Reads, Split
from saga_choreo.model.event import EventRef, event_ref

__all__ = ["Notes", "OnEvent", "PublishEvent", "notes_of", "on_event", "publish_event", "with_compensation"]

T = TypeVar("T", bound=Callable[..., Any])
_NOTES = "__saga_choreo_notes__"


@dataclass(slots=True)
class Notes:
    """What the decorators of one function say. A join or split of None: not said."""

    reads: list[tuple[frozenset[EventRef], Join | None]] = field(default_factory=list["tuple[frozenset[EventRef], Join | None]"])
    publishes: list[tuple[frozenset[EventRef], Split | None]] = field(
        default_factory=list["tuple[frozenset[EventRef], Split | None]"]
    )
    undo: list[tuple[EventRef | None, bool]] = field(default_factory=list["tuple[EventRef | None, bool]"])


def notes_of(function: Callable[..., Any]) -> Notes:
    """The function's notes, made at first use. What wraps it properly (`agent.step`, `functools.wraps`) shares them.

    Raises DefinitionError for a callable that cannot carry any.
    """
    notes = getattr(function, _NOTES, None)
    if not isinstance(notes, Notes):
        notes = Notes()
        try:
            setattr(function, _NOTES, notes)
        except AttributeError as exc:
            raise DefinitionError(
                f"{function!r} cannot be decorated: it is no plain function; write `async def` at module level or wrap it in one"
            ) from exc
    return notes


class OnEvent:
    """Which events a step reacts to: `@OnEvent("order.created")`, or the same as `@on_event(...)`."""

    __slots__ = ("events", "join")

    def __init__(self, *events: AnyEvent | Reads, version: int = 1) -> None:
        joined = [event for event in events if isinstance(event, Reads)]
        if not events or (joined and len(events) > 1):
            raise DefinitionError(
                f"on_event was given {len(events)} things to react to, {len(joined)} of them joins; give event classes or names, "
                "or exactly one all_of(...), any_of(...) or one_of(...)"
            )
        self.join = joined[0].join if joined else None
        plain = joined[0].events if joined else [event_ref(e, version) for e in events if not isinstance(e, Reads)]
        self.events = frozenset(plain)

    def __call__(self, function: T) -> T:
        notes_of(function).reads.append((self.events, self.join))
        return function


class PublishEvent:
    """Which events a step publishes: `@PublishEvent("payment.charged")`, or the same as `@publish_event(...)`."""

    __slots__ = ("events", "split")

    def __init__(self, *events: AnyEvent, version: int = 1, split: Split | None = None) -> None:
        if not events:
            raise DefinitionError("publish_event was given no event; name at least one, or leave the decorator out")
        self.events = frozenset(event_ref(event, version) for event in events)
        self.split = split

    def __call__(self, function: T) -> T:
        notes_of(function).publishes.append((self.events, self.split))
        return function


def on_event(*events: AnyEvent | Reads, version: int = 1) -> OnEvent:
    """React to this event, or to `all_of(...)`, `any_of(...)`, `one_of(...)`. How several plain ones join, parameters say."""
    return OnEvent(*events, version=version)


def publish_event(*events: AnyEvent, version: int = 1, split: Split | None = None) -> PublishEvent:
    """Publish these events. Unless `split` or the result's annotation says otherwise: all of them."""
    return PublishEvent(*events, version=version, split=split)


def with_compensation(event: AnyEvent | None = None, version: int = 1, *, external: bool = False) -> Callable[[T], T]:
    """The step can be undone (by its `.compensation`); the event tells the world that it was."""
    undo = (None if event is None else event_ref(event, version), external)

    def note(function: T) -> T:
        notes_of(function).undo.append(undo)
        return function

    return note
