"""What the decorators of one service say, collected and frozen into steps with handlers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from saga_choreo.errors import DefinitionError
from saga_choreo.model.breaker import Breaker
from saga_choreo.model.choreography import AnyEvent, Choreography, ChoreographyStep, Undo, checked_name
from saga_choreo.model.event import Event, EventRef, event_ref, older_of
from saga_choreo.model.retry import Retry
from saga_choreo.runtime.declare.annotations import EventArgument, HandlerShape, UndoShape, read_handler, read_undo
from saga_choreo.runtime.declare.bind import BoundStep, Earlier
from saga_choreo.runtime.declare.decorators import notes_of
from saga_choreo.runtime.declare.faults import DeclarationFault, raise_faults
from saga_choreo.runtime.declare.invoke import bound_handler, bound_lock, bound_undo
from saga_choreo.runtime.declare.merge import Declared, empty_misfits, mismatches, misuses, step_of, undo_misfits
from saga_choreo.runtime.declare.options import Duration, LockNaming, OnConflict, StepOptions, seconds_of
from saga_choreo.runtime.declare.step import Step, check_async

__all__ = ["Declarations", "StepDecorator", "StepDecorators"]

P = ParamSpec("P")
R = TypeVar("R")


class StepDecorator(Protocol):
    """What `agent.step(...)` with arguments returns."""

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...


class StepDecorators:
    """The `step` decorator, for whatever has `declarations`."""

    @property
    def declarations(self) -> Declarations:
        raise NotImplementedError

    @overload
    def step(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def step(
        self,
        name: str | None = None,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        external: bool | None = None,
        optional: bool | None = None,
        pivot: bool | None = None,
        retriable: bool | None = None,
        read_only: bool | None = None,
        deadline: Duration | None = None,
        on_deadline: AnyEvent | None = None,
        own_transaction: bool = False,
        unsafe_external: bool = False,
        concurrency: int | None = None,
        rate_per_s: float | None = None,
        breaker: Breaker | None = None,
        lock: LockNaming | None = None,
        on_conflict: OnConflict = "wait",
    ) -> StepDecorator: ...
    def step(
        self,
        name: Callable[..., Any] | str | None = None,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        external: bool | None = None,
        optional: bool | None = None,
        pivot: bool | None = None,
        retriable: bool | None = None,
        read_only: bool | None = None,
        deadline: Duration | None = None,
        on_deadline: AnyEvent | None = None,
        own_transaction: bool = False,
        unsafe_external: bool = False,
        concurrency: int | None = None,
        rate_per_s: float | None = None,
        breaker: Breaker | None = None,
        lock: LockNaming | None = None,
        on_conflict: OnConflict = "wait",
    ) -> Any:
        """Declare a step: `@agent.step`, or `@agent.step("charge-payment", retry=Retry(attempts=5), timeout=10)`.

        The name is the function's own unless given. Durations are seconds or timedeltas. A kind that is not given is said
        by nobody here: a shared choreography may say it. Raises DefinitionError for what is no coroutine function, ValueError for
        options that make no sense.

        `timeout` is for one attempt (Limits.slow_timeout_s unless given). A plain step is first tried within the shared
        transaction's budget (Limits.fast_budget_s, or `timeout` if that is shorter); overrunning that is no failure: the attempt that
        counts, with all of `timeout`, follows.

        `concurrency` and `rate_per_s` bound how many of its handlers run at once and begin per second, and `breaker` stops calling
        what keeps failing. All three are per agent process: with n agents of a service give each its n-th part. They hold back what
        the step does, never its compensation and never the taking of messages: what is held back waits in the store, in the order
        it came, over restarts too; counts no attempt; and still hears ABORT and CANCEL.

        `lock` is a semantic lock: `lock=lambda order: f"customer:{order.customer}"` gets the events the step gets. From what the
        step does until it is undone or its saga has completed, no other saga passes a step of this service with the same name. It
        is per service, in its store. `on_conflict="wait"`: an older saga waits, a younger one refuses (so that two never wait for
        each other); "refuse": both refuse. A step that may not refuse tries again, by `retry`.
        """
        kinds = {"external": external, "optional": optional, "pivot": pivot, "retriable": retriable, "read_only": read_only}
        options = StepOptions(
            retry=Retry() if retry is None else retry,
            timeout_s=seconds_of("timeout", timeout),
            deadline_s=seconds_of("deadline", deadline),
            own_transaction=own_transaction,
            unsafe_external=unsafe_external,
            concurrency=concurrency,
            rate_per_s=rate_per_s,
            breaker=breaker,
            lock=lock,
            on_conflict=on_conflict,
        )
        deadline_event = None if on_deadline is None else event_ref(on_deadline)
        deadline_model = on_deadline if isinstance(on_deadline, type) else None

        def add(function: Callable[..., Any], given: str | None) -> Step[..., Any]:
            check_async("step", function)
            step_name = function.__name__ if given is None else given
            said = Declared(name=step_name, deadline_event=deadline_event, deadline_model=deadline_model, kinds=kinds)
            return self.declarations.add(function, said, options)

        if name is None or isinstance(name, str):
            return partial(add, given=name)
        return add(name, None)


class Declarations(StepDecorators):
    """All steps of one service. Raises ValueError when the service's name is not valid."""

    def __init__(self, owner: str) -> None:
        self.owner = checked_name("service", owner)
        self.steps: list[Step[..., Any]] = []
        # What is declared after an agent has been checked would be in no definition, and never run.
        self.is_closed = False

    @property
    def declarations(self) -> Declarations:
        return self

    def add(self, function: Callable[P, Coroutine[Any, Any, R]], said: Declared, options: StepOptions) -> Step[P, R]:
        """Declare a step. Raises DefinitionError when its name is not valid, or it is too late."""
        self.check_open(f"step {said.name!r}")
        try:
            checked_name("step", said.name)
        except ValueError as exc:
            raise DefinitionError(f"{exc}; or give another one: @agent.step('charge-payment')") from exc
        step = Step(function, said, options, self._definition_of)
        self.steps.append(step)
        return step

    def check_open(self, what: str) -> None:
        """Raises DefinitionError when it is too late to declare anything."""
        if self.is_closed:
            raise DefinitionError(
                f"{what} is declared after agent {self.owner!r} was checked or opened, so nobody would hear of it; declare everything "
                "before that, where the agent is made"
            )

    def definitions(self) -> tuple[ChoreographyStep, ...]:
        """The steps as the code alone says them, sorted by name. Raises DefinitionError with all faults."""
        return tuple(bound.definition for bound in self._freeze(None))

    def freeze(self, choreography: Choreography | None) -> list[BoundStep]:
        """Merge, check and bind everything, sorted by step name; reflection ends here. Raises DefinitionError with all faults.

        With a shared choreography every step that this service owns there needs a handler, every handler a step, and the
        code may say nothing else than the choreography. Without, the code alone says what the steps are.
        """
        bound = self._freeze(choreography)
        by_name = {b.definition.name: b.definition for b in bound}
        for step in self.steps:
            step.frozen = by_name[step.name]
        return bound

    def _freeze(self, choreography: Choreography | None) -> list[BoundStep]:
        faults: list[str] = []
        names = [step.name for step in self.steps]
        faults += [
            f"step {name!r} is declared twice; give each its own name" for name in sorted({n for n in names if names.count(n) > 1})
        ]
        shared = {} if choreography is None else {step.name: step for step in choreography.steps}
        if choreography is not None:
            faults += self._unbound(choreography, set(names))
        timed = frozenset(step.deadline_event for step in shared.values() if step.deadline_event is not None)
        bound: list[BoundStep] = []
        for step in self.steps:
            if choreography is not None and step.name not in shared:
                continue
            there = shared.get(step.name)
            if there is not None and there.owner != self.owner:
                continue
            made = self._bind(step, there, faults, timed)
            bound += [] if made is None else [made]
        raise_faults(f"what service {self.owner!r} declares", faults)
        return sorted(bound, key=lambda b: b.definition.name)

    def _unbound(self, choreography: Choreography, names: set[str]) -> list[str]:
        """Handlers without a step of ours, and steps of ours without a handler."""
        faults: list[str] = []
        where = f"choreography {choreography.name!r}"
        owners = {step.name: step.owner for step in choreography.steps}
        missing = sorted(name for name, owner in owners.items() if owner == self.owner and name not in names)
        for name in sorted(names):
            if name not in owners:
                near = difflib.get_close_matches(name.replace("_", "-"), missing, n=1) or missing
                advice = f"name it as it is there: @agent.step({near[0]!r})" if near else "add it there, or remove the handler"
                faults.append(f"step {name!r} is not in {where}; {advice}")
            elif owners[name] != self.owner:
                faults.append(
                    f"step {name!r} belongs to service {owners[name]!r} in {where}; move the handler there or correct the owner"
                )
        faults += [f"step {name!r} of {where} is ours and has no handler; add @agent.step({name!r})" for name in missing]
        return faults

    def _bind(
        self, step: Step[..., Any], shared: ChoreographyStep | None, faults: list[str], timed: frozenset[EventRef] = frozenset()
    ) -> BoundStep | None:
        """One step merged, checked and bound; None when a fault was found (and added to `faults`)."""
        found: list[str] = []
        try:
            bound = self._bound(step, shared, found, timed)
        except (DeclarationFault, ValueError) as exc:
            found.append(str(exc))
            bound = None
        faults += [f"step {step.name!r}: {fault}" for fault in found]
        return None if found else bound

    def _bound(
        self, step: Step[..., Any], shared: ChoreographyStep | None, found: list[str], timed: frozenset[EventRef]
    ) -> BoundStep | None:
        handler, undo = _shapes(step, found)
        if handler is None:
            return None
        declared = Declared.merged(step.said, notes_of(step), handler, undo, found)
        undoing = step.undoing
        earlier = _earlier(step.said, handler, undo)
        if undoing is not None and undo is not None:
            undo_of = partial(bound_undo, undoing.function, undo, names=undoing.names)
            earlier = replace(earlier, undo_of=undo_of)
        if shared is None:
            definition = step_of(declared, self.owner, found)
        else:
            definition = shared
            found += mismatches(declared, replace(earlier, publishes={}).lifted(shared))
        found += misuses(definition, step.options, handler)
        found += empty_misfits(definition, declared, handler, undo, timed)
        if undo is not None and definition.undo is not Undo.NONE:
            found += undo_misfits(definition, handler, undo)
        if found:
            return None
        forward = bound_handler(step.function, handler, step.name, step.names)
        back = None if earlier.undo_of is None else earlier.undo_of(definition)
        naming = None if step.options.lock is None else bound_lock(step.options.lock, handler, step.name)
        classes = () if handler.result is None else handler.result.events
        return BoundStep(definition, step.options, forward, back, classes, naming, earlier)

    def _definition_of(self, step: Step[..., Any]) -> ChoreographyStep:
        faults: list[str] = []
        bound = self._bind(step, None, faults)
        raise_faults(f"step {step.name!r} of service {self.owner!r}", faults)
        assert bound is not None
        return bound.definition


