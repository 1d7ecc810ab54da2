"""One step from what was said of it: decorator arguments, decorators, annotations, and a shared choreography.

What is not said stays open (None) until all of it is merged, so that saying a thing twice is harmless, saying it
differently is an error, and the order of saying does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from saga_choreo.model.choreography import ChoreographyStep, Join, Reads, Split, Undo
from saga_choreo.model.event import Event, EventRef
from saga_choreo.runtime.declare.annotations import EventArgument, Form, HandlerShape, UndoShape
from saga_choreo.runtime.declare.decorators import Notes
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.runtime.declare.payload import fault_when_empty

__all__ = ["KINDS", "Declared", "empty_misfits", "mismatches", "misuses", "step_of", "undo_misfits"]

T = TypeVar("T")
KINDS = ("external", "optional", "pivot", "retriable", "read_only")
Refs = frozenset[EventRef]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """All that one service's code says of one step. None: it does not say."""

    name: str
    reads: Refs | None = None
    join: Join | None = None
    publishes: Refs | None = None
    split: Split | None = None
    has_undo: bool = False
    undo_external: bool | None = None
    undo_event: EventRef | None = None
    deadline_event: EventRef | None = None
    deadline_model: type[Event] | None = None
    kinds: Mapping[str, bool | None] = field(default_factory=dict[str, bool | None])

    @staticmethod
    def merged(said: Declared, notes: Notes, handler: HandlerShape, undo: UndoShape | None, faults: list[str]) -> Declared:
        """Merge what arguments (`said`), decorators (`notes`) and annotations say. Contradictions are added to `faults`."""
        read_sets = [events for events, _ in notes.reads]
        publish_sets = [events for events, _ in notes.publishes]
        result = handler.result
        noted_reads = frozenset[EventRef]().union(*read_sets) if read_sets else None
        noted_publishes = frozenset[EventRef]().union(*publish_sets) if publish_sets else None
        result_split = result.split if result is not None and len(result.events) > 1 else None
        if notes.undo and undo is None:
            faults.append("with_compensation is said, and there is no handler for it; add one with @<step>.compensation")
        undo_event = _one(
            "the event of the compensation",
            [*(e for e, _ in notes.undo), undo.event.event if undo and undo.event else None],
            faults,
        )
        if undo is not None and undo.silent and undo_event is not None:
            faults.append(f"the compensation is annotated to return None, and {str(undo_event)!r} is its event; return that event")
        return Declared(
            name=said.name,
            reads=_one("what it reacts to", [noted_reads, handler.reads or None], faults),
            join=_one("how its events join", [*(join for _, join in notes.reads), handler.join], faults),
            publishes=_one("what it publishes", [noted_publishes, None if result is None else result.refs], faults),
            split=_one("how it publishes", [*(split for _, split in notes.publishes), result_split], faults),
            has_undo=undo is not None,
            undo_external=said.undo_external if said.undo_external is not None else (any(ext for _, ext in notes.undo) or None),
            undo_event=undo_event,
            deadline_event=said.deadline_event,
            deadline_model=said.deadline_model,
            kinds=said.kinds,
        )


def _show(value: object) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(str, value))) or "nothing"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  (a set of references)
    return str(value)


def _one(what: str, values: Iterable[T | None], faults: list[str]) -> T | None:
    """The one value that is said; several different ones are a fault."""
    said: list[T] = []
    for value in values:
        if value is not None and value not in said:
            said.append(value)
    if len(said) > 1:
        faults.append(f"{what} is said in two ways: {' against '.join(_show(v) for v in said)}; say it once, or the same")
    return said[0] if said else None


def step_of(declared: Declared, owner: str, faults: list[str]) -> ChoreographyStep:
    """The step, when nothing but the declarations says what it is: exactly what the builder would have made."""
    step = ChoreographyStep(declared.name).owned_by(owner)
    reads = declared.reads or frozenset[EventRef]()
    if not reads:
        faults.append("it reacts to nothing; give the handler an event parameter or add @on_event(...)")
    elif len(reads) > 1 and declared.join is None:
        faults.append(
            f"it reacts to {_show(reads)}, and nothing says how they join; write @on_event(all_of(...)), any_of(...) or "
            "one_of(...), or take them as parameters"
        )
    if reads:
        step = step.on_event(Reads(declared.join or Join.ANY, tuple(reads)))
    if declared.publishes:
        step = step.publish_event(*declared.publishes, split=declared.split or Split.ALL)
    if declared.has_undo:
        step = step.with_compensation(declared.undo_event, external=bool(declared.undo_external))
    if declared.deadline_event is not None:
        step = step.on_deadline(declared.deadline_event)
    return step.kind(**declared.kinds)


