"""What the targets on a command line say together: shared choreographies as they are, and those that several agents make up.

An agent that knows only its own steps shows these; the rest is unknown until the other agents are named too, the origin among
them. Put together as the origin does it at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from saga_choreo.cli.locate import Participant, find_described
from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography
from saga_choreo.runtime.declare.assemble import assemble

__all__ = ["Described", "gather", "warnings_of"]


@dataclass(frozen=True, slots=True)
class Described:
    """A choreography; `unknown` says what of it is not known, empty when all is."""

    choreography: Choreography
    unknown: str = ""


def gather(targets: Sequence[str]) -> list[Described]:
    """Raises ConfigurationError, and DefinitionError when agents contradict each other or declare something wrong."""
    whole: dict[Choreography, None] = {}
    parts: dict[str, dict[str, Participant]] = {}
    for target in targets:
        for found in find_described(target):
            if isinstance(found, Choreography):
                whole[found] = None
            elif found.open_choreography is not None:
                parts.setdefault(found.open_choreography.name, {})[found.name] = found
    return [Described(one) for one in whole] + [_together(name, agents) for name, agents in parts.items()]


def warnings_of(form: Choreography) -> list[str]:
    """What is allowed, and seldom wanted: sagas that nothing ever ends."""
    if form.deadline_after is not None:
        return []
    endless = sorted(repr(step.name) for step in form.steps if step.external and step.deadline_event is None)
    steps = f"; nothing but its own deadline=... would end {', '.join(endless)}, which may wait for the outside" if endless else ""
    return [
        f"there is no deadline: a saga waits for as long as some participant does not answer{steps}; "
        "add .deadline(minutes=...), or declare deadline=... for the steps that wait"
    ]


def _together(name: str, agents: dict[str, Participant]) -> Described:
    opened = [one for agent in agents.values() if (one := agent.open_choreography) is not None and one.start is not None]
    origin = opened[0] if opened else None
    steps = {service: agents[service].own_steps() for service in sorted(agents)}
    if origin is None or origin.start is None:
        form = Choreography(name)
        for own in steps.values():
            form = form.step(*own)
        return Described(form, f"these are the steps of {_listed(steps)} only; name the agent that starts its sagas too")
    strangers = sorted(service for service, own in steps.items() if own and service not in origin.participants)
    if strangers:
        raise DefinitionError(
            f"choreography {name!r} is closed to {_listed(origin.participants)}, and {_listed(strangers)} "
            "declare steps of it; add them to participants=... or do not name them"
        )
    form = assemble(name, origin.version, origin.start, list(steps.values()), origin.deadline_after)
    missing = origin.participants - {service for service, own in steps.items() if own}
    return Described(form, f"the steps of {_listed(missing)} are not among them; name these agents too" if missing else "")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
