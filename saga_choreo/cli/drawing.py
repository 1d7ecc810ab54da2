"""A choreography drawn: layers of steps as text, a Mermaid flowchart, a JSON document.

Drawn from the definition alone, also when it is not well-formed (a cycle, an event nobody publishes): people look at a drawing
to find out what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from saga_choreo.cli.output import schema
from saga_choreo.cli.table import render
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, Undo
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN_NAME

__all__ = ["as_document", "as_mermaid", "as_text", "edges", "layers"]

_KINDS = ("external", "optional", "pivot", "retriable", "read_only")


def _outputs(step: ChoreographyStep) -> tuple[EventRef, ...]:
    late = step.deadline_event
    return (*step.publishes, late) if late is not None and late not in step.publishes else step.publishes


def edges(choreography: Choreography) -> Iterator[tuple[str, EventRef, str]]:
    """Every (from-step, event, to-step); the origin publishes the start event."""
    publishers: dict[EventRef, list[str]] = {}
    if choreography.start is not None:
        publishers[choreography.start] = [ORIGIN_NAME]
    for step in choreography.steps:
        for event in _outputs(step):
            publishers.setdefault(event, []).append(step.name)
    for step in choreography.steps:
        for event in step.reads:
            for source in publishers.get(event, ()):
                yield source, event, step.name


def layers(choreography: Choreography) -> list[list[ChoreographyStep]]:
    """Steps by the earliest moment they can run. Those on a cycle, or behind one, come together in a last layer."""
    waits: dict[str, set[str]] = {step.name: set() for step in choreography.steps}
    for source, _, reader in edges(choreography):
        if source != ORIGIN_NAME:
            waits[reader].add(source)
    remaining = {step.name: step for step in choreography.steps}
    found: list[list[ChoreographyStep]] = []
    while remaining:
        ready = [step for name, step in remaining.items() if not waits[name] & remaining.keys()] or list(remaining.values())
        found.append(ready)
        for step in ready:
            del remaining[step.name]
    return found


def _events(events: Sequence[EventRef], word: str) -> str:
    return f" {word} ".join(str(event) if event.version != 1 else event.name for event in events) or "(nothing)"


def _reads(step: ChoreographyStep) -> str:
    words = {Join.ALL: "and", Join.ANY: "or", Join.ONE: "xor"}
    return _events(step.reads, words[step.join])


def _publishes(step: ChoreographyStep) -> str:
    words = {Split.ALL: "and", Split.ONE: "xor", Split.SOME: "or"}
    late = f", late: {step.deadline_event.name}" if step.deadline_event is not None else ""
    return _events(step.publishes, words[step.split]) + late


def _undo(step: ChoreographyStep) -> str:
    if step.undo is Undo.NONE:
        return "-"
    named = step.undo_event.name if step.undo_event is not None else "yes"
    return f"{named} (external)" if step.undo is Undo.EXTERNAL else named


def _kinds(step: ChoreographyStep) -> str:
    return ", ".join(kind for kind in _KINDS if getattr(step, kind)) or "-"


def as_text(choreography: Choreography, unknown: str = "") -> str:
    """A heading and one line a step, numbered by layer. `unknown`: what of it is not known, said instead of its hash."""
    start = str(choreography.start) if choreography.start is not None else "nothing (add .starts_with(...))"
    deadline = f", deadline {choreography.deadline_after}" if choreography.deadline_after is not None else ""
    heading = f"{choreography.name} v{choreography.version}, starts with {start}{deadline}\ndefinition {choreography.definition}"
    if unknown:
        started = "" if choreography.start is None else f" v{choreography.version}, starts with {start}{deadline}"
        heading = f"{choreography.name}{started}\nthe rest is unknown: {unknown}"
    rows: list[list[str]] = []
    for number, layer in enumerate(layers(choreography), start=1):
        for place, step in enumerate(layer):
            flow = f"{_reads(step)} -> {_publishes(step)}"
            rows.append([str(number) if place == 0 else "", step.name, step.owner or "?", flow, _kinds(step), _undo(step)])
    lines, _ = render(["", "step", "owner", "reads -> publishes", "kinds", "undone_by"], rows)
    return f"{heading}\n\n" + "\n".join(lines)


def as_mermaid(choreography: Choreography, unknown: str = "") -> str:
    """A flowchart. Compensations hang on their steps by dotted edges."""
    nodes = {step.name: f"s{index}" for index, step in enumerate(choreography.steps)} | {ORIGIN_NAME: "origin"}
    found = list(edges(choreography))
    followed = {source for source, _, _ in found}
    lines = ["flowchart LR", f'  origin(["{choreography.name} v{choreography.version}"])', '  sink(["end"])']
    lines += [f"  %% the rest is unknown: {unknown}"] if unknown else []
    for step in choreography.steps:
        kinds = "" if _kinds(step) == "-" else f"<br/><i>{_kinds(step)}</i>"
        lines.append(f'  {nodes[step.name]}["<b>{step.name}</b><br/>{step.owner or "?"}{kinds}"]')
    lines += [f'  {nodes[source]} -- "{event}" --> {nodes[reader]}' for source, event, reader in found]
    for step in choreography.steps:
        node = nodes[step.name]
        if step.name not in followed:
            label = f'-- "{_publishes(step)}" -->' if step.publishes else "-->"
            lines.append(f"  {node} {label} sink")
        if step.undo is not Undo.NONE:
            lines.append(f'  {node} -. "{_undo(step)}" .-> undo_{node}{{{{"undo {step.name}"}}}}')
    return "\n".join(lines)


def as_document(choreography: Choreography, unknown: str = "") -> dict[str, Any]:
    """The canonical form, with what can be derived from it. Without its hash where some of it is unknown."""
    layer_of = {step.name: number for number, layer in enumerate(layers(choreography), start=1) for step in layer}
    deadline = choreography.deadline_after
    form = choreography.canonical()
    return {
        "schema": schema("graph"),
        **form,
        "definition": None if unknown else choreography.definition,
        "unknown": unknown or None,
        "deadline_ms": None if deadline is None else round(deadline.total_seconds() * 1000),
        "steps": [{**step, "layer": layer_of[step["name"]]} for step in form["steps"]],
        "edges": [
            {"from": source, "event": [event.name, event.version], "to": reader} for source, event, reader in edges(choreography)
        ],
    }
