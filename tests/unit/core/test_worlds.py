"""Which events can come together at a join, told with the choices of a run that brings them."""

from __future__ import annotations

from typing import Any

from saga_choreo.core.graph import plan_of
from saga_choreo.core.worlds import WORLDS_MAX, JoinFacts, join_facts
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Split, Undo
from saga_choreo.model.event import EventRef

CHOICE: dict[str, Any] = {"split": Split.ONE, "publishes": (EventRef("a.left"), EventRef("a.right"))}


def step(name: str, *reads: str, **fields: Any) -> ChoreographyStep:
    """A step that takes any of what it reads (the start event without any) and publishes `name.done`."""
    events = tuple(EventRef(read) for read in reads) or (EventRef("saga.begun"),)
    known: dict[str, Any] = {"owner": "one", "reads": events, "publishes": (EventRef(f"{name}.done"),), "undo": Undo.LOCAL}
    return ChoreographyStep(name, **(known | fields))


def facts(*steps: ChoreographyStep) -> dict[int, JoinFacts] | None:
    return join_facts(plan_of(Choreography("c").starts_with("saga.begun").step(*steps)), range(len(steps)))


def test_a_branch_that_is_not_taken_leaves_the_other_one_to_come() -> None:
    found = facts(step("a", **CHOICE), step("b", "a.left"), step("c", "a.right"), step("d", "b.done", "c.done"))
    assert found == {number: JoinFacts(number != 3, None) for number in range(4)}


def test_what_follows_a_join_comes_only_if_all_of_it_can() -> None:
    both = (step("a"), step("b"), step("c", "a.done", "b.done", join=Join.ALL), step("d", "c.done"))
    assert facts(*both) == {
        0: JoinFacts(True, None),
        1: JoinFacts(True, None),
        2: JoinFacts(True, (0, 1, ())),
        3: JoinFacts(True, None),
    }
    never = facts(step("a", **CHOICE), step("b", "a.left", "a.right", join=Join.ALL), step("c", "b.done"))
    assert never is not None
    assert never[2] == JoinFacts(False, None)


def test_two_events_that_come_together_are_told_with_the_first_run_that_brings_them() -> None:
    found = facts(
        step("a", **CHOICE), step("b"), step("c"), step("d", "b.done", "c.done"), step("e", "a.left"), step("f", "a.right")
    )
    assert found is not None
    assert found[3] == JoinFacts(True, (0, 1, (("a", "a.left"),)))


def test_a_deadline_that_publishes_an_event_is_one_more_answer() -> None:
    late = {"deadline_event": EventRef("a.late")}
    found = facts(step("a", **late), step("b", "a.done"), step("c", "a.late"), step("d", "a.done", "a.late"))
    assert found == {n: JoinFacts(n != 3, None) for n in range(4)}
    silent = facts(step("a", publishes=(), **late), step("b"), step("c"), step("d", "b.done", "c.done"), step("e", "a.late"))
    assert silent is not None
    assert silent[3].together == (0, 1, (("a", "nothing"),))


def test_eleven_open_choices_of_two_are_judged_and_twelve_are_not() -> None:
    assert WORLDS_MAX == 2**11

    def choices(count: int) -> list[ChoreographyStep]:
        names = [f"s{number:02}" for number in range(count)]
        made = [step(name, split=Split.ONE, publishes=(EventRef(f"{name}.x"), EventRef(f"{name}.y"))) for name in names]
        return [*made, step("t", *(f"{name}.x" for name in names)), step("u", *(f"{name}.y" for name in names))]

    judged = facts(*choices(11))
    assert judged is not None
    assert (judged[11].all_possible, judged[12].all_possible) == (True, True)
    assert facts(*choices(12)) is None
