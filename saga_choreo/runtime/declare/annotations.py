"""What a handler's annotations say: what it reacts to, how these events join, what it publishes.

Parameters: one event is a plain reaction, several are a join (`all_of`), several `X | None` are `any_of`, one union is
`one_of`. Results: one event, a tuple (fan-out), a union (choice), `Chosen[...]` (subset) or nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType
from typing import Any, Never, NoReturn, TypeGuard, get_args, get_origin

from pydantic import BaseModel

from saga_choreo.model.choreography import Join, Split
from saga_choreo.model.event import Event, EventRef
from saga_choreo.runtime.declare.faults import DeclarationFault
from saga_choreo.runtime.declare.hints import members_of, name_of, signature_of, stripped
from saga_choreo.runtime.declare.inject import Dependency, dependency_of, is_context
from saga_choreo.runtime.declare.results import Chosen, Pending

__all__ = [
    "Argument",
    "EventArgument",
    "Form",
    "HandlerShape",
    "KeptArgument",
    "Parameter",
    "ResultShape",
    "TheContext",
    "UndoShape",
    "read_handler",
    "read_undo",
]


class Form(StrEnum):
    """How a result is written in Python."""

    NOTHING = "None"
    SINGLE = "one event"
    UNION = "a union of events"
    TUPLE = "a tuple of events"
    CHOSEN = "Chosen[...]"


@dataclass(frozen=True, slots=True)
class ResultShape:
    """A result as annotated; `events` in the order written."""

    form: Form
    events: tuple[type[Event], ...] = ()
    pending: bool = False

    @property
    def refs(self) -> frozenset[EventRef]:
        return frozenset(event.event for event in self.events)

    @property
    def split(self) -> Split:
        return {Form.UNION: Split.ONE, Form.CHOSEN: Split.SOME}.get(self.form, Split.ALL)


@dataclass(frozen=True, slots=True)
class TheContext:
    """The parameter gets the StepContext."""


@dataclass(frozen=True, slots=True)
class EventArgument:
    """The parameter gets an event that has come: one of `events`; None when `optional` and none of them has."""

    events: tuple[type[Event], ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class KeptArgument:
    """The parameter gets what the handler kept."""

    model: type[BaseModel]
    optional: bool


Argument = TheContext | EventArgument | KeptArgument | ResultShape | Dependency


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    by_name: bool
    argument: Argument


@dataclass(frozen=True, slots=True)
class HandlerShape:
    """A forward handler. Empty `reads`, a `join` or `result` of None: the annotations do not say."""

    parameters: tuple[Parameter, ...]
    reads: frozenset[EventRef]
    join: Join | None
    result: ResultShape | None


@dataclass(frozen=True, slots=True)
class UndoShape:
    """A compensation. `event` is the class it publishes; `silent`: it is annotated to return None."""

    parameters: tuple[Parameter, ...]
    result: ResultShape | None
    event: type[Event] | None
    silent: bool


def read_handler(function: Callable[..., Any], names: Mapping[str, Any]) -> HandlerShape:
    """Read a forward handler. Raises DeclarationFault."""
    parameters, returned = _read(function, names, _handler_argument)
    taken = [p.argument for p in parameters if isinstance(p.argument, EventArgument)]
    events = [event.event for argument in taken for event in argument.events]
    twice = sorted({str(ref) for ref in events if events.count(ref) > 1})
    if twice:
        raise DeclarationFault(f"{name_of(function)} takes {', '.join(twice)} twice; one parameter per event is enough")
    return HandlerShape(parameters, frozenset(events), _join_of(function, taken), _result_of(function, returned))


def read_undo(function: Callable[..., Any], names: Mapping[str, Any]) -> UndoShape:
    """Read a compensation. Raises DeclarationFault."""
    parameters, returned = _read(function, names, _undo_argument)
    results = [p.argument for p in parameters if isinstance(p.argument, ResultShape)]
    if len(results) > 1 or sum(isinstance(p.argument, KeptArgument) for p in parameters) > 1:
        raise DeclarationFault(
            f"compensation {name_of(function)} takes more than one result or kept model; it gets what the step returned as "
            "one parameter of the same type, and at most one kept model"
        )
    event, silent = _undo_event_of(function, returned)
    return UndoShape(parameters, results[0] if results else None, event, silent)


def _read(
    function: Callable[..., Any], names: Mapping[str, Any], argument_of: Callable[[str, str, Any], Argument]
) -> tuple[tuple[Parameter, ...], Any]:
    signature, hints = signature_of(function, names)
    found: list[Parameter] = []
    skipped = False
    for parameter in signature.parameters.values():
        hint = hints.get(parameter.name, Any)
        dependency = dependency_of(parameter, hint)
        argument: Argument
        if dependency is not None:
            argument = dependency
        elif is_context(hint):
            argument = TheContext()
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if _has_model(hint):
                raise DeclarationFault(
                    f"parameter {parameter.name!r} of {name_of(function)} takes any number, which nothing fills; write one parameter per event"
                )
            continue
        elif parameter.default is not parameter.empty and not _has_model(hint):
            skipped = True
            continue
        else:
            argument = argument_of(name_of(function), parameter.name, hint)
        # After a parameter that keeps its default, the others can only be given by name.
        by_name = parameter.kind is parameter.KEYWORD_ONLY or (skipped and parameter.kind is not parameter.POSITIONAL_ONLY)
        found.append(Parameter(parameter.name, by_name, argument))
    returned = hints.get("return", Any) if signature.return_annotation is not inspect.Signature.empty else Any
    return tuple(found), returned


def _is_event(hint: Any) -> TypeGuard[type[Event]]:
    return isinstance(hint, type) and issubclass(hint, Event) and hasattr(hint, "event")


def _is_model(hint: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _has_model(hint: Any) -> bool:
    return any(_is_model(member) for member in members_of(hint))


def _handler_argument(function: str, name: str, hint: Any) -> Argument:
    members = members_of(hint)
    events = tuple(member for member in members if _is_event(member))
    optional = NoneType in members
    if not events or len(events) + optional != len(members):
        raise DeclarationFault(
            f"parameter {name!r} of {function} is {_show(hint)}, which nothing fills; annotate it as an Event class, as "
            "StepContext, give it Depends(...), or a default"
        )
    if optional and len(events) > 1:
        raise DeclarationFault(
            f"parameter {name!r} of {function} mixes a union with None; for exclusive branches write `x: A | B`, for any_of "
            "write `a: A | None, b: B | None`"
        )
    return EventArgument(events, optional)


def _undo_argument(function: str, name: str, hint: Any) -> Argument:
    members = members_of(hint)
    models = [member for member in members if _is_model(member) and not _is_event(member)]
    optional = NoneType in members
    if len(models) == 1 and len(members) == 1 + optional:
        return KeptArgument(models[0], optional)
    try:
        shape = _result_shape(hint)
    except DeclarationFault:
        shape = None
    if shape is None or shape.pending or shape.form is Form.NOTHING:
        raise DeclarationFault(
            f"parameter {name!r} of compensation {function} is {_show(hint)}, which nothing fills; it gets what the step "
            "returned (same type), what was kept (a pydantic model that is no Event), StepContext, or Depends(...)"
        )
    return shape


def _join_of(function: Callable[..., Any], taken: list[EventArgument]) -> Join | None:
    optionals = sum(argument.optional for argument in taken)
    unions = sum(len(argument.events) > 1 for argument in taken)
    if (optionals and optionals < len(taken)) or (unions and len(taken) > 1) or (optionals and len(taken) == 1):
        raise DeclarationFault(
            f"{name_of(function)} mixes ways to join events; write `a: A` (one event), `a: A, b: B` (all_of), "
            "`a: A | None, b: B | None` (any_of) or `x: A | B` (one_of: branches that exclude each other)"
        )
    if unions:
        return Join.ONE
    if optionals:
        return Join.ANY
    return Join.ALL if len(taken) > 1 else None


def _result_of(function: Callable[..., Any], hint: Any) -> ResultShape | None:
    try:
        return _result_shape(hint)
    except DeclarationFault as fault:
        raise DeclarationFault(f"{name_of(function)} returns {_show(hint)}: {fault}") from None


def _result_shape(hint: Any) -> ResultShape | None:
    all_members = members_of(hint)
    members = tuple(member for member in all_members if member is not Pending)
    pending = len(members) < len(all_members)
    only = members[0] if members else Any
    if only is Any and len(members) < 2:
        return None
    if members in ((NoneType,), (NoReturn,), (Never,)):
        return ResultShape(Form.NOTHING, pending=pending)
    if NoneType in members:
        raise DeclarationFault(
            "an event or None is not a result; a step that may have nothing to do returns a union of two events, raises Reject, "
            "or is declared optional=True"
        )
    if len(members) > 1:
        return ResultShape(Form.UNION, _events(members), pending)
    return _single_shape(only, pending)


def _single_shape(hint: Any, pending: bool) -> ResultShape:
    if get_origin(hint) is tuple:
        return ResultShape(Form.TUPLE, _events(get_args(hint)), pending)
    if get_origin(hint) is Chosen:
        return ResultShape(Form.CHOSEN, _events(members_of(get_args(hint)[0])), pending)
    return ResultShape(Form.SINGLE, _events((hint,)), pending)


def _events(hints: tuple[Any, ...]) -> tuple[type[Event], ...]:
    hints = tuple(stripped(hint) for hint in hints)
    wrong = [hint for hint in hints if not _is_event(hint)]
    if wrong or not hints:
        raise DeclarationFault(
            f"{', '.join(map(_show, wrong)) or 'an empty tuple'} is no Event class; a result is an event, a tuple of events (all "
            "are published), a union (one is), Chosen[A | B] (some are), or None"
        )
    refs = [hint.event for hint in hints]
    if len(set(refs)) < len(refs):
        raise DeclarationFault("the same event name and version stands there twice; every event of a result is another one")
    return hints


def _undo_event_of(function: Callable[..., Any], hint: Any) -> tuple[type[Event] | None, bool]:
    members = tuple(member for member in members_of(hint) if member is not NoneType)
    if not members:
        return None, True
    if members == (Any,):
        return None, False
    if len(members) == 1 and _is_event(members[0]):
        return members[0], False
    raise DeclarationFault(
        f"compensation {name_of(function)} returns {_show(hint)}; it returns one event (published once it is undone) or None"
    )


def _show(hint: Any) -> str:
    if hint is Any:
        return "not annotated"
    return repr(hint.__qualname__ if isinstance(hint, type) else str(hint))
