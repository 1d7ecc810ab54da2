"""A choreography put together from what its participants declare, instead of one shared object."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from saga_choreo.model.choreography import AnyEvent, Choreography, ChoreographyStep
from saga_choreo.runtime.declare.declarations import Declarations

__all__ = ["assemble"]


def assemble(
    name: str,
    version: int,
    start: AnyEvent,
    participants: Sequence[Declarations | Sequence[ChoreographyStep]],
    deadline: timedelta | None = None,
) -> Choreography:
    """The same value, and hash, as the builder makes of the same steps. Whether it is well-formed, `core.wellformed` says.

    Raises DefinitionError when a participant's declarations have faults, or two steps have the same name.
    """
    choreography = Choreography(name, version=version).starts_with(start)
    for participant in participants:
        steps = participant.definitions() if isinstance(participant, Declarations) else participant
        choreography = choreography.step(*steps)
    return choreography if deadline is None else choreography.deadline(deadline)
