"""Streams and durables as a plan, and what the server has against it: for `saga-choreo broker`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from saga_choreo.ports import Difference, Planned, Topology
from saga_choreo_nats import topology as channels
from saga_choreo_nats.names import Names
from saga_choreo_nats.options import Options

__all__ = ["plan", "survey"]


def plan(names: Names, options: Options, topologies: Sequence[Topology]) -> list[Planned]:
    streams = [Planned("stream", str(wanted.name), _shown(wanted)) for wanted in channels.streams(names, options)]
    durables = [
        Planned(
            "durable",
            f"{stream}/{names.durable(topology.service)}",
            {
                "filter_subjects": subjects,
                "ack_policy": "explicit",
                "ack_wait": options.ack_wait,
                "max_deliver": -1,
                "priority_groups": [channels.GROUP],
                "priority_policy": "prioritized (server 2.12 and newer)",
            },
        )
        for topology in topologies
        for stream, subjects in channels.bindings(names, topology).items()
    ]
    return streams + durables


def _shown(wanted: StreamConfig) -> dict[str, str | int | float | list[str]]:
    return {
        "subjects": list(wanted.subjects or ()),
        "retention": channels.word(wanted.retention),
        "storage": channels.word(wanted.storage),
        "discard": channels.word(wanted.discard),
        "max_age": wanted.max_age or 0,
        "max_bytes": wanted.max_bytes or -1,
        "max_msgs_per_subject": wanted.max_msgs_per_subject or -1,
        "replicas": wanted.num_replicas or 1,
    }


async def survey(js: Any, names: Names, options: Options, topologies: Sequence[Topology]) -> list[Difference]:
    found: list[Difference] = []
    for wanted in channels.streams(names, options):
        found += await _of_stream(js, wanted)
    planned: dict[str, dict[str, list[str]]] = {}
    for topology in topologies:
        for stream, subjects in channels.bindings(names, topology).items():
            planned.setdefault(stream, {})[names.durable(topology.service)] = subjects
    for stream in (names.events, names.control):
        found += await _of_durables(js, stream, planned.get(stream, {}))
    return found


async def _of_stream(js: Any, wanted: StreamConfig) -> list[Difference]:
    name = str(wanted.name)
    try:
        config = (await js.stream_info(name)).config
    except NotFoundError:
        return [Difference("missing", "stream", name)]
    faults = channels.fatal(wanted, config)
    if channels.narrower(wanted, config):
        faults.append(
            f"subjects {config.subjects} or max_age {config.max_age or 0:g} s are too narrow; needed are {wanted.subjects}"
        )
    if (config.num_replicas or 1) < (wanted.num_replicas or 1):
        faults.append(f"it has {config.num_replicas or 1} replicas, planned are {wanted.num_replicas}")
    return [Difference("different", "stream", name, fault) for fault in faults]


async def _of_durables(js: Any, stream: str, planned: dict[str, list[str]]) -> list[Difference]:
    found: list[Difference] = []
    there = await _durables(js, stream)
    for durable, subjects in planned.items():
        name = f"{stream}/{durable}"
        if durable not in there:
            found.append(Difference("missing", "durable", name))
            continue
        found += [
            Difference("different", "durable", name, fault)
            for fault in await channels.durable_faults(js, stream, durable, subjects)
        ]
        unread = sorted(there[durable] - set(subjects))
        if unread:
            found.append(Difference("extra", "durable", name, f"it also reads {unread}, which no step of the service reacts to"))
    extra = sorted(there.keys() - planned.keys())
    return found + [Difference("extra", "durable", f"{stream}/{durable}", "no service that was named owns it") for durable in extra]


async def _durables(js: Any, stream: str) -> dict[str, set[str]]:
    """Durable -> what it reads. The server lists them in pages."""
    found: dict[str, set[str]] = {}
    try:
        while page := await js.consumers_info(stream, offset=len(found)):
            before = len(found)
            for info in page:
                config = info.config
                found[info.name] = set(config.filter_subjects or ([config.filter_subject] if config.filter_subject else ()))
            if len(found) == before:
                break
    except NotFoundError:
        return {}
    return found
