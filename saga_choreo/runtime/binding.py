"""Which channels a service needs: what its agents bind when they open the broker, and what `saga-choreo broker` plans for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from saga_choreo.core.graph import Plan
from saga_choreo.model.choreography import ChoreographyStep
from saga_choreo.ports.broker import Topology

__all__ = ["binding_of"]


def binding_of(
    service: str,
    plans: Sequence[Plan],
    steps: Sequence[ChoreographyStep] = (),
    participants: Iterable[str] = (),
    *,
    agent: str = "",
    create: bool = True,
    receives: bool = True,
    plain: Iterable[str] = (),
) -> Topology:
    """What the steps of whole definitions (`plans`) react to, and what `steps` react to that are not part of one yet: a definition
    that is assembled later needs no other channel. `plain` events come from services without an agent."""
    read = {event for plan in plans for event in plan.events_read_by(service)}
    known = {ref.name for plan in plans for step in (plan.origin, *plan.steps) for ref in step.outputs}
    owners = {owner for plan in plans for owner in plan.owners} | {step.owner for step in steps}
    return Topology(
        service=service,
        agent=agent,
        events=tuple(sorted(read.union(plain) | {ref.name for step in steps for ref in step.reads})),
        known_events=tuple(sorted(known.union(plain) | {ref.name for step in steps for ref in (*step.reads, *step.publishes)})),
        owners=tuple(sorted(owners.union(participants))),
        create=create,
        receives=receives,
    )
