"""What is wrong with a choreography is said to the letter, with the step that it is about and what to do: people act on these words."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from saga_choreo.core.wellformed import Finding, findings
from saga_choreo.model.choreography import Choreography, ChoreographyStep, all_of


def _step(name: str, *reads: str, publishes: tuple[str, ...] = ()) -> ChoreographyStep:
    made = ChoreographyStep(name).owned_by("s").with_compensation()
    made = made.on_event(all_of(*reads) if len(reads) > 1 else reads[0]) if reads else made
    return made.publish_event(*publishes) if publishes else made


def _of(*steps: ChoreographyStep) -> Choreography:
    return Choreography("c").starts_with("e.start").step(*steps)


_NO_OWNER = ChoreographyStep("a").on_event("e.start").with_compensation()
_GONE = "which no step publishes, so it would wait for ever"
_NEWER = replace(_step("b", "e.a"), reads=(replace(_step("b", "e.a").reads[0], version=2),))
_KNOT = (_step("b", "e.x", "e.y", publishes=("e.z",)), _step("c", "e.z", publishes=("e.x", "e.y")))
_FAR = "and the way there does not begin with 'e.start v1'; connect it or take it out"


@pytest.mark.parametrize(
    ("choreography", "wanted"),
    [
        (
            Choreography("c"),
            [
                Finding("ST1", "", "choreography 'c' has no start event; add .starts_with(...)"),
                Finding("ST2", "", "choreography 'c' has no steps; add .step(...)"),
            ],
        ),
        (_of(_NO_OWNER), [Finding("WF1", "a", "step 'a' has no owner; add .owned_by(...)")]),
        (_of(_step("a")), [Finding("ST3", "a", "step 'a' reacts to nothing and would never run; add .on_event(...)")]),
        (
            _of(_step("a", "e.start"), _step("b", "e.gone")),
            [Finding("ST3", "b", f"step 'b' waits for 'e.gone v1', {_GONE}; correct the name or add the step that publishes it")],
        ),
        (
            _of(_step("a", "e.start", publishes=("e.a",)), _NEWER),
            [Finding("ST3", "b", f"step 'b' waits for 'e.a v2', {_GONE}; published is e.a v1: correct the version")],
        ),
        (
            _of(_step("a", "e.start"), *_KNOT),
            [
                Finding("WF1", "b", f"step 'b' cannot be reached from the start event: it waits for 'e.x v1', 'e.y v1', {_FAR}"),
                Finding(
                    "WF1", "b", "the steps form a cycle: b -> c -> b; each waits for the one before: take one of these edges out"
                ),
                Finding("WF1", "c", f"step 'c' cannot be reached from the start event: it waits for 'e.z v1', {_FAR}"),
            ],
        ),
    ],
)
def test_what_is_missing_or_out_of_reach_is_named(choreography: Choreography, wanted: list[Finding]) -> None:
    assert list(findings(choreography)) == wanted


def test_a_step_that_is_there_twice_is_named() -> None:
    """Only a definition that somebody else has written down can have one."""
    twice = replace(_of(_step("a", "e.start")), steps=(_step("a", "e.start"), _step("a", "e.start")))
    assert Finding("WF1", "a", "step 'a' is there twice; give each step its own name") in findings(twice)


def test_a_deadline_that_cannot_be_kept_is_told_with_the_numbers() -> None:
    late = replace(_of(_step("a", "e.start", publishes=("e.a",)), _step("b", "e.a")), deadline_after=timedelta(seconds=10))
    assert list(findings(late, {"a": 6.0, "b": 5.0}, timedelta(seconds=5))) == [
        Finding(
            "WF7",
            "",
            "the deadline 0:00:10 is longer than the horizon 0:00:05: messages of a saga that still runs would be refused as stale; "
            "shorten the deadline or lengthen the horizon",
        ),
        Finding(
            "WF7",
            "",
            "the time-outs of a -> b add up to 11 s, more than the deadline of 10 s: a saga could be aborted while every step keeps "
            "its limit; lengthen the deadline or shorten the time-outs",
        ),
    ]
    assert not findings(late, {"a": 6.0, "b": 4.0}, timedelta(seconds=10))
    assert not findings(late, {"a": 9.5}), "a step without a limit adds nothing"
