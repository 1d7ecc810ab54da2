"""The ten choreographies that the protocol's evidence names. One owner per step: the most interleavings."""

from __future__ import annotations

from collections.abc import Callable

from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, Undo
from saga_choreo.model.event import EventRef

__all__ = ["GRAPHS", "graph_named"]

_START = EventRef("saga.begun")


def _event(name: str) -> EventRef:
    return EventRef(f"{name}.done")


def _step(name: str, *after: str, publishes: tuple[str, ...] = (), **changes: object) -> ChoreographyStep:
    """A local step with a compensation, owned by a service of its own; `after` names the steps or branches it reads."""
    reads = tuple(sorted(_event(source) for source in after)) or (_START,)
    events = tuple(sorted(_event(branch) for branch in publishes)) or (_event(name),)
    fields: dict[str, object] = {
        "owner": f"service-{name}",
        "join": Join.ALL,
        "reads": reads,
        "publishes": events,
        "split": Split.ONE if len(events) > 1 else Split.ALL,
        "undo": Undo.LOCAL,
    }
    return ChoreographyStep(name, **(fields | changes))  # type: ignore[arg-type]  # the changes are literals below


def _graph(name: str, *steps: ChoreographyStep) -> Choreography:
    return Choreography(name).starts_with(_START).step(*steps)


def _chain3() -> Choreography:
    return _graph("chain3", _step("a"), _step("b", "a"), _step("c", "b"))


def _fork() -> Choreography:
    return _graph("fork", _step("a"), _step("b", "a"), _step("c", "a"), _step("d", "a"))


def _diamond() -> Choreography:
    return _graph("diamond", _step("a"), _step("b", "a"), _step("c", "a"), _step("d", "b", "c"))


def _diamond_external() -> Choreography:
    sides = (_step(name, "a", external=True, undo=Undo.EXTERNAL) for name in ("b", "c"))
    return _graph("diamond_external", _step("a"), *sides, _step("d", "b", "c"))


def _diamond_optional() -> Choreography:
    join = _step("d", "b", "c", join=Join.ANY)
    return _graph("diamond_optional", _step("a"), _step("b", "a", optional=True), _step("c", "a"), join)


def _xor_diamond() -> Choreography:
    split = _step("a", publishes=("a-left", "a-right"))
    return _graph("xor_diamond", split, _step("b", "a-left"), _step("c", "a-right"), _step("d", "b", "c", join=Join.ONE))


def _two_roots() -> Choreography:
    return _graph("two_roots", _step("a"), _step("b"), _step("c", "a", "b"))


def _pivot_parallel() -> Choreography:
    pivot = _step("c", "a", "b", pivot=True, undo=Undo.NONE)
    last = _step("d", "c", retriable=True, undo=Undo.NONE)
    return _graph("pivot_parallel", _step("a"), _step("b"), pivot, last)


def _xor_second_root() -> Choreography:
    split = _step("a", publishes=("a-left", "a-right"))
    branches = (_step("b", "a-left"), _step("c", "a-right"))
    # The join does not wait for the other branch: only so can a skipped step that is clear too early do harm.
    return _graph("xor_second_root", split, *branches, _step("d"), _step("e", "c", "d", join=Join.ANY))


def _w_shape() -> Choreography:
    return _graph("w_shape", _step("a"), _step("b"), _step("c", "a"), _step("d", "a", "b"), _step("e", "b"))


GRAPHS: dict[str, Callable[[], Choreography]] = {
    "chain3": _chain3,
    "fork": _fork,
    "diamond": _diamond,
    "diamond_external": _diamond_external,
    "xor_diamond": _xor_diamond,
    "two_roots": _two_roots,
    "pivot_parallel": _pivot_parallel,
    "diamond_optional": _diamond_optional,
    "xor_second_root": _xor_second_root,
    "w_shape": _w_shape,
}


def graph_named(name: str) -> Choreography:
    """One of the ten. Raises KeyError for another name."""
    return GRAPHS[name]()