def _earlier(said: Declared, handler: HandlerShape, undo: UndoShape | None) -> Earlier:
    """What the classes that the code names can be made from, unless it names that version too."""
    arguments = [parameter.argument for parameter in handler.parameters]
    read = [event for one in arguments if isinstance(one, EventArgument) for event in one.events]
    returned = () if handler.result is None else handler.result.events
    undone = () if undo is None or undo.result is None else undo.result.events
    timed = () if said.deadline_model is None else (said.deadline_model,)
    return Earlier(_older(read), _older((*returned, *undone, *timed)))


def _older(events: Sequence[type[Event]]) -> dict[EventRef, EventRef]:
    own = {event.event for event in events}
    return {ref: event.event for event in events for ref in older_of(event) if ref not in own}


def _shapes(step: Step[..., Any], found: list[str]) -> tuple[HandlerShape | None, UndoShape | None]:
    """Both functions read; a fault of one does not hide a fault of the other."""
    handler: HandlerShape | None = None
    undo: UndoShape | None = None
    try:
        handler = read_handler(step.function, step.names)
    except DeclarationFault as exc:
        found.append(str(exc))
    try:
        if step.undoing is not None:
            undo = read_undo(step.undoing.function, step.undoing.names)
    except DeclarationFault as exc:
        found.append(str(exc))
        handler = None
    return handler, undo
