"""Who comes after whom, also in a choreography that is still wrong."""

from __future__ import annotations

from saga_choreo.core.reach import Reach, published_by, way_round
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Undo
from saga_choreo.model.event import EventRef

BEGUN = EventRef("saga.begun")


def step(name: str, *reads: str, late: bool = False) -> ChoreographyStep:
    """A step that reads what the named steps publish, `name.done`, or the start event."""
    events = tuple(sorted(EventRef(f"{read}.done") for read in reads)) or (BEGUN,)
    deadline = EventRef(f"{name}.late") if late else None
    return ChoreographyStep(
        name, "one", reads=events, publishes=(EventRef(f"{name}.done"),), undo=Undo.LOCAL, deadline_event=deadline
    )


def reach(*steps: ChoreographyStep) -> Reach:
    return Reach(Choreography("c").starts_with(BEGUN).step(*steps))


def test_what_comes_after_a_step_is_everything_that_can_be_reached_from_it() -> None:
    graph = reach(step("d"), step("c", "d"), step("b", "c"), step("a", "b", "d"), step("e"))
    # a, b, c, d, e are 0 to 4.
    assert graph.descendants == [0b00000, 0b00001, 0b00011, 0b00111, 0b00000]
    assert graph.is_before(3, 0)
    assert not graph.is_before(0, 3)
    assert not graph.is_before(3, 4)


def test_an_order_takes_every_step_after_those_it_reads_from() -> None:
    graph = reach(step("d"), step("c", "d"), step("b", "c"), step("a", "b", "d"), step("e"))
    assert graph.order == [3, 4, 2, 1, 0]


def test_a_knot_has_no_order_and_a_shortest_way_round_and_is_not_before_itself() -> None:
    graph = reach(step("a", "c"), step("b", "a"), step("c", "b", "f"), step("d", "b"), step("e", "d"), step("f", "e"))
    assert graph.order is None
    assert way_round(graph, 0) == [0, 1, 2, 0]
    assert way_round(graph, 3) == [3, 4, 5, 2, 0, 1, 3]
    assert not graph.is_before(0, 0)
    assert graph.is_before(0, 1)
    assert graph.is_before(1, 0)


def test_the_way_round_a_step_that_reads_itself_is_that_step() -> None:
    assert way_round(reach(step("a", "a")), 0) == [0, 0]


def test_what_is_published_includes_the_events_of_deadlines() -> None:
    steps = Choreography("c").starts_with(BEGUN).step(step("a", late=True), step("b"))
    assert {ref.name for ref in published_by(steps)} == {"a.done", "a.late", "b.done"}


def test_what_nobody_publishes_is_left_out_and_a_missing_start_stands_in() -> None:
    torn = reach(step("a"), step("b", "a", "lost"))
    assert [edge[1] for edge in torn.steps[1].in_edges] == [EventRef("a.done")]
    headless = Reach(Choreography("c").step(step("a", "b"), step("b")))
    assert [len(one.in_edges) for one in headless.steps] == [1, 0]
    assert headless.step_of(headless.steps[1]).name == "b"


def test_a_chain_named_against_its_direction_is_followed_to_its_end() -> None:
    graph = reach(step("a"), step("e"), step("d", "e"), step("c", "d"), step("b", "c"))
    assert graph.descendants == [0b00000, 0b00000, 0b00010, 0b00110, 0b01110]


def test_a_way_round_does_not_lead_through_the_end_of_the_saga() -> None:
    # x is a last step; the end of the saga must not be taken for the step with the last number, z.
    graph = reach(step("a", "z"), step("b", "a"), step("c", "b"), step("d", "c"), step("x", "a"), step("z", "d"))
    assert way_round(graph, 0) == [0, 1, 2, 3, 5, 0]
