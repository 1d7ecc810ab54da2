"""Which channels an agent binds: worked out from what it takes part in."""

from __future__ import annotations

from saga_choreo.ports.broker import Topology
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.part import Part

__all__ = ["topology_of"]


def topology_of(part: Part, catalog: Catalog, agent: str, *, serves: bool) -> Topology:
    """What the steps of all known definitions react to, and what this code reacts to: a definition that is assembled later
    needs no other channel."""

    plans = [known.plan for known in catalog.all()]
    steps, opened = part.open_steps, part.open
    read = {event for plan in plans for event in plan.events_read_by(part.service)}
    known = {ref.name for plan in plans for s in (plan.origin, *plan.steps) for ref in s.outputs}
    owners = {owner for plan in plans for owner in plan.owners} | {step.owner for step in steps}
    return Topology(
        service=part.service,
        agent=agent,
        events=tuple(sorted(read | {ref.name for step in steps for ref in step.reads})),
        known_events=tuple(sorted(known | {ref.name for step in steps for ref in (*step.reads, *step.publishes)})),
        owners=tuple(sorted(owners.union(() if opened is None else opened.participants))),
        receives=serves,
    )
