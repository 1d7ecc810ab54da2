"""A frozen step with its handlers. All reflection is done when it is made; a run is decode, call, check, encode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import ChoreographyStep, Split
from saga_choreo.model.event import Event, EventRef
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.invoke import Invocation, LockOf
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.runtime.declare.payload import encode
from saga_choreo.runtime.declare.results import Chosen, Handled, Pending

__all__ = ["BoundStep", "Earlier", "Handled"]

Older = Mapping[EventRef, EventRef]


@dataclass(frozen=True, slots=True)
class Earlier:
    """Older versions of events, each with the one that the code has made of it: of those it reads, and of those it publishes and may
    have to undo. `undo_of` binds the compensation to what another definition says of the step."""

    reads: Older
    publishes: Older
    undo_of: Callable[[ChoreographyStep], Invocation] | None = None

    def lifted(self, step: ChoreographyStep) -> ChoreographyStep:
        """The step as the code would declare it."""
        due = step.deadline_event
        return replace(
            step,
            reads=_lifted(step.reads, self.reads),
            publishes=_lifted(step.publishes, self.publishes),
            deadline_event=None if due is None else self.publishes.get(due, due),
        )


def _lifted(refs: Sequence[EventRef], older: Older) -> tuple[EventRef, ...]:
    return tuple(older.get(ref, ref) for ref in refs)


_NOTHING = Handled({}, 0)
_PENDING = Handled({}, 0, pending=True)


class BoundStep:
    """A step of a choreography with the handlers that run it. `only_undoes`: it publishes other versions of its events than the code
    does, so what it has done can be undone here, and not be done."""

    __slots__ = (
        "_classes",
        "_earlier",
        "_forward",
        "_lock_of",
        "_numbers",
        "_undo",
        "_what",
        "definition",
        "only_undoes",
        "options",
    )

    def __init__(
        self,
        definition: ChoreographyStep,
        options: StepOptions,
        forward: Invocation,
        undo: Invocation | None,
        classes: Sequence[type[Event]],
        lock_of: LockOf | None = None,
        earlier: Earlier | None = None,
    ) -> None:
        self.definition = definition
        self.only_undoes = False
        self._earlier = earlier
        self.options = options
        self._forward = forward
        self._undo = undo
        self._lock_of = lock_of
        self._numbers: dict[EventRef, int] = {ref: number for number, ref in enumerate(definition.publishes)}
        # The classes of the annotations are looked up by type; another class of the same event costs one look more.
        self._classes: dict[type, int] = {cls: self._numbers[cls.event] for cls in classes if cls.event in self._numbers}
        self._what = f"the result of step {definition.name!r}"

    def with_options(self, **changes: Any) -> BoundStep:
        """The same step, with these options changed."""
        other = copy(self)
        other.options = replace(self.options, **changes)
        return other

    def as_before(self, step: ChoreographyStep) -> BoundStep | None:
        """The same code for a step of an earlier definition, if nothing but older versions of events is different there, which
        the code's classes can be made from."""
        earlier = self._earlier
        if earlier is None or earlier.lifted(step) != self.definition:
            return None
        other = copy(self)
        other.definition = step
        other.only_undoes = (step.publishes, step.deadline_event) != (self.definition.publishes, self.definition.deadline_event)
        other._undo = None if earlier.undo_of is None else earlier.undo_of(step)
        return other

    @property
    def has_undo(self) -> bool:
        return self._undo is not None

    def lock_name(self, inputs: Mapping[EventRef, bytes]) -> str:
        """The name of the lock the step needs; empty for none. Raises what the user's function raises, DecodeError when an input
        does not fit, and DefinitionError for a name that cannot be one."""
        return "" if self._lock_of is None else self._lock_of(inputs)

    async def run(self, inputs: Mapping[EventRef, bytes], ctx: StepContext) -> Handled:
        """Call the handler. Raises what it raises (Reject included), DecodeError when an input does not fit, ResultTooLarge,
        and DefinitionError when the result is not what is declared."""
        answer = await self._forward(inputs, None, ctx)
        kind: type = answer.__class__
        number = self._classes.get(kind)
        definition = self.definition
        if number is not None and (definition.split is Split.ONE or len(definition.publishes) == 1):
            return Handled({number: encode(answer, self._what)}, 1 << number)
        return self.handled(answer)

    async def undo(self, results: Mapping[int, bytes], kept: bytes | None, ctx: StepContext) -> bytes | None:
        """Call the compensation. The payload of its event, if it returned one. Raises as `run` does."""
        if self._undo is None:
            raise DefinitionError(
                f"step {self.definition.name!r} has no compensation, and was asked to undo; this is a fault of ours"
            )
        answer = await self._undo(results, kept, ctx)
        if answer is None:
            return None
        declared = self.definition.undo_event
        if not isinstance(answer, Event) or answer.event != declared:
            raise DefinitionError(
                f"the compensation of step {self.definition.name!r} returned {_described(answer)}, and its event is "
                f"{str(declared) if declared else None!r}; return that event or None, or say with_compensation(...)"
            )
        return encode(answer, f"the compensation of step {self.definition.name!r}")

    def handled(self, answer: object) -> Handled:
        """What an answer means; also one that comes from outside, for a step that was pending. Raises as `run` does."""
        if answer is None and not self.definition.publishes:
            return _NOTHING
        if isinstance(answer, Pending) and self.definition.external:
            return _PENDING
        results: dict[int, bytes] = {}
        for event in self._published(answer):
            number = self._numbers.get(event.event) if isinstance(event, Event) else None
            if number is None or number in results:
                raise self._wrong(answer)
            results[number] = encode(event, self._what)
        return Handled(results, sum(1 << number for number in results))

    def _published(self, answer: object) -> tuple[Any, ...]:
        """The events inside an answer of the declared form."""
        split, count, inside = self.definition.split, len(self.definition.publishes), _inside(answer)
        match answer:
            case Event() if split is Split.ONE or count == 1:
                return (answer,)
            case Chosen() if split is Split.SOME or count == 1:
                return inside
            case tuple() if split is Split.ALL and 0 < count == len(inside):
                return inside
            case _:
                raise self._wrong(answer)

    def _wrong(self, answer: object) -> DefinitionError:
        definition = self.definition
        how = {Split.ALL: "all of", Split.ONE: "one of", Split.SOME: "choose(...) some of"}[definition.split]
        declared = ", ".join(map(str, definition.publishes))
        return DefinitionError(
            f"step {definition.name!r} returned {_described(answer)}, and is declared to publish "
            f"{f'{how} {declared}' if declared else 'nothing'}; return that, or correct what is declared"
        )


def _inside(answer: object) -> tuple[Any, ...]:
    """The members of a tuple or of a chosen subset; nothing for anything else."""
    inner: Any = answer.events if isinstance(answer, Chosen) else answer  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  (what it holds is checked by the caller)
    return inner if isinstance(inner, tuple) else ()  # pyright: ignore[reportUnknownVariableType]  (the same)


def _described(answer: object) -> str:
    """The type of an answer, with the types inside it; never a value."""
    names = ", ".join(type(item).__qualname__ for item in _inside(answer)[:8])
    return repr(f"{type(answer).__qualname__}({names})" if names else type(answer).__qualname__)
