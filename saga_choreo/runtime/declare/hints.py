"""Annotations as values: signatures read once, string annotations resolved where they were written.

`typing.get_type_hints` knows a function's globals. Names that are local to the function a handler is defined in (tests do
that all the time) are added: those of its closure, and those found in the defining frame when the decorator runs.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from saga_choreo.runtime.declare.faults import DeclarationFault

__all__ = ["local_names", "members_of", "name_of", "signature_of", "stripped"]

_WORD = re.compile(r"[^\W\d]\w*")


def name_of(function: Callable[..., Any]) -> str:
    """The function's name for messages, in quotes."""
    return repr(getattr(function, "__qualname__", None) or type(function).__qualname__)


def local_names(function: Callable[..., Any]) -> dict[str, Any]:
    """What the words in a local function's string annotations mean in the frame that is defining it; empty for others."""
    plain = inspect.unwrap(function)
    enclosing, local, _ = getattr(plain, "__qualname__", "").rpartition(".<locals>.")
    annotations: Mapping[str, Any] = getattr(plain, "__annotations__", {})
    words = {word for hint in annotations.values() if isinstance(hint, str) for word in _WORD.findall(hint)}
    if not local or not words:
        return {}
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_qualname == enclosing and frame.f_globals is getattr(plain, "__globals__", None):
            return {word: frame.f_locals[word] for word in words if word in frame.f_locals}
        frame = frame.f_back
    return {}


def signature_of(function: Callable[..., Any], names: Mapping[str, Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """Signature and resolved annotations. `names` are looked up beside the function's own. Raises DeclarationFault."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as exc:
        raise DeclarationFault(f"{name_of(function)} has no signature that can be read: {exc}") from exc
    annotated: Any = function
    if inspect.isclass(function):
        annotated = function.__init__
    elif not inspect.isroutine(function):
        annotated = type(function).__call__
    plain = inspect.unwrap(annotated)
    closure: Mapping[str, Any] = inspect.getclosurevars(plain).nonlocals if inspect.isfunction(plain) else {}
    try:
        hints = typing.get_type_hints(annotated, localns={**names, **closure}, include_extras=True)
    except NameError as exc:
        raise DeclarationFault(
            f"an annotation of {name_of(function)} names {exc.name!r}, which is not known there at run time; "
            "import it outside TYPE_CHECKING, and define it before the agent is frozen"
        ) from exc
    except (TypeError, AttributeError, SyntaxError) as exc:
        raise DeclarationFault(f"an annotation of {name_of(function)} cannot be evaluated: {exc}; correct the annotation") from exc
    return signature, hints


def stripped(hint: Any) -> Any:
    """The hint without `Annotated`, and a type alias by what it stands for."""
    while True:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return hint


def members_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint itself as the only one."""
    hint = stripped(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(inner for member in get_args(hint) for inner in members_of(member))
    return (hint,)