def mismatches(declared: Declared, shared: ChoreographyStep) -> list[str]:
    """Where the code says something else than the shared choreography does. What the code does not say is no mismatch."""
    pairs: list[tuple[str, object, object]] = [
        ("what it reacts to", declared.reads, frozenset(shared.reads)),
        ("what it publishes", declared.publishes, frozenset(shared.publishes)),
        ("the event of its compensation", declared.undo_event, shared.undo_event),
        ("the event at its deadline", declared.deadline_event, shared.deadline_event),
        *((kind, declared.kinds.get(kind), getattr(shared, kind)) for kind in KINDS),
    ]
    if len(shared.reads) > 1 or declared.join is not Join.ANY:
        pairs.append(("how its events join", declared.join, shared.join))
    if len(shared.publishes) > 1:
        pairs.append(("how it publishes", declared.split, shared.split))
    if declared.has_undo and shared.undo is not Undo.NONE:
        pairs.append(("external compensation", declared.undo_external, shared.undo is Undo.EXTERNAL))
    found = [
        f"{what}: the code says {_show(said)}, the choreography {_show(there)}"
        for what, said, there in pairs
        if said is not None and said != there
    ]
    if declared.has_undo and shared.undo is Undo.NONE:
        found.append("the code has a compensation, the choreography none; add .with_compensation(...) there or remove it here")
    if not declared.has_undo and shared.undo is not Undo.NONE:
        found.append("the choreography says it can be undone, and the code has no handler; add one with @<step>.compensation")
    return found


def misuses(step: ChoreographyStep, options: StepOptions, handler: HandlerShape) -> list[str]:
    """Options and answers that do not go with the kind of the step."""
    found: list[str] = []
    if handler.result is not None and handler.result.pending and not step.external:
        found.append("it may return Pending, which only an external step may; add external=True")
    if options.own_transaction and step.external:
        found.append("own_transaction goes with ctx.tx, which an external step does not have; take one of the two out")
    if options.unsafe_external and not step.external:
        found.append("unsafe_external is about calls to the outside; add external=True or take it out")
    return found + _deadline_misuses(step, options)


def _deadline_misuses(step: ChoreographyStep, options: StepOptions) -> list[str]:
    if step.deadline_event is not None and options.deadline_s is None:
        return [f"{str(step.deadline_event)!r} is published at its deadline, and it has none; add deadline=..."]
    if options.deadline_s is None or step.deadline_event is not None:
        return []
    if step.external:
        return [
            "it has a deadline of its own and nothing to publish then: a call that may have happened cannot be taken for a refusal; "
            "add on_deadline=..., or bound each call with timeout=..."
        ]
    if not step.may_veto and not step.optional:
        return [
            "it has a deadline of its own and may not refuse, so the deadline could do nothing; add on_deadline=... or take it out"
        ]
    return []


def empty_misfits(step: ChoreographyStep, said: Declared, handler: HandlerShape, undo: UndoShape | None, timed: Refs) -> list[str]:
    """Models that cannot be made of the empty object which is published when a step's own deadline passes. `timed` are the
    events of deadlines in the whole choreography."""
    published = (
        [said.deadline_model] if said.deadline_model is not None and said.deadline_model.event == step.deadline_event else []
    )
    read = [
        model
        for parameter in handler.parameters
        if isinstance(parameter.argument, EventArgument)
        for model in parameter.argument.events
        if model.event in timed
    ]
    undone = undo.result.events if undo is not None and undo.result is not None else ()
    models = [*published, *read, *(model for model in undone if model.event == step.deadline_event)]
    faults = {model.event: fault_when_empty(model, f"event {str(model.event)!r}") for model in models}
    return [
        f"{str(event)!r} is published with no fields when a deadline passes, and its model needs some: {fault}; give them defaults"
        for event, fault in faults.items()
        if fault
    ]


def undo_misfits(step: ChoreographyStep, handler: HandlerShape, undo: UndoShape) -> list[str]:
    """Where the compensation does not take what the step returned."""
    taken = undo.result
    if taken is None:
        return []
    extra = frozenset({step.deadline_event} if step.deadline_event else set[EventRef]()) - frozenset(step.publishes)
    form = handler.result.form if handler.result is not None else _form_of(step)
    refs = frozenset(step.publishes) | extra
    if not refs:
        return ["its compensation takes a result, and the step publishes nothing; take the parameter out, or use ctx.keep(...)"]
    if extra and form not in (Form.SINGLE, Form.UNION, Form.CHOSEN):
        return [
            f"its compensation takes a result, which {_show(extra)} at the deadline is not; take the parameter out, and use "
            "ctx.keep(...)"
        ]
    if extra and form is Form.SINGLE:
        form = Form.UNION
    if taken.form is not form or taken.refs != refs:
        return [
            f"its compensation takes {taken.form} ({_show(taken.refs)}), and the step leaves {form} ({_show(refs)}); "
            "a compensation takes what the step returned"
        ]
    return []


def _form_of(step: ChoreographyStep) -> Form:
    match step.split:
        case Split.ONE:
            return Form.UNION
        case Split.SOME:
            return Form.CHOSEN
        case Split.ALL:
            return (Form.NOTHING, Form.SINGLE, Form.TUPLE)[min(len(step.publishes), 2)]
