"""`agent.step` and what it returns: a step that is still a function, to which a compensation can be added."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, overload

from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import ChoreographyStep
from saga_choreo.model.retry import Retry
from saga_choreo.runtime.declare.decorators import notes_of
from saga_choreo.runtime.declare.hints import local_names, name_of
from saga_choreo.runtime.declare.merge import Declared
from saga_choreo.runtime.declare.options import StepOptions

__all__ = ["Compensation", "Step", "check_async"]

P = ParamSpec("P")
R = TypeVar("R")
U = TypeVar("U", bound=Callable[..., Coroutine[Any, Any, Any]])


@dataclass(frozen=True, slots=True)
class Compensation:
    """The function that undoes a step, and the local names its annotations may use."""

    function: Callable[..., Any]
    names: Mapping[str, Any]


class Step(Generic[P, R]):
    """A declared step. Call it as the function it was made of (in a unit test, say): nothing is injected then."""

    def __init__(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        said: Declared,
        options: StepOptions,
        define: Callable[[Step[..., Any]], ChoreographyStep],
    ) -> None:
        check_async("step", function)
        # Made before they are shared with the wrapper, so that decorators above and below it leave theirs in one place.
        notes_of(function)
        update_wrapper(self, function)
        self.function = function
        self.said = said
        self.options = options
        self.names = local_names(function)
        self.undoing: Compensation | None = None
        self.frozen: ChoreographyStep | None = None
        self._define = define

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Step {self.name!r}>"

    @property
    def name(self) -> str:
        return self.said.name

    @property
    def definition(self) -> ChoreographyStep:
        """The step as the choreography has it; before the agent is frozen, as the code alone says it (or DefinitionError)."""
        return self.frozen if self.frozen is not None else self._define(self)

    @overload
    def compensation(self, function: U, /) -> U: ...
    @overload
    def compensation(
        self, *, external: bool | None = None, retry: Retry | None = None, on_park_continue: bool = False
    ) -> Callable[[U], U]: ...
    def compensation(
        self,
        function: Callable[..., Any] | None = None,
        *,
        external: bool | None = None,
        retry: Retry | None = None,
        on_park_continue: bool = False,
    ) -> Any:
        """Say how the step is undone. The function takes what the step returned, optionally what was kept, and the context.

        `external`: it calls the outside. `retry`: its own policy. `on_park_continue`: when it gives up, the steps before it
        are undone all the same, and the saga ends with a debt.
        """

        def add(undo: U) -> U:
            check_async("compensation", undo)
            if self.undoing is not None:
                raise DefinitionError(
                    f"step {self.name!r} has two compensations: {name_of(self.undoing.function)} and {name_of(undo)}; keep one"
                )
            if self.frozen is not None:
                raise DefinitionError(
                    f"the compensation {name_of(undo)} of step {self.name!r} is declared after its agent was checked or opened; "
                    "declare it before that, beside its step"
                )
            self.undoing = Compensation(undo, local_names(undo))
            self.said = replace(self.said, undo_external=external)
            undo_retry = self.options.undo_retry if retry is None else retry
            self.options = replace(self.options, undo_retry=undo_retry, on_park_continue=on_park_continue)
            return undo

        return add if function is None else add(function)


def check_async(what: str, function: Callable[..., Any]) -> None:
    """Raises DefinitionError unless the function is an `async def`."""
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"{what} {name_of(function)} is not an `async def`, and would block every other saga; write `async def`, and "
            "call blocking code with `await asyncio.to_thread(...)`"
        )
