"""The family of graphs that sagas are drawn from, in a small notation, and how one becomes a choreography.

A word is a step: `c<a&b` reads the events of a and b, all of them (`&`), any (`|`), or one of branches that exclude each other
(`^`). `a!x/y` publishes one of two events, `a!x+y` some of them, `a!x,y` both; `b<a.x` reads one of them. Marks behind the name:
`?` optional, `*` the pivot, `~` retriable, `@` an external step whose own deadline publishes its last event.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from saga_choreo.core.wellformed import findings
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Split, Undo, all_of, any_of, one_of
from saga_choreo.testing.simulator.streams import Stream

__all__ = ["SHAPES", "choreography_of", "random_choreography"]

SHAPES: dict[str, str] = {
    "single": "a<start",
    "chain": "a<start b<a c<b d<c",
    "short chain": "a<start b<a",
    "fork": "a<start b<a c<a d<a",
    "diamond": "a<start b<a c<a d<b&c",
    "ladder": "a<start b<a c<a d<b&c e<c f<d&e",
    "two roots": "a<start b<start c<a&b",
    "w": "a<start b<start c<a d<a&b e<b",
    "exclusive": "a!x/y<start b<a.x c<a.y d<b^c",
    "exclusive, any": "a!x/y<start b<a.x c<a.y d<b|c",
    "exclusive and a root": "a!x/y<start s<start b<a.x c<a.y j<b|s",
    "subset": "a!x+y+z<start b<a.x c<a.y d<a.z e<b|c|d",
    "fan-out": "a!x,y,z<start b<a.x c<a.y d<a.z e<b&c&d",
    "two events, one reader": "a!x,y<start b<a.x&a.y c<b",
    "optional": "a<start b?<a c<a d<b|c",
    "optional under all": "a<start b?<a c<a d<b&c",
    "optional in a chain": "a<start b?<a c<b",
    "pivot": "a<start p*<a c~<p d~<p",
    "pivot after a join": "a<start b<start p*<a&b c~<p",
    "pivot beside": "a<start p*<a q~<a c~<p&q",
    "deadline": "a@!x/late<start b<a.x c<a.late d<b^c",
    "deadline after a join": "a<start b<start c@!x/late<a&b d<c.x e<c.late f<d^e",
}
_WORD = re.compile(r"([a-z])([?*~@]*)(?:!([a-z/+,]+))?<(.+)")
_ORDER = {"&": all_of, "|": any_of, "^": one_of}


def _event(text: str) -> str:
    return "sim.started" if text == "start" else f"sim.{text.replace('.', '-')}"


def _step(word: str) -> ChoreographyStep:
    found = _WORD.fullmatch(word)
    assert found is not None, f"{word!r} is not in the notation of shapes"
    name, marks, events, reads = found.groups()
    sign = next((one for one in _ORDER if one in reads), "|")
    step = ChoreographyStep(f"step-{name}").on_event(_ORDER[sign](*map(_event, reads.split(sign))))
    step = step.kind(optional="?" in marks, pivot="*" in marks, retriable="~" in marks, external="@" in marks)
    names = re.split(r"[/+,]", events) if events else []
    outputs = [_event(f"{name}.{one}") for one in names] or [_event(name)]
    if "@" in marks:
        return step.publish_event(*outputs[:-1]).on_deadline(outputs[-1]).with_compensation()
    split = Split.ONE if "/" in (events or "") else Split.SOME if "+" in (events or "") else Split.ALL
    step = step.publish_event(*outputs, split=split)
    return step if step.pivot else step.with_compensation(f"undo.{name}")


def choreography_of(notation: str, owners: Sequence[str], stream: Stream, name: str = "drawn") -> Choreography:
    """The graph, with random owners and kinds of steps."""
    choreography = Choreography(name).starts_with("sim.started")
    words = notation.split()
    while True:
        steps = [_decorated(_step(word), stream).owned_by(stream.pick(owners)) for word in words]
        built = choreography.step(*steps)
        if not findings(built):
            return built


def _decorated(step: ChoreographyStep, stream: Stream) -> ChoreographyStep:
    undo, external, read_only, optional, silent = (stream.random() for _ in range(5))
    if step.deadline_event is None and external < 0.3:
        step = step.kind(external=True)
    if undo < 0.25 and step.undo is not Undo.NONE:
        step = step.with_compensation(step.undo_event, external=True)
    if read_only < 0.08 and not step.external and not step.pivot:
        step = replace(step, undo=Undo.NONE, undo_event=None).kind(read_only=True)
    if optional < 0.05 and not step.pivot and not step.retriable:
        step = step.kind(optional=True)
    return replace(step, undo_event=None) if silent < 0.5 else step


def random_choreography(stream: Stream, owners: Sequence[str], shape: str = "", name: str = "drawn") -> Choreography:
    """One of the family; `shape` names one."""
    drawn = stream.pick(tuple(SHAPES))
    return choreography_of(SHAPES[shape or drawn], owners, stream, name)
