"""Calling a handler: where each argument comes from is worked out once; a call looks it up, decodes and awaits."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

from saga_choreo.errors import DecodeError, DefinitionError
from saga_choreo.model.choreography import ChoreographyStep
from saga_choreo.model.event import EventRef
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.annotations import (
    EventArgument,
    Form,
    HandlerShape,
    KeptArgument,
    Parameter,
    ResultShape,
    TheContext,
    UndoShape,
)
from saga_choreo.runtime.declare.faults import DeclarationFault
from saga_choreo.runtime.declare.inject import Dependency, Injection
from saga_choreo.runtime.declare.options import LockNaming
from saga_choreo.runtime.declare.payload import decoder_of, decoders_of
from saga_choreo.runtime.declare.results import Chosen

__all__ = ["ArgumentSource", "Invocation", "LockOf", "bound_handler", "bound_lock", "bound_undo"]

LockOf = Callable[[Mapping[EventRef, bytes]], str]
# A name is a key of a table; what is longer holds a payload by mistake.
_LOCK_CHARS_MAX = 250

# A function that makes one argument from payloads (by event, or by number for an undo), what was kept, the context and the
# resolved dependencies.
ArgumentSource = Callable[[Mapping[Any, bytes], bytes | None, StepContext, Sequence[Any]], Any]


_NO_CONTEXT: Any = None


class Invocation:
    """A function and where its arguments come from."""

    __slots__ = ("_function", "_injection", "_named", "_positional")

    def __init__(
        self,
        function: Callable[..., Any],
        parameters: Sequence[Parameter],
        source_of: Callable[[Parameter], ArgumentSource],
        names: Mapping[str, Any],
    ) -> None:
        self._function = function
        self._injection = Injection()
        self._positional: tuple[ArgumentSource, ...] = ()
        self._named: tuple[tuple[str, ArgumentSource], ...] = ()
        for parameter in parameters:
            match parameter.argument:
                case Dependency() as dependency:
                    source = _resolved(self._injection.add(dependency, names))
                case TheContext():
                    source = _context
                case _:
                    source = source_of(parameter)
            if parameter.by_name:
                self._named += ((parameter.name, source),)
            else:
                self._positional += (source,)

    def __call__(self, payloads: Mapping[Any, bytes], kept: bytes | None, ctx: StepContext) -> Awaitable[Any]:
        if self._injection.calls:
            return self._with_dependencies(payloads, kept, ctx)
        args = [source(payloads, kept, ctx, ()) for source in self._positional]
        if self._named:
            named = {name: source(payloads, kept, ctx, ()) for name, source in self._named}
            with_names: Awaitable[Any] = self._function(*args, **named)
            return with_names
        answer: Awaitable[Any] = self._function(*args)
        return answer

    async def _with_dependencies(self, payloads: Mapping[Any, bytes], kept: bytes | None, ctx: StepContext) -> Any:
        fault: BaseException | None = None
        answer: Any = None
        async with AsyncExitStack() as stack:
            try:
                resolved = await self._injection.resolve(ctx, stack)
                args = [source(payloads, kept, ctx, resolved) for source in self._positional]
                named = {name: source(payloads, kept, ctx, resolved) for name, source in self._named}
                answer = await self._function(*args, **named)
            except BaseException as exc:
                fault = exc
                raise
        if fault is not None:
            # A generator swallowed it. A step that failed must not look like one that published nothing.
            raise fault
        return answer


def bound_handler(function: Callable[..., Any], shape: HandlerShape, step: str, names: Mapping[str, Any]) -> Invocation:
    """The forward handler, ready to call. Raises DeclarationFault for a dependency that cannot be injected."""

    def source_of(parameter: Parameter) -> ArgumentSource:
        argument = parameter.argument
        assert isinstance(argument, EventArgument)
        return _from_inputs(argument, f"parameter {parameter.name!r} of step {step!r}")

    return Invocation(function, shape.parameters, source_of, names)


def bound_undo(function: Callable[..., Any], shape: UndoShape, step: ChoreographyStep, names: Mapping[str, Any]) -> Invocation:
    """The compensation, ready to call. Raises DeclarationFault for a dependency that cannot be injected."""

    def source_of(parameter: Parameter) -> ArgumentSource:
        argument = parameter.argument
        if isinstance(argument, KeptArgument):
            return _from_kept(argument, step.name)
        assert isinstance(argument, ResultShape)
        return _from_results(argument, step)

    return Invocation(function, shape.parameters, source_of, names)


def bound_lock(naming: LockNaming, shape: HandlerShape, step: str) -> LockOf:
    """The function that names a step's lock, ready to call: it gets the step's events, in the order of its parameters. Raises
    DeclarationFault when it cannot take them."""
    arguments = [parameter.argument for parameter in shape.parameters]
    what = f"the lock of step {step!r}"
    sources = [_from_inputs(argument, what) for argument in arguments if isinstance(argument, EventArgument)]
    if inspect.iscoroutinefunction(naming):
        raise DeclarationFault(
            "its lock is named by an `async def`; a name is made from the events alone, so write a plain function"
        )
    try:
        inspect.signature(naming).bind(*sources)
    except TypeError as exc:
        raise DeclarationFault(
            f"its lock is named by a function that cannot take the step's {len(sources)} events ({exc}); "
            "give it one parameter for each, in the same order"
        ) from exc

    call = cast("Callable[..., object]", naming)

    def lock_of(inputs: Mapping[EventRef, bytes]) -> str:
        name = call(*(source(inputs, None, _NO_CONTEXT, ()) for source in sources))
        if name is None:
            return ""
        if not isinstance(name, str) or not 0 < len(name) <= _LOCK_CHARS_MAX:
            raise DefinitionError(
                f"{what} was named by a {type(name).__name__!r}; a name is a text of 1 to {_LOCK_CHARS_MAX} characters, or None for no lock"
            )
        return name

    return lock_of


def _context(_payloads: Mapping[Any, bytes], _kept: bytes | None, ctx: StepContext, _resolved: Sequence[Any]) -> Any:
    return ctx


def _resolved(number: int) -> ArgumentSource:
    def source(_payloads: Mapping[Any, bytes], _kept: bytes | None, _ctx: StepContext, resolved: Sequence[Any]) -> Any:
        return resolved[number]

    return source


def _from_inputs(argument: EventArgument, what: str) -> ArgumentSource:
    own = [event.event for event in argument.events]
    found = {
        ref: decoder
        for event in argument.events
        for ref, decoder in decoders_of(event).items()
        if ref not in own or ref == event.event
    }
    decoders = sorted(
        found.items(), key=lambda one: one[0] not in own
    )  # a class of that very version goes before one that is made from it
    optional = argument.optional
    first, first_decoder = decoders[0]

    def source(payloads: Mapping[Any, bytes], _kept: bytes | None, _ctx: StepContext, _resolved: Sequence[Any]) -> Any:
        body = payloads.get(first)
        if body is not None:
            return first_decoder(body)
        for ref, decoder in decoders[1:]:
            body = payloads.get(ref)
            if body is not None:
                return decoder(body)
        if optional:
            return None
        wanted = " or ".join(map(str, own))
        raise DecodeError("input_missing", f"{what} needs {wanted}, and no such event has come; the step must not run yet")

    return source


def _from_results(shape: ResultShape, step: ChoreographyStep) -> ArgumentSource:
    extra = step.deadline_event
    outputs = step.publishes if extra is None or extra in step.publishes else (*step.publishes, extra)
    what = f"the result of step {step.name!r}"
    readable = [(ref, decoder) for event in shape.events for ref, decoder in decoders_of(event, f"{what}, ").items()]
    decoders = {outputs.index(ref): decoder for ref, decoder in readable if ref in outputs}
    form = shape.form

    def source(payloads: Mapping[Any, bytes], _kept: bytes | None, _ctx: StepContext, _resolved: Sequence[Any]) -> Any:
        found = [decode(payloads[number]) for number, decode in decoders.items() if number in payloads]
        if not found or (form is Form.TUPLE and len(found) < len(decoders)):
            raise DecodeError(
                "result_missing", f"{what} is not in its record, so its compensation has nothing to go on; resolve it by hand"
            )
        if form is Form.TUPLE:
            return tuple(found)
        return Chosen(tuple(found)) if form is Form.CHOSEN else found[0]

    return source


def _from_kept(argument: KeptArgument, step: str) -> ArgumentSource:
    decode = decoder_of(argument.model, f"what step {step!r} kept")
    optional = argument.optional

    def source(_payloads: Mapping[Any, bytes], kept: bytes | None, _ctx: StepContext, _resolved: Sequence[Any]) -> Any:
        if kept is not None:
            return decode(kept)
        if optional:
            return None
        raise DecodeError(
            "kept_missing",
            f"the compensation of step {step!r} needs what the step kept, and it kept nothing; annotate the parameter "
            f"`{argument.model.__qualname__} | None`, or call ctx.keep(...) in every path of the step",
        )

    return source
