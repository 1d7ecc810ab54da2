"""A join as a process: `saga-choreo run tests.scenarios.joining:joiner`. JOINING_PREFIX and JOINING_NOTES come from the test."""

from __future__ import annotations

import json
import os
from pathlib import Path

from saga_choreo import Agent, Choreography, ChoreographyStep, Event, all_of

__all__ = ["Begun", "Left", "Right", "form"]


class Begun(Event, name="joining.begun"):
    pass


class Left(Event, name="left.done"):
    text: str


class Right(Event, name="right.done"):
    text: str


form = (
    Choreography("joining")
    .starts_with(Begun)
    .step(
        ChoreographyStep("go-left").on_event(Begun).publish_event(Left).with_compensation().owned_by("left"),
        ChoreographyStep("go-right").on_event(Begun).publish_event(Right).with_compensation().owned_by("right"),
        ChoreographyStep("meet").on_event(all_of(Left, Right)).with_compensation().owned_by("joiner"),
    )
)


def note(*texts: str) -> None:
    with Path(os.environ["JOINING_NOTES"]).open("a") as file:
        file.write(json.dumps(texts) + "\n")


if "JOINING_PREFIX" in os.environ:
    joiner = Agent("joiner", saga=form, prefix=os.environ["JOINING_PREFIX"])

    @joiner.step("meet")
    async def meet(left: Left, right: Right) -> None:
        note(left.text, right.text)

    @meet.compensation
    async def part() -> None:
        raise AssertionError("nothing is to be undone here")
