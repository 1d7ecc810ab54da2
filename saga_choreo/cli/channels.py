"""What `saga-choreo broker` does: from apps to topologies, from these to a plan, a survey and declarations.

A broker whose adapter does not plan is opened and closed for each service instead: its plan names channels, and its check says all
that it has against a service in one sentence.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace

from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.locate import Participant, app_or_setting, find_services
from saga_choreo.cli.output import Output, emit_rows, schema, talk
from saga_choreo.core.graph import plan_of
from saga_choreo.errors import ConfigurationError
from saga_choreo.model.choreography import Choreography
from saga_choreo.ports import Broker, Difference, Planned, Planning, Topology
from saga_choreo.runtime.binding import binding_of
from saga_choreo.runtime.plugins import make_broker
from saga_choreo.runtime.settings import Settings, read_settings

__all__ = ["apply_and_check", "check", "show_plan", "topologies_of"]


def topologies_of(targets: Sequence[str]) -> tuple[list[Topology], str]:
    """One per service, and the prefix that the agents among them have. Raises ConfigurationError where they have several."""
    wanted: dict[str, Topology] = {}
    prefixes: set[str] = set()
    for target in targets:
        for found in find_services(target):
            if isinstance(found, Choreography):
                plan = plan_of(found)
                made = [binding_of(owner, [plan]) for owner in plan.owners]
            else:
                made = [_of_agent(found)]
                prefixes.add(found.prefix)
            for one in made:
                wanted[one.service] = _together(wanted.get(one.service), one)
    if len(prefixes) > 1:
        raise ConfigurationError(f"the agents named have several prefixes: {sorted(prefixes)}; name those of one at a time")
    return list(wanted.values()), prefixes.pop() if prefixes else ""


def _of_agent(agent: Participant) -> Topology:
    opened = agent.open_choreography
    plans = [plan_of(form) for form in agent.choreographies]
    others = () if opened is None else opened.participants
    return binding_of(agent.name, plans, agent.own_steps(), others, plain=agent.plain_events)


def _together(known: Topology | None, more: Topology) -> Topology:
    if known is None:
        return more
    return replace(
        known,
        events=tuple(sorted({*known.events, *more.events})),
        known_events=tuple(sorted({*known.known_events, *more.known_events})),
        owners=tuple(sorted({*known.owners, *more.owners})),
    )


def _read(apps: Sequence[str], broker_url: str | None, prefix: str) -> tuple[Broker, list[Topology], Settings]:
    settings = read_settings(os.environ)
    url = broker_url or settings.broker_url
    if not url:
        raise CliError(ExitCode.USAGE, "no broker was named", hint="give --broker URL or set SAGA_BROKER_URL")
    topologies, own_prefix = topologies_of(apps or (app_or_setting(None),))
    return make_broker(url, prefix=prefix or own_prefix or "saga"), topologies, settings


def show_plan(apps: Sequence[str], broker_url: str | None, prefix: str, out: Output) -> None:
    broker, topologies, _ = _read(apps, broker_url, prefix)
    planned = broker.plan(topologies) if isinstance(broker, Planning) else _channels(topologies)
    rows = [{"schema": schema("planned"), **asdict(one)} for one in planned]
    emit_rows(rows, ("kind", "name", "settings"), out, name="name", known=("schema", "kind", "name", "settings"))


def _channels(topologies: Sequence[Topology]) -> list[Planned]:
    return [Planned("service", one.service, {"reads": [*one.events, f"control.{one.service}", "outcome"]}) for one in topologies]


def check(apps: Sequence[str], broker_url: str | None, prefix: str, out: Output) -> bool:
    """Whether nothing is missing or different."""
    broker, topologies, _ = _read(apps, broker_url, prefix)
    return _tell(asyncio.run(_survey(broker, topologies)), topologies, out)


def apply_and_check(apps: Sequence[str], broker_url: str | None, prefix: str, out: Output) -> bool:
    broker, topologies, settings = _read(apps, broker_url, prefix)
    if settings.read_only:
        raise CliError(ExitCode.NOT_PERMITTED, "nothing is declared: SAGA_READ_ONLY is 1", hint="unset it to change anything")

    async def run() -> list[Difference]:
        if isinstance(broker, Planning):
            await broker.apply(topologies)
        else:
            await _each(broker, topologies, create=True)
        return await _survey(broker, topologies)

    return _tell(asyncio.run(run()), topologies, out)


async def _survey(broker: Broker, topologies: Sequence[Topology]) -> list[Difference]:
    if isinstance(broker, Planning):
        return list(await broker.survey(topologies))
    return await _each(broker, topologies, create=False)


async def _each(broker: Broker, topologies: Sequence[Topology], *, create: bool) -> list[Difference]:
    """Open and close for each service; what the broker says of one that it lacks something for."""
    found: list[Difference] = []
    for topology in topologies:
        try:
            await _visited(broker, lambda one=topology: broker.open(replace(one, agent="broker-command", create=create)))  # type: ignore[misc]  # bound now
        except ConfigurationError as refusal:
            if create:
                raise
            found.append(Difference("missing", "service", topology.service, str(refusal)))
    return found


async def _visited(broker: Broker, opens: Callable[[], Awaitable[None]]) -> None:
    try:
        await opens()
    finally:
        await broker.close()


def _tell(found: Sequence[Difference], topologies: Sequence[Topology], out: Output) -> bool:
    rows = [{"schema": schema("difference"), **asdict(one)} for one in found]
    empty = f"All that {len(topologies)} services need is there."
    emit_rows(
        rows,
        ("verdict", "kind", "name", "message"),
        out,
        name="name",
        known=("schema", "verdict", "kind", "name", "message"),
        empty=empty,
    )
    lacking = [one for one in found if one.verdict in ("missing", "different")]
    if any(one.verdict == "missing" for one in lacking):
        talk("What is missing is declared by: saga-choreo broker apply")
    return not lacking
