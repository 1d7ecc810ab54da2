"""From what an agent declares to what it brings along: everything is checked and bound once, with all faults at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from saga_choreo.core.wellformed import findings
from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography, Undo
from saga_choreo.ports.store import StoreFeatures
from saga_choreo.runtime.declare.assemble import assemble
from saga_choreo.runtime.declare.bind import BoundStep
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.part import Part

__all__ = ["freeze", "own_steps", "require_external"]


def freeze(
    declarations: Declarations, sagas: Sequence[Choreography | str], release: int, *, own_transactions: bool = False
) -> Part:
    """`own_transactions`: no step shares one. Raises DefinitionError with all faults."""
    service = declarations.owner
    shared = [one for one in sagas if isinstance(one, Choreography) and not one.is_open]
    opened = [Choreography(one) if isinstance(one, str) else one for one in sagas if isinstance(one, str) or one.is_open]
    faults = [fault for form in shared for fault in _shared_faults(form)]
    bound: list[BoundStep] = []
    for form in shared:
        try:
            bound += _bind(declarations, shared, form, complains=not opened)
        except DefinitionError as error:
            faults += error.findings or (str(error),)
    if opened:
        rest = own_steps(declarations, shared)
        try:
            bound += rest.freeze(None)
        except DefinitionError as error:
            faults += error.findings or (str(error),)
        faults += _open_faults(service, rest, opened)
        if not faults and opened[0].start is not None and opened[0].participants == frozenset({service}):
            # Nobody else has a say in it, so what is wrong with it need not wait for the first saga.
            alone = assemble(opened[0].name, opened[0].version, opened[0].start, [rest])
            faults += [f"{finding.code}: {finding.message}" for finding in findings(alone)]
    if not sagas:
        faults.append("it takes part in no choreography; pass saga=...")
    if faults:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        raise DefinitionError(f"agent {service!r} cannot start; {len(faults)} to correct:{listed}", faults)
    if own_transactions:
        bound = [one.with_options(own_transaction=True) for one in bound]
    return Part(service, bound, shared, opened[0] if opened else None, release)


def require_external(part: Part, features: StoreFeatures) -> None:
    """A store without a transaction for the steps' own writes has external steps only. Raises DefinitionError with all faults."""
    if features.user_transaction:
        return
    faults: list[str] = []
    for step in part.own_steps:
        if not step.external:
            faults.append(f"step {step.name!r} is a plain one, which writes through ctx.tx; declare it external=True")
        if step.undo is Undo.LOCAL:
            faults.append(f"the compensation of step {step.name!r} is a plain one; declare it external=True")
    if faults:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        raise DefinitionError(
            f"agent {part.service!r} cannot start on its {features.name} store, which has no transaction that a step could write in "
            f"(PostgreSQL and SQLite have); {len(faults)} to correct:{listed}",
            faults,
        )


def own_steps(declarations: Declarations, shared: Iterable[Choreography]) -> Declarations:
    """The declared steps that are in no shared choreography: those of the one to be assembled."""
    named = {step.name for form in shared for step in form.steps}
    rest = Declarations(declarations.owner)
    rest.steps = [step for step in declarations.steps if step.name not in named]
    return rest


def _bind(declarations: Declarations, shared: Sequence[Choreography], form: Choreography, *, complains: bool) -> list[BoundStep]:
    """A handler that is in none of several choreographies is complained of with the first."""
    everywhere = {step.name for one in shared for step in one.steps}
    here = {step.name for step in form.steps}
    complains = complains and form is shared[0]
    part = Declarations(declarations.owner)
    part.steps = [s for s in declarations.steps if s.name in here or (complains and s.name not in everywhere)]
    return part.freeze(form)


def _shared_faults(form: Choreography) -> Iterator[str]:
    for finding in findings(form):
        yield f"{finding.code}: {finding.message}"
    if form.participants and form.participants != frozenset(form.owners):
        yield (
            f"choreography {form.name!r} names the participants {_listed(form.participants)}, and its steps are owned by "
            f"{_listed(form.owners)}; take participants=... out (the steps say it), or take the steps out (to have it assembled)"
        )


def _open_faults(service: str, rest: Declarations, opened: Sequence[Choreography]) -> Iterator[str]:
    if len(opened) > 1:
        yield (
            f"it takes part in {len(opened)} choreographies without their steps ({_listed(one.name for one in opened)}), and "
            "nothing says which of its steps are in which; pass all but one of them as shared Choreography objects"
        )
    form = opened[0]
    if form.start is None and not rest.steps:
        yield f"it declares no step of choreography {form.name!r}; add one with @agent.step"
    if form.start is not None and rest.steps and service not in form.participants:
        yield f"it declares steps of choreography {form.name!r} and is not in its participants; add {service!r} to participants=..."
    if service in form.participants and not rest.steps:
        yield (
            f"it is in the participants of choreography {form.name!r} and declares no step of it; add one with @agent.step, or "
            f"take {service!r} out of participants=... (who only starts sagas is none)"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
