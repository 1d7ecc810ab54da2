"""Dependencies of handlers, as FastAPI has them: `pool: Pool = Depends(get_pool)`, or inside `Annotated`.

A factory is a function, a coroutine function, or a (async) generator that yields once and is closed after the handler. It
may depend on other factories and take the context. Each factory is called at most once per call of a handler. All
reflection happens when an agent is frozen; what is left for run time is a list of calls in order.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, overload

from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.faults import DeclarationFault
from saga_choreo.runtime.declare.hints import name_of, signature_of, stripped

__all__ = ["Call", "Dependency", "Depends", "Injection", "Source", "dependency_of", "is_context"]

T = TypeVar("T")
# Where an argument of a factory comes from: the number of an earlier call, or (None) the context.
Source = int | None


@dataclass(frozen=True, slots=True)
class Dependency:
    """The mark that `Depends` leaves in a signature."""

    factory: Callable[..., Any]


@overload
def Depends(factory: Callable[..., AsyncGenerator[T, Any]]) -> T: ...
@overload
def Depends(factory: Callable[..., AsyncIterator[T]]) -> T: ...
@overload
def Depends(factory: Callable[..., Generator[T, Any, Any]]) -> T: ...
@overload
def Depends(factory: Callable[..., Iterator[T]]) -> T: ...
@overload
def Depends(factory: Callable[..., Awaitable[T]]) -> T: ...
@overload
def Depends(factory: Callable[..., T]) -> T: ...
def Depends(factory: Callable[..., Any]) -> Any:  # noqa: N802  (reads like the type it stands for, as in FastAPI)
    """Inject what the factory returns or yields. For checkers it has the type of that; what is returned is a `Dependency`."""
    return Dependency(factory)


class _Kind(Enum):
    VALUE = auto()
    AWAITED = auto()
    GENERATOR = auto()
    ASYNC_GENERATOR = auto()


@dataclass(frozen=True, slots=True)
class Call:
    """One factory and where its arguments come from."""

    factory: Callable[..., Any]
    kind: _Kind
    positional: tuple[Source, ...]
    named: tuple[tuple[str, Source], ...]


class Injection:
    """The calls that one handler needs, each factory once, in an order in which all arguments exist."""

    __slots__ = ("_number_of", "_open", "calls")

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._number_of: dict[Callable[..., Any], int] = {}
        self._open: list[Callable[..., Any]] = []

    def add(self, dependency: Dependency, names: Mapping[str, Any]) -> int:
        """The number of the factory's value among the resolved ones. Raises DeclarationFault."""
        factory = dependency.factory
        if factory in self._number_of:
            return self._number_of[factory]
        if factory in self._open:
            path = " -> ".join(name_of(f) for f in (*self._open[self._open.index(factory) :], factory))
            raise DeclarationFault(f"dependencies form a cycle: {path}; take one of them out")
        self._open.append(factory)
        positional, named = self._arguments(factory, names)
        self._open.pop()
        self.calls.append(Call(_entered(factory), _kind_of(factory), tuple(positional), tuple(named)))
        self._number_of[factory] = len(self.calls) - 1
        return self._number_of[factory]

    def _arguments(self, factory: Callable[..., Any], names: Mapping[str, Any]) -> tuple[list[Source], list[tuple[str, Source]]]:
        positional: list[Source] = []
        named: list[tuple[str, Source]] = []
        signature, hints = signature_of(factory, names)
        for parameter in signature.parameters.values():
            hint = hints.get(parameter.name, Any)
            dependency = dependency_of(parameter, hint)
            source: Source
            if dependency is not None:
                source = self.add(dependency, names)
            elif is_context(hint):
                source = None
            elif parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            else:
                raise DeclarationFault(
                    f"dependency {name_of(factory)} has the parameter {parameter.name!r}, which nothing fills; "
                    "annotate it as StepContext, give it Depends(...), or a default"
                )
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(source)
            else:
                named.append((parameter.name, source))
        return positional, named

    async def resolve(self, ctx: StepContext, stack: AsyncExitStack) -> list[Any]:
        """Call all factories; what they opened is closed by the stack."""
        values: list[Any] = []
        for call in self.calls:
            args = [ctx if s is None else values[s] for s in call.positional]
            named = {name: ctx if s is None else values[s] for name, s in call.named}
            made = call.factory(*args, **named)
            match call.kind:
                case _Kind.VALUE:
                    values.append(made)
                case _Kind.AWAITED:
                    values.append(await made)
                case _Kind.GENERATOR:
                    values.append(stack.enter_context(made))
                case _Kind.ASYNC_GENERATOR:
                    values.append(await stack.enter_async_context(made))
        return values


def _kind_of(factory: Callable[..., Any]) -> _Kind:
    called = factory if inspect.isroutine(factory) or inspect.isclass(factory) else type(factory).__call__
    if inspect.isasyncgenfunction(called):
        return _Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(called):
        return _Kind.GENERATOR
    return _Kind.AWAITED if inspect.iscoroutinefunction(called) else _Kind.VALUE


def _entered(factory: Callable[..., Any]) -> Callable[..., Any]:
    match _kind_of(factory):
        case _Kind.GENERATOR:
            return contextmanager(factory)
        case _Kind.ASYNC_GENERATOR:
            return asynccontextmanager(factory)
        case _:
            return factory


def dependency_of(parameter: inspect.Parameter, hint: Any) -> Dependency | None:
    """The `Depends(...)` of a parameter, as its default value or in its annotation."""
    if isinstance(parameter.default, Dependency):
        return parameter.default
    if get_origin(hint) is Annotated:
        marks: Sequence[Any] = get_args(hint)[1:]
        for mark in marks:
            if isinstance(mark, Dependency):
                return mark
    return None


def is_context(hint: Any) -> bool:
    """Whether a parameter so annotated gets the context."""
    hint = stripped(hint)
    return isinstance(hint, type) and StepContext in cast("type[Any]", hint).__mro__
